"""The seam between solvers and estimators: what a solver's state shows after each iteration."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor

__all__ = ["SolverState", "numbers_of"]


class SolverState(Protocol):
    """Where a solver is after an iteration, and all that it needs to go on from there.

    A solver is a generator, ``solver(objective, theta0, options, *, state=None)``, that yields one of these
    after each iteration (or epoch) and goes on from one that is passed as `state`, bit for bit as if it had
    never stopped. Yielded states are never changed afterwards. Write one as a frozen dataclass whose fields
    are tensors (of any shape), numbers, strings, or dicts and lists of those: a checkpoint holds its fields
    by name, tensors as arrays and the rest as JSON, and hands them back to the class on resuming.

    To plug a solver into an estimator, add a file to `hfcnn.estimator` with a subclass of
    `hfcnn.estimator.solvers.Solver`.

    Attributes
    ----------
    columns : tuple of str
        Class attribute: names of the fields that make a row of `history_`, all numbers, in the order of its
        columns. "iteration", "f" and "seconds" must be among them, and so should "training_accuracy" and
        "passes" be where the solver knows them.
    """

    columns: ClassVar[tuple[str, ...]]

    @property
    def iteration(self) -> int:
        """Iterations done; 0 before the first."""

    @property
    def theta(self) -> Tensor:
        """Parameters that would be kept if the fit ended here: shape (n,)."""

    @property
    def f(self) -> float:
        """Objective at theta; a state where it is not finite ends the fit and is not kept."""

    @property
    def training_accuracy(self) -> float:
        """Share of the training images, or of some of them, that are classified rightly; NaN if not known."""

    @property
    def seconds(self) -> float:
        """Time that the solver itself has taken since the start."""


def numbers_of(state: SolverState) -> dict[str, float]:
    """Row of `history_` that a state makes: its columns by name."""
    return {name: getattr(state, name) for name in state.columns}

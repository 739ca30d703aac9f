"""How a solver is plugged into a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from hfcnn.objective import Objective
from hfcnn.solver import SolverState

__all__ = ["Solver", "newest"]

_State = TypeVar("_State", bound=SolverState)


class Solver(ABC, Generic[_State]):
    """A solver with the settings that a classifier's parameters give it, for one fit.

    To add one, write a subclass in a file of its own, and name it where the classifier chooses
    (`NewtonCNNClassifier._solver`). Nothing else knows which solver runs: history, progress, checkpoints,
    resuming and model files go by `state_type`, its `columns`, and `fitted`. Several processes can share its
    images if all sums over them are those of `Images`, and whatever is drawn is drawn alike in each.

    Parameters
    ----------
    classifier : CNNClassifier
        Its parameters, checked; do not keep it.
    first : int
        Iterations done before this fit: by the fits that it goes on from.
    seed : int
        Seed of whatever the solver draws, different for each value of `first`.

    Attributes
    ----------
    state_type : type
        Class attribute: class of the solver's states.
    last : int
        Iteration after which the fit ends: `first` and the iterations, or epochs, that were asked for.
    """

    state_type: ClassVar[type[Any]]
    last: int

    @abstractmethod
    def __init__(self, classifier: Any, first: int, seed: int) -> None:
        """Take the settings over."""

    @abstractmethod
    def start(self, objective: Objective, theta: Tensor) -> _State:
        """State before the first iteration."""

    @abstractmethod
    def go_on(self, objective: Objective, theta: Tensor, classifier: Any) -> _State:
        """State before the next iteration of a fitted classifier, by its attributes."""

    @abstractmethod
    def states(self, objective: Objective, state: _State) -> Iterator[_State]:
        """Iterate from a state until iteration `last`."""

    @abstractmethod
    def fitted(self, state: _State) -> dict[str, Any]:
        """Fitted attributes that only this solver has, as arrays and numbers: what `go_on` needs.

        A name that is new goes into `hfcnn.persistence.ATTRIBUTES` too: model files hold nothing else.
        """

    @abstractmethod
    def describe(self, objective: Objective) -> list[str]:
        """Say what `verbose` tells about the solver, in a few short parts."""


def newest(classifier: Any, column: str) -> float:
    """Newest entry of a column of a classifier's `history_`; 0 where there is none."""
    values = classifier.history_[column]
    return float(values[-1]) if len(values) else 0.0

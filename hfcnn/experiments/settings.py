"""What one cell of an experiment is: the data, the network, the method and its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from torch import Tensor

from hfcnn.newton import NewtonOptions, NewtonState, newton
from hfcnn.objective import Objective
from hfcnn.sgd import SGDOptions, SGDState, sgd
from hfcnn.stochastic import stochastic
from hfcnn.stochastic_state import StochasticOptions, StochasticState

__all__ = ["ITERATIONS", "METHODS", "CellSettings", "CellState", "solve", "state_type"]

CellState: TypeAlias = NewtonState | SGDState | StochasticState

#: Algorithm 1; Algorithm 2; Algorithm 2 without momentum and without decay of the learning rate (Sec. 6.2);
#: and, not the paper's, the stochastic solver.
METHODS = ("newton", "sg", "sg-plain", "kfac")

#: Iterations or epochs of each method unless they are given; those of the first are the paper's.
ITERATIONS = {"newton": 100, "sg": 1000, "sg-plain": 1000, "kfac": 10}

#: Bytes for kept linearisations: fixed, so that what else runs on the machine cannot change the form of the
#: product, and with it the rounding. Holds the stored Jacobian of 5 % of any of the paper's data sets.
PRODUCT_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class CellSettings:
    """One cell; the defaults are those of Section 6.2.

    Attributes
    ----------
    dataset : str
        Name of the data set, which is that of its file or folder without endings.
    network : {"cnn3", "cnn5"}
        Network of Table 4.
    method : {"newton", "sg", "sg-plain", "kfac"}
        See `METHODS`.
    C : float
        Regularisation in units of l: 0.01 is the paper's 0.01 l.
    sampling_rate : float or None
        Share of the images in S; for Newton only.
    learning_rate : float or None
        Initial rate; for SG only.
    seed : int
        Seed of the initial weights and of the order or choice of images.
    iterations : int
        Newton iterations, epochs of SG, or most epochs of the stochastic solver, which ends where it stalls.
    train_size, test_size : int or None
        Images of a stratified choice; None is all.
    fold : int or None
        If given, train on the other four fifths of the training images and test on this one.
    """

    dataset: str
    network: str = "cnn3"
    method: str = "newton"
    C: float = 0.01
    sampling_rate: float | None = None
    learning_rate: float | None = None
    seed: int = 0
    iterations: int = 100
    train_size: int | None = None
    test_size: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {self.method!r}")
        wanted = (self.method == "newton", self.method.startswith("sg"))
        if (self.sampling_rate is not None, self.learning_rate is not None) != wanted:
            raise ValueError("newton takes a sampling_rate, sg and sg-plain a learning_rate, kfac neither")

    @property
    def name(self) -> str:
        """A file name that tells cells apart."""
        parts = [self.dataset, self.network, self.method, f"C{self.C:g}"]
        if self.sampling_rate is not None:
            parts.append(f"S{self.sampling_rate:g}")
        if self.learning_rate is not None:
            parts.append(f"eta{self.learning_rate:g}")
        parts += [f"it{self.iterations}", f"seed{self.seed}"]
        optional = {"train": self.train_size, "test": self.test_size, "fold": self.fold}
        parts += [f"{key}{value}" for key, value in optional.items() if value is not None]
        return "-".join(parts)

    @property
    def loss(self) -> str:
        """The paper's squared loss, or cross-entropy, the stochastic solver's own."""
        return "cross_entropy" if self.method == "kfac" else "squared"

    @property
    def group(self) -> tuple[Any, ...]:
        """What cells that differ in nothing but the seed have in common."""
        return tuple(value for key, value in asdict(self).items() if key != "seed")


def state_type(settings: CellSettings) -> type[CellState]:
    """Type of the states that `solve` yields."""
    return {"newton": NewtonState, "kfac": StochasticState}.get(settings.method, SGDState)


def solve(
    settings: CellSettings, objective: Objective, theta0: Tensor, state: CellState | None
) -> Iterator[CellState]:
    """Run the cell's method on an objective, yielding its states.

    Parameters
    ----------
    settings : CellSettings
        The cell.
    objective : Objective
        Built alike for every method.
    theta0 : Tensor of shape (n,)
        First parameters.
    state : NewtonState, SGDState, StochasticState or None
        Go on from here.
    """
    if settings.method == "kfac":
        assert state is None or isinstance(state, StochasticState)
        limited = StochasticOptions(epochs=settings.iterations, seed=settings.seed)
        return stochastic(objective, theta0, limited.until_stalled(objective.n_images), state=state)
    if settings.method == "newton":
        assert settings.sampling_rate is not None and (state is None or isinstance(state, NewtonState))
        options = NewtonOptions(
            max_iter=settings.iterations,
            sampling_rate=settings.sampling_rate,
            memory=PRODUCT_MEMORY,
            seed=settings.seed,
        )
        return newton(objective, theta0, options, state=state)
    assert settings.learning_rate is not None and (state is None or isinstance(state, SGDState))
    is_plain = settings.method == "sg-plain"
    sgd_options = SGDOptions(
        learning_rate=settings.learning_rate,
        momentum=0.0 if is_plain else SGDOptions.momentum,
        decay=0.0 if is_plain else SGDOptions.decay,
        max_epochs=settings.iterations,
        seed=settings.seed,
    )
    return sgd(objective, theta0, sgd_options, state=state)

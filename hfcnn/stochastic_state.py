"""Settings of the stochastic solver, and where it is after an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

__all__ = [
    "StochasticOptions",
    "StochasticState",
    "most_epochs",
    "steps_per_epoch",
]

#: Epochs of a large set, and steps of a small one, after which no run of the measurements still gained.
MOST_EPOCHS, MOST_STEPS = 10, 400

#: A run has stalled once f has not fallen by this share in so many epochs, or in so many steps if that takes
#: longer.
STALL, STALLED_EPOCHS, STALLED_STEPS = 0.02, 2, 40


def most_epochs(n_images: int) -> int:
    """Epochs after which to end at the latest: enough for 400 steps, and at least 10.

    Parameters
    ----------
    n_images : int
        Number l of training images.
    """
    return max(MOST_EPOCHS, -(-MOST_STEPS // steps_per_epoch(n_images)))


def steps_per_epoch(n_images: int) -> int:
    """Steps of the first epoch."""
    return max(1, n_images // min(StochasticOptions().batch_size, max(32, n_images // 4)))


@dataclass(frozen=True)
class StochasticOptions:
    """Settings of the stochastic solver. The defaults are measured; `docs/solver.md` says what each bought.

    Attributes
    ----------
    epochs : int
        Passes over the training images, each drawn once a pass.
    tol : float
        Share of f by which it must have fallen since it last did so, or else the epoch counts as stalled.
    patience : float
        Stalled epochs in a row after which to stop; infinite for never.
    batch_size, batch_growth, max_batch_size : int, float, int
        Images of a gradient: `batch_growth` times those seen so far, between the two sizes, and at most a
        quarter of the training images but 32.
    statistics_images, statistics_every : int
        Images of the batch from which the factors are renewed, and steps between.
    inverse_every : int
        Steps between inversions of the factors.
    curvature_images : int
        Images of the batch on which the curvature along the step is measured.
    damping : float
        Damping, as a share of the metric's mean diagonal entry; 1 / C is added.
    momentum : float
        Largest share of the past in the average of the gradients.
    smoothing : float
        Largest share of the past in the averages of slope and curvature.
    relaxation : float
        Multiple of the step at which the model is smallest.
    shortest : float
        Least step, as a multiple of that at which the model would be smallest if the averaged gradient were
        without noise: what keeps the parameters moving where the measured slope has gone to zero. Less on few
        images, in proportion to the batches that they allow.
    halves : bool
        Whether the slope is measured between the gradients of two halves of the batch; otherwise the
        gradient is multiplied with its own direction, and what noise they share counts as slope.
    averaging : float
        eta of the returned average: its newest point has weight (eta + 1) / (k + eta) after k points.
    trust : float
        Most of f that the linear and the quadratic term of a step's model may reach.
    check_images : int
        Most training images on which the averaged parameters are compared between epochs.
    augment : {"shift", "shift+flip"} or None
        How images are changed at random before each use: see `hfcnn.augmentation`.
    seed : int
        Seed of the order of the images and of the draws.
    """

    epochs: int = 10
    tol: float = 0.0
    patience: float = math.inf
    batch_size: int = 256
    batch_growth: float = 0.01
    max_batch_size: int = 4000
    statistics_images: int = 64
    statistics_every: int = 4
    inverse_every: int = 10
    curvature_images: int = 64
    damping: float = 0.1
    momentum: float = 0.9
    smoothing: float = 0.9
    relaxation: float = 2.0
    shortest: float = 1.0
    halves: bool = True
    averaging: float = 8.0
    trust: float = 0.25
    check_images: int = 4096
    augment: str | None = None
    seed: int = 0

    def until_stalled(self, n_images: int) -> StochasticOptions:
        """Build the same options, but that a run also ends once f has stalled, as a default fit does.

        Parameters
        ----------
        n_images : int
            Number l of training images.
        """
        patience = max(STALLED_EPOCHS, -(-STALLED_STEPS // steps_per_epoch(n_images)))
        return replace(self, tol=STALL, patience=patience)


@dataclass(frozen=True)
class StochasticState:
    """Where the solver is after an epoch, and all it needs to go on.

    Attributes
    ----------
    iteration : int
        Epochs done.
    theta : Tensor of shape (n,)
        Parameters to keep: of the averages at the ends of the epochs, the one with the smallest f.
    f, training_accuracy : float
        At theta, over the same `check_images` training images each time; all images where there are no more.
    step : float
        Mean alpha of the epoch's steps.
    gradient_images : int
        Images of the last gradient.
    n_returns : int
        Steps taken back so far, the solver returning to the averaged parameters.
    n_stalled : int
        Epochs since f last fell by a share of `tol`, all small falls since then counted together.
    seconds, passes : float
        Time spent and passes made since the start. A forward and backward pass counts one an image, a
        forward pass a half; so do the factors' statistics and the curvature for the passes they are.
    point, average, momentum : Tensor of shape (n,)
        Newest parameters, their average, and the average of the gradients.
    factors : Tensor
        Running averages of the metric's factors.
    scalars, steps : dict
        The numbers that go with them.
    sampler : dict
        State of the draws.
    """

    columns: ClassVar[tuple[str, ...]] = (
        "iteration",
        "f",
        "step",
        "gradient_images",
        "n_returns",
        "seconds",
        "passes",
        "training_accuracy",
    )

    iteration: int
    theta: Tensor
    f: float
    training_accuracy: float
    step: float
    gradient_images: int
    n_returns: int
    n_stalled: int
    seconds: float
    passes: float
    point: Tensor
    average: Tensor
    momentum: Tensor
    factors: Tensor
    scalars: dict[str, Any]
    steps: dict[str, Any]
    sampler: dict[str, Any]

"""What each part of the stochastic solver buys: accuracy on held-out training images without it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hfcnn.datasets import load
from hfcnn.estimator.parameters import PAPER_C, STOCHASTIC_C
from hfcnn.network import Network
from hfcnn.objective import Objective, outputs
from hfcnn.preprocessing import ImageScaler
from hfcnn.stochastic import stochastic
from hfcnn.stochastic_state import StochasticOptions

__all__ = ["VARIANTS", "Variant", "ablate"]

DEFAULT = StochasticOptions()


@dataclass(frozen=True)
class Variant:
    """The solver with one part changed.

    Attributes
    ----------
    options : StochasticOptions
        Its settings.
    C : float
        C over the number of images.
    is_averaged : bool
        Whether the averaged parameters are looked at, or the newest ones.
    """

    options: StochasticOptions = DEFAULT
    C: float = STOCHASTIC_C
    is_averaged: bool = True


#: Each part changed alone: removed, halved or multiplied.
VARIANTS: dict[str, Variant] = {
    "as it is": Variant(),
    "slope from the whole batch, not between halves": Variant(replace(DEFAULT, halves=False)),
    "no average of the gradients": Variant(replace(DEFAULT, momentum=0.0)),
    "no smoothing of slope and curvature": Variant(replace(DEFAULT, smoothing=0.0)),
    "step where the model is smallest, not twice as far": Variant(replace(DEFAULT, relaxation=1.0)),
    "steps that go to zero with the slope": Variant(replace(DEFAULT, shortest=0.0)),
    "half the least length of a step": Variant(replace(DEFAULT, shortest=DEFAULT.shortest / 2)),
    "newest parameters, not their average": Variant(is_averaged=False),
    "no trust region": Variant(replace(DEFAULT, trust=float("inf"))),
    "a third of the damping": Variant(replace(DEFAULT, damping=DEFAULT.damping / 3)),
    "three times the damping": Variant(replace(DEFAULT, damping=3 * DEFAULT.damping)),
    "statistics from twice the images": Variant(
        replace(DEFAULT, statistics_images=2 * DEFAULT.statistics_images)
    ),
    "batches of 1,024 from the start": Variant(replace(DEFAULT, batch_size=1024)),
    "C = 0.01 l": Variant(C=PAPER_C),
    "C = 0.1 l": Variant(C=0.1),
    "shifts and flips": Variant(replace(DEFAULT, augment="shift+flip")),
    "shifts and flips, C = 0.1 l": Variant(replace(DEFAULT, augment="shift+flip"), C=0.1),
}

#: Share of the training images, the last ones, on which accuracy is measured.
HELD_OUT = 6


class _Enough(Exception):
    """The passes that were asked for are made."""


def ablate(
    data: Path,
    passes: tuple[float, ...],
    seed: int,
    preset: str = "cnn3",
    variants: Mapping[str, Variant] = VARIANTS,
) -> Iterator[list[str]]:
    """Train with each variant from the same start.

    Parameters
    ----------
    data : path
        Data set that `hfcnn.load` reads. Only its training part is used: the last sixth of it is held out.
    passes : tuple of float
        Passes over the images after which accuracy is measured, in order.
    seed : int
        Seed of the first parameters and of the draws.
    preset : str
        Name of the network.
    variants : dict of str to Variant
        What to train with, by title.

    Yields
    ------
    list of str
        The variant, and the held-out accuracy in percent after each of `passes`.
    """
    X, y = load(data)
    middle = len(X) - len(X) // HELD_OUT
    scaler = ImageScaler().fit(X[:middle])
    images, held_out = (torch.from_numpy(scaler.transform(part)) for part in (X[:middle], X[middle:]))
    _, labels = np.unique(y, return_inverse=True)
    classes = torch.from_numpy(labels.astype(np.int64))
    network = Network.preset(preset, X.shape[1:], int(labels.max()) + 1)

    def accuracy(theta: Tensor) -> str:
        found = torch.from_numpy(outputs(network, theta, held_out)).argmax(1)
        return f"{100 * float((found == classes[middle:]).double().mean()):.2f}"

    for title, variant in variants.items():
        objective = Objective(network, images, classes[:middle], "cross_entropy", variant.C * middle)
        cells: list[str] = []

        def after_step(
            made: float,
            newest: Tensor,
            average: Tensor,
            cells: list[str] = cells,
            is_averaged: bool = variant.is_averaged,
        ) -> None:
            while len(cells) < len(passes) and made >= passes[len(cells)]:
                cells.append(accuracy(average if is_averaged else newest))
            if len(cells) == len(passes):
                raise _Enough

        endless = replace(variant.options, epochs=10**9, seed=seed)
        try:
            for _ in stochastic(objective, network.init(seed), endless, after_step=after_step):
                pass
        except _Enough:
            pass
        yield [title, *cells]

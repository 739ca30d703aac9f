"""What each part of the stochastic solver buys: accuracy on held-out training images without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hfcnn.datasets import load
from hfcnn.network import Network
from hfcnn.objective import Objective, outputs
from hfcnn.preprocessing import ImageScaler
from hfcnn.stochastic import stochastic
from hfcnn.stochastic_state import StochasticOptions

__all__ = ["VARIANTS", "ablate"]

DEFAULT = StochasticOptions()

#: Each part changed alone: removed, halved or doubled.
VARIANTS: dict[str, StochasticOptions] = {
    "as it is": DEFAULT,
    "slope from the whole batch, not between halves": replace(DEFAULT, halves=False),
    "no average of the gradients": replace(DEFAULT, momentum=0.0),
    "no smoothing of slope and curvature": replace(DEFAULT, smoothing=0.0),
    "step where the model is smallest, not twice as far": replace(DEFAULT, relaxation=1.0),
    "newest parameters, not their average": DEFAULT,
    "no trust region": replace(DEFAULT, trust=float("inf")),
    "a third of the damping": replace(DEFAULT, damping=DEFAULT.damping / 3),
    "three times the damping": replace(DEFAULT, damping=3 * DEFAULT.damping),
    "statistics from twice the images": replace(DEFAULT, statistics_images=2 * DEFAULT.statistics_images),
    "batches of 1,024 from the start": replace(DEFAULT, batch_size=1024),
}
#: The variant that shows the parameters before they are averaged.
NEWEST = "newest parameters, not their average"

#: Share of the training images, the last ones, on which accuracy is measured.
HELD_OUT = 6


class _Enough(Exception):
    """The passes that were asked for are made."""


def ablate(data: Path, passes: tuple[float, ...], seed: int, preset: str = "cnn3") -> Iterator[list[str]]:
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
    objective = Objective(network, images, classes[:middle], "cross_entropy", 0.01 * middle)

    def accuracy(theta: Tensor) -> str:
        found = torch.from_numpy(outputs(network, theta, held_out)).argmax(1)
        return f"{100 * float((found == classes[middle:]).double().mean()):.2f}"

    for title, options in VARIANTS.items():
        cells: list[str] = []

        def after_step(
            made: float, newest: Tensor, average: Tensor, cells: list[str] = cells, title: str = title
        ) -> None:
            while len(cells) < len(passes) and made >= passes[len(cells)]:
                cells.append(accuracy(newest if title == NEWEST else average))
            if len(cells) == len(passes):
                raise _Enough

        endless = replace(options, epochs=10**9, seed=seed)
        try:
            for _ in stochastic(objective, network.init(seed), endless, after_step=after_step):
                pass
        except _Enough:
            pass
        yield [title, *cells]

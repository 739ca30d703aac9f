"""How strong the regularisation of small data sets is to be: accuracy for C times the number of images."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from hfcnn.datasets import load
from hfcnn.estimator import NewtonCNNClassifier
from hfcnn.estimator.labels import stratified_rows
from hfcnn.network import Conv
from hfcnn.preprocessing import ImageScaler

__all__ = ["RegularizationTrial", "read_trials", "run_trials"]

#: A small network and few products: what is studied is the objective, not how exactly it is minimised.
STUDY_NETWORK = [Conv(8, 5, pool=2), Conv(16, 3, pool=2), Conv(32, 3, pool=2)]
CG_MAX_ITER = 30

#: Images on which a trial is scored, at most: training images that it was not trained on.
N_HELD_OUT = 2000


@dataclass(frozen=True)
class RegularizationTrial:
    """A fit with C times the number of images set to `strength`, scored on training images held out."""

    data: str
    n_images: int
    strength: float
    seed: int
    training_accuracy: float
    accuracy: float
    seconds: float


def run_trials(
    path: Path, data: Path | None, sizes: list[int], strengths: list[float], seeds: int, max_iter: int
) -> Iterator[RegularizationTrial]:
    """Fit a small network to parts of the training images, and append the results to a file of JSON lines.

    Trials that the file holds are not made again.

    Parameters
    ----------
    path : Path
        The file.
    data : Path or None
        Data set in a format of `hfcnn.load`; None is the digits that scikit-learn ships.
    sizes : list of int
        Numbers of training images.
    strengths : list of float
        Values of C times the number of images.
    seeds : int
        Choices of the images, each with a seed of its own.
    max_iter : int
        Newton iterations per fit.
    """
    name = "digits" if data is None else data.stem
    done = {(t.data, t.n_images, t.strength, t.seed) for t in read_trials(path)}
    X, y = _digits() if data is None else load(data, split="train")
    for size in sizes:
        for seed in range(seeds):
            for strength in strengths:
                if (name, size, strength, seed) not in done:
                    trial = _run(name, X, y, size, strength, seed, max_iter)
                    with path.open("a") as file:
                        file.write(json.dumps(asdict(trial)) + "\n")
                    yield trial


def read_trials(path: Path) -> list[RegularizationTrial]:
    """Read what `run_trials` has written; nothing if the file is not there."""
    if not path.exists():
        return []
    return [RegularizationTrial(**json.loads(line)) for line in path.read_text().splitlines()]


def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, 8, 8, 1).astype(np.uint8), y


def _run(
    name: str, X: NDArray[Any], y: NDArray[Any], size: int, strength: float, seed: int, max_iter: int
) -> RegularizationTrial:
    chosen, rest = stratified_rows(y, seed, train=size)
    rest = rest[:N_HELD_OUT]
    scaler = ImageScaler().fit(X[chosen])
    classifier = NewtonCNNClassifier(
        STUDY_NETWORK,
        C=strength / size,
        max_iter=max_iter,
        cg_max_iter=CG_MAX_ITER,
        random_state=seed,
        n_jobs=1,
    )
    start = time.perf_counter()
    classifier.fit(scaler.transform(X[chosen]), y[chosen])
    seconds = time.perf_counter() - start
    accuracy = float(classifier.score(scaler.transform(X[rest]), y[rest]))
    training = float(classifier.history_["training_accuracy"][-1])
    return RegularizationTrial(name, size, strength, seed, training, accuracy, seconds)

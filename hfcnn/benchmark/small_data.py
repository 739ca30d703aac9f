"""Accuracy from a few hundred to a few thousand images, beside scikit-learn's classifiers and Adam."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from hfcnn.benchmark.contest_rivals import CONTESTANTS, Start
from hfcnn.estimator import NewtonCNNClassifier
from hfcnn.estimator.labels import stratified_rows
from hfcnn.experiments.data import load_dataset
from hfcnn.experiments.paper import title
from hfcnn.files import write_atomically
from hfcnn.network import Network
from hfcnn.objective import Objective, outputs
from hfcnn.report import markdown_table, processor

__all__ = ["CLASSIFIERS", "SmallDataCell", "measure_small_data", "write_small_data"]

#: Test images that accuracy is measured on.
TEST_SIZE = 5000

#: Passes of Adam.
ADAM_PASSES = 60.0


@dataclass(frozen=True)
class SmallDataCell:
    """One classifier, fitted to one choice of images.

    Attributes
    ----------
    dataset, classifier : str
        Which.
    size, seed : int
        Number of training images, and the seed of their choice.
    accuracy, seconds : float
        On the test images, and of the fit.
    processor : str
        What it ran on; empty in cells of before it was noted.
    threads : int
        Threads of torch.
    """

    dataset: str
    classifier: str
    size: int
    seed: int
    accuracy: float
    seconds: float
    processor: str = ""
    threads: int = 0

    @property
    def name(self) -> str:
        """A file name that tells cells apart."""
        return f"{self.dataset}-{self.classifier}-{self.size}-seed{self.seed}"


def _of_rows(make: Callable[[int], Any]) -> Callable[[Any, Any, Any, int], NDArray[Any]]:
    """Fit and predict by a classifier that takes an image as a row of features."""

    def predict(X: NDArray[Any], y: NDArray[Any], X_test: NDArray[Any], seed: int) -> NDArray[Any]:
        found: NDArray[Any] = (
            make(seed).fit(X.reshape(len(X), -1), y).predict(X_test.reshape(len(X_test), -1))
        )
        return found

    return predict


def _newton(X: NDArray[Any], y: NDArray[Any], X_test: NDArray[Any], seed: int) -> NDArray[Any]:
    found: NDArray[Any] = NewtonCNNClassifier("cnn3", random_state=seed).fit(X, y).predict(X_test)
    return found


def _adam(X: NDArray[Any], y: NDArray[Any], X_test: NDArray[Any], seed: int) -> NDArray[Any]:
    """Train cnn3 by AdamW at 1e-3, as in the contest, and predict by its averaged parameters."""
    network = Network.preset("cnn3", X.shape[1:], int(y.max()) + 1)
    objective = Objective(
        network, torch.from_numpy(X), torch.from_numpy(y), loss="cross_entropy", C=0.01 * len(y)
    )
    found: list[torch.Tensor] = []

    class Enough(Exception):
        pass

    def show(passes: float, newest: Any, averaged: Any = None) -> None:
        if passes >= ADAM_PASSES:
            found.append(averaged())
            raise Enough

    try:
        CONTESTANTS["adamw"].train(Start(objective, network.init(seed), 1e-3, seed), show)
    except Enough:
        pass
    predicted: NDArray[Any] = outputs(network, found[0], X_test).argmax(1)
    return predicted


#: Every classifier by name: fits images and labels and predicts others.
CLASSIFIERS: dict[str, Callable[[Any, Any, Any, int], NDArray[Any]]] = {
    "NewtonCNNClassifier": _newton,
    "AdamW": _adam,
    "MLPClassifier": _of_rows(lambda seed: MLPClassifier(random_state=seed, max_iter=200)),
    "SVC": _of_rows(lambda seed: SVC(C=10.0)),
    "HistGradientBoosting": _of_rows(lambda seed: HistGradientBoostingClassifier(random_state=seed)),
}


def measure_small_data(
    data: Path, folder: Path, datasets: Sequence[str], sizes: Sequence[int], seeds: int
) -> Iterator[SmallDataCell]:
    """Fit every classifier to every choice of images that has no file yet; yields all cells.

    Parameters
    ----------
    data, folder : Path
        Folders of the data sets and of the cells' files.
    datasets : sequence of str
        Names of data sets.
    sizes : sequence of int
        Numbers of training images, in proportion to their classes.
    seeds : int
        Choices of the training images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for dataset in datasets:
        for seed in range(seeds):
            for size in sizes:
                for name, predict in CLASSIFIERS.items():
                    cell = SmallDataCell(dataset, name, size, seed, 0.0, 0.0)
                    path = folder / f"{cell.name}.json"
                    if not path.exists():
                        cell = _measure(data, cell, predict)
                        write_atomically(path, (json.dumps(asdict(cell)) + "\n").encode())
                    yield SmallDataCell(**json.loads(path.read_text()))


def _measure(data: Path, cell: SmallDataCell, predict: Callable[..., NDArray[Any]]) -> SmallDataCell:
    images = load_dataset(data, cell.dataset)
    chosen, _ = stratified_rows(images.y_train, cell.seed, train=cell.size)
    X_test, y_test = images.X_test[:TEST_SIZE], images.y_test[:TEST_SIZE]
    start = time.perf_counter()
    found = predict(images.X_train[chosen], images.y_train[chosen], X_test, cell.seed)
    seconds = time.perf_counter() - start
    accuracy = float((found == y_test).mean())
    threads = torch.get_num_threads()
    return replace(cell, accuracy=accuracy, seconds=seconds, processor=processor(), threads=threads)


def write_small_data(folder: Path, output: Path) -> Path:
    """Write the page from the cells that there are, and say where it is."""
    groups: dict[tuple[str, str, int], list[SmallDataCell]] = defaultdict(list)
    machines: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        cell = SmallDataCell(**json.loads(path.read_text()))
        groups[cell.dataset, cell.classifier, cell.size].append(cell)
        machines.add(
            f"{cell.processor}, threads of torch: {cell.threads}"
            if cell.processor
            else "a machine that was not noted"
        )
    sizes = sorted({size for _, _, size in groups})
    rows = [
        [title(dataset), name, *(_accuracy(groups.get((dataset, name, size), [])) for size in sizes)]
        for dataset, name in dict.fromkeys((dataset, name) for dataset, name, _ in groups)
    ]
    text = (
        "# Few images\n\n"
        f"Accuracy in per cent on the first {TEST_SIZE:,} test images, mean over choices of the training "
        "images, mean seconds of fitting and predicting, and how many choices, where more than one. "
        "Images are scaled as in the paper. AdamW: rate "
        f"0.001, {ADAM_PASSES:g} passes, averaged parameters; SVC: C = 10; the others with their "
        "defaults.\n\n"
        + markdown_table(["Data set", "Classifier", *(f"{size:,} images" for size in sizes)], rows)
        + f"\nMeasured on {', and '.join(sorted(machines))}.\n"
    )
    path = output / "small-data.md"
    write_atomically(path, text.encode())
    return path


def _accuracy(cells: Sequence[SmallDataCell]) -> str:
    if not cells:
        return "–"
    accuracy, seconds = (
        float(np.mean([getattr(cell, name) for cell in cells])) for name in ("accuracy", "seconds")
    )
    choices = f", {len(cells)} choices" if len(cells) > 1 else ""
    return f"{100 * accuracy:.2f} ({seconds:.1f} s{choices})"

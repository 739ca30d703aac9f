"""What "auto" is to mean on few images: held-out accuracy for each solver, loss, C and size of S."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from hfcnn.datasets import load
from hfcnn.estimator import NewtonCNNClassifier
from hfcnn.estimator.labels import stratified_rows
from hfcnn.report import markdown_table

__all__ = ["Choice", "ChoiceTrial", "choices_table", "read_trials", "run_trials"]

#: Images on which a trial is scored, at most: training images that it was not trained on.
N_HELD_OUT = 2000


@dataclass(frozen=True)
class Choice:
    """Parameters that are compared.

    Attributes
    ----------
    solver, loss : str
        Those of `NewtonCNNClassifier`.
    strength : float
        C times the number of images.
    subset : int
        Images in the subset S of a Newton iteration; 0 is `sampling_rate` "auto".
    """

    solver: str
    loss: str
    strength: float
    subset: int = 0


@dataclass(frozen=True)
class ChoiceTrial:
    """A fit, scored on training images held out; seconds are those of the processor, on one thread."""

    data: str
    n_images: int
    seed: int
    choice: Choice
    training_accuracy: float
    accuracy: float
    seconds: float


def run_trials(
    path: Path, data: Path | None, sizes: Sequence[int], choices: Sequence[Choice], seeds: int, max_iter: int
) -> Iterator[ChoiceTrial]:
    """Fit the default network to parts of the training images, and append results to a file of JSON lines.

    Trials that the file holds are not made again.

    Parameters
    ----------
    path : Path
        The file.
    data : Path or None
        Data set in a format of `hfcnn.load`; None is the digits that scikit-learn ships.
    sizes : sequence of int
        Numbers of training images.
    choices : sequence of Choice
        What is compared.
    seeds : int
        Choices of the images, each with a seed of its own.
    max_iter : int
        Iterations of Newton-CG.
    """
    name = "digits" if data is None else data.stem
    done = {(t.data, t.n_images, t.seed, t.choice) for t in read_trials(path)}
    X, y = _digits() if data is None else load(data, split="train")
    for size, seed, choice in product(sizes, range(seeds), choices):
        if (name, size, seed, choice) not in done:
            trial = _run(name, X, y, size, seed, choice, max_iter)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(trial)) + "\n")
            yield trial


def read_trials(path: Path) -> list[ChoiceTrial]:
    """Read what `run_trials` has written; nothing if the file is not there."""
    if not path.exists():
        return []
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [ChoiceTrial(**row | {"choice": Choice(**row["choice"])}) for row in rows]


def choices_table(trials: Sequence[ChoiceTrial]) -> str:
    """Mean accuracy in per cent, least accuracy and mean seconds of each choice, as a Markdown table.

    Those in a row are over the same choices of images: the seeds that all of them have.
    """
    groups: dict[tuple[str, int], dict[Choice, list[ChoiceTrial]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        groups[trial.data, trial.n_images][trial.choice].append(trial)
    columns = sorted({trial.choice for trial in trials}, key=astuple)
    rows = [
        [data, f"{size:,}", *(_cell(found.get(choice, []), _common(found)) for choice in columns)]
        for (data, size), found in sorted(groups.items())
    ]
    return markdown_table(["data", "images", *map(_title, columns)], rows)


def _title(choice: Choice) -> str:
    subset = f", S {choice.subset}" if choice.subset else ""
    return f"{choice.solver}, {choice.loss}, Cl {choice.strength:g}{subset}"


def _common(found: Mapping[Choice, Sequence[ChoiceTrial]]) -> set[int]:
    """Seeds that every choice of a row has."""
    return set.intersection(*({trial.seed for trial in trials} for trials in found.values()))


def _cell(trials: Sequence[ChoiceTrial], seeds: set[int]) -> str:
    trials = [trial for trial in trials if trial.seed in seeds]
    if not trials:
        return "–"
    accuracies = [100 * trial.accuracy for trial in trials]
    seconds = float(np.mean([trial.seconds for trial in trials]))
    return f"{np.mean(accuracies):.1f} (from {min(accuracies):.1f}; {seconds:.0f} s)"


def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    X, y = load_digits(return_X_y=True)
    return X.reshape(-1, 8, 8, 1).astype(np.uint8), y


def _run(
    name: str, X: NDArray[Any], y: NDArray[Any], size: int, seed: int, choice: Choice, max_iter: int
) -> ChoiceTrial:
    chosen, rest = stratified_rows(y, seed, train=size)
    rest = rest[:N_HELD_OUT]
    classifier = NewtonCNNClassifier(
        solver=choice.solver,
        loss=choice.loss,
        C=choice.strength / size,
        sampling_rate=choice.subset or "auto",
        max_iter=max_iter if choice.solver == "newton-cg" else None,
        random_state=seed,
        n_jobs=1,
    )
    start = time.process_time()
    classifier.fit(X[chosen], y[chosen])
    seconds = time.process_time() - start
    accuracy = float(classifier.score(X[rest], y[rest]))
    training = float(classifier.history_["training_accuracy"][-1])
    return ChoiceTrial(name, size, seed, choice, training, accuracy, seconds)

"""The images of a cell: loaded, cut to a stratified choice, scaled as in Section 6.1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from hfcnn.datasets import load
from hfcnn.estimator.labels import class_indices, stratified_rows
from hfcnn.experiments.settings import CellSettings
from hfcnn.preprocessing import ImageScaler

__all__ = ["N_FOLDS", "ExperimentData", "load_data", "load_dataset"]

#: Folds of SG's cross validation (Sec. 6.2).
N_FOLDS = 5

#: Seed of the choice of images and of the folds: the same for every cell.
CHOICE_SEED = 0


@dataclass(frozen=True)
class ExperimentData:
    """Scaled images and class indices.

    Attributes
    ----------
    X_train, X_test : float32 arrays of shape (l, H, W, C)
        Images.
    y_train, y_test : int64 arrays of shape (l,)
        Classes, counted from 0.
    n_classes : int
        Number of classes.
    """

    X_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    X_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    n_classes: int


def load_data(directory: Path, settings: CellSettings) -> ExperimentData:
    """Load the images of a cell.

    Parameters
    ----------
    directory : Path
        Folder with one file or folder a data set, named like it: ``mnist.npz``, ``svhn/``.
    settings : CellSettings
        The cell: its data set, sizes and fold.

    Raises
    ------
    FileNotFoundError
        If the data set is not there.
    """
    size = (settings.train_size, settings.test_size)
    return _load(_find(directory, settings.dataset), *size, settings.fold)


def load_dataset(
    directory: Path, dataset: str, train_size: int | None = None, test_size: int | None = None
) -> ExperimentData:
    """Load the images of a data set, or a stratified choice of them.

    Parameters
    ----------
    directory : Path
        Folder with one file or folder for each data set, named like it: ``mnist.npz``, ``svhn/``.
    dataset : str
        Its name.
    train_size, test_size : int or None, default=None
        Numbers of images; None is all.

    Raises
    ------
    FileNotFoundError
        If the data set is not there.
    """
    return _load(_find(directory, dataset), train_size, test_size, None)


def _find(directory: Path, dataset: str) -> Path:
    name = dataset.lower()
    found = [path for path in sorted(directory.iterdir()) if path.name.split(".")[0].lower() == name]
    if len(found) != 1:
        has = "nothing" if not found else ", ".join(path.name for path in found)
        raise FileNotFoundError(
            f"{directory}: need one file or folder named {dataset} or {dataset}.*; has {has}"
        )
    return found[0]


@lru_cache(maxsize=1)
def _load(path: Path, train_size: int | None, test_size: int | None, fold: int | None) -> ExperimentData:
    X, y = _choose(*load(path, split="train"), train_size)
    classes, y = np.unique(y, return_inverse=True)
    if fold is None:
        X_test, y_test = _choose(*load(path, split="test"), test_size)
        y_test = class_indices(y_test, classes, f"the test part of {path}")
    else:
        splits = StratifiedKFold(N_FOLDS, shuffle=True, random_state=CHOICE_SEED).split(X, y)
        train, test = list(splits)[fold]
        X_test, y_test, X, y = X[test], y[test], X[train], y[train]
    scaler = ImageScaler().fit(X)
    return ExperimentData(scaler.transform(X), y, scaler.transform(X_test), y_test, len(classes))


def _choose(X: NDArray[Any], y: NDArray[Any], size: int | None) -> tuple[NDArray[Any], NDArray[Any]]:
    if size is None or size >= len(y):
        return X, y
    chosen, _ = stratified_rows(y, CHOICE_SEED, train=size)
    chosen.sort()
    return X[chosen], y[chosen]

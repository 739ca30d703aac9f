"""Arrays in numpy"s npz archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import DatasetError, Parts, Shape, one_set, open_plain
from hfcnn.datasets.pixels import to_uint8

__all__ = ["read_npz"]


def read_npz(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """Arrays X_train, y_train, X_test, y_test, or X, y, or the difference-coded D_train, D_test."""
    with open_plain(path) as file, np.load(file, allow_pickle=False) as arrays:
        keys = {key.lower(): key for key in arrays.files}
        if f"d_{split}" in keys and f"y_{split}" in keys:
            return _decode_differences(arrays[keys[f"d_{split}"]], path), arrays[keys[f"y_{split}"]]
        if f"x_{split}" in keys and f"y_{split}" in keys:
            images, labels = keys[f"x_{split}"], keys[f"y_{split}"]
        elif "x" in keys and "y" in keys:
            one_set(path, split)
            images, labels = keys["x"], keys["y"]
        else:
            raise DatasetError(
                f"{path}: no {split} part among its arrays {', '.join(arrays.files) or '(none)'}; "
                f"expected X_{split} (or D_{split}) and y_{split}, or X and y"
            )
        return to_uint8(arrays[images], path), arrays[labels]


def _decode_differences(differences: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Undo the coding: red and blue minus green, then differences down and across, all modulo 256."""
    if differences.ndim != 4 or differences.shape[1] != 3 or differences.dtype != np.uint8:
        raise DatasetError(
            f"{path}: differences are {differences.dtype} of shape {differences.shape}; expected uint8 "
            "of shape (n, 3, height, width)"
        )
    n, channels, height, width = differences.shape
    images = np.empty((n, height, width, channels), np.uint8)
    for start in range(0, n, 2000):
        block = slice(start, start + 2000)
        planes = np.cumsum(differences[block], axis=2, dtype=np.uint8)
        np.cumsum(planes, axis=3, dtype=np.uint8, out=planes)
        planes[:, 0] += planes[:, 1]
        planes[:, 2] += planes[:, 1]
        images[block] = planes.transpose(0, 2, 3, 1)
    return images

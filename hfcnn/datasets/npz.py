"""Arrays in the npz archives of numpy."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hfcnn.datasets.files import (
    Budget,
    DatasetError,
    MissingPartError,
    Parts,
    Wanted,
    one_set,
    open_plain,
    read_exactly,
    read_plain,
)
from hfcnn.datasets.pickles import text_array
from hfcnn.datasets.pixels import flat_to_images, to_uint8

__all__ = ["IMAGE_ARRAYS", "LABEL_ARRAYS", "array_header", "read_array", "read_npz"]

#: Names of arrays of images and of labels, in small letters: of a set, or with the part before or after.
IMAGE_ARRAYS = ("x", "images", "image", "data")
LABEL_ARRAYS = ("y", "labels", "label", "target", "targets")


def read_npz(path: Path, wanted: Wanted) -> Parts:
    """Arrays X_train, y_train, X_test, y_test, or X, y, or the difference-coded D_train, D_test."""
    budget = wanted.budget
    with open_plain(path, budget) as file:
        seekable: IO[bytes] = file if file.seekable() else io.BytesIO(read_plain(path, budget))
        with zipfile.ZipFile(seekable) as archive:
            keys = {name.lower().removesuffix(".npy"): name for name in archive.namelist()}
            if len(keys) < len(archive.namelist()):
                raise DatasetError(f"{path}: has arrays whose names differ in case at most; expected one")
            images, labels = _names(keys, wanted, path)
            X = _array(archive, keys[images], path, budget)
            y = _array(archive, keys[labels], path, budget) if labels else np.empty(0, np.int64)
    if images.startswith("d_"):
        return _decode_differences(X, path, budget), y
    X = to_uint8(X, path, budget)
    return flat_to_images(X, path, wanted) if X.ndim == 2 else X, y


def _names(keys: dict[str, str], wanted: Wanted, path: Path) -> tuple[str, str | None]:
    """Choose the arrays of images and labels; None for labels that are not needed and not there."""
    split = wanted.split
    of_split = [
        [form.format(name, split) for name in names for form in ("{0}_{1}", "{1}_{0}")]
        for names in (("d", *IMAGE_ARRAYS), LABEL_ARRAYS)
    ]
    chosen = [[name for name in names if name in keys] for names in (*of_split, IMAGE_ARRAYS, LABEL_ARRAYS)]
    images, labels, all_images, all_labels = (names[0] if names else None for names in chosen)
    for names in chosen:
        # scikit-learn's digits hold the same images twice, in rows and in squares
        if len(names) > 1 and names[:2] not in (["images", "data"], [f"d_{split}", f"x_{split}"]):
            raise DatasetError(f"{path}: has {' and '.join(names)}; expected one of them")
    if images and (labels or not wanted.labelled):
        return images, labels
    has_half = images or labels or bool(all_images) != bool(all_labels)
    if all_images and not wanted.labelled:
        return all_images, None
    if all_images and all_labels and not has_half:
        one_set(path, split)
        return all_images, all_labels
    raise (DatasetError if has_half else MissingPartError)(
        f"{path}: no {split} part among its arrays {', '.join(sorted(keys)[:20]) or '(none)'}; "
        f"expected X_{split} (or D_{split}) and y_{split}, or X and y (or images and labels, data and target)"
    )


def _array(archive: zipfile.ZipFile, name: str, path: Path, budget: Budget) -> NDArray[Any]:
    """Read an array as `numpy.load` does, once its header fits what the archive holds and the budget."""
    source, info = f"{path}, array {name.removesuffix('.npy')}", archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DatasetError(
            f"{source}: compressed by method {info.compress_type}; expected stored or deflated"
        )
    with archive.open(info) as member:
        return read_array(member, info.file_size, source, budget)


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of the array in an open `.npy` file, which begins there."""
    if npy.read_magic(file) == (1, 0):
        return npy.read_array_header_1_0(file)
    return npy.read_array_header_2_0(file)


def read_array(file: IO[bytes], n_bytes: int, source: str, budget: Budget) -> NDArray[Any]:
    """Read the array of an open `.npy` file of so many bytes, once its header fits them and the budget.

    Raises
    ------
    DatasetError
        If it does not, or the array is of no numbers and no text.
    """
    shape, is_fortran, dtype = array_header(file)
    size = n_bytes - file.tell()
    if dtype.kind == "O":
        budget.take(size, source)
        return text_array(read_exactly(file, size, source), source, budget).reshape(shape)
    if dtype.kind not in "biufcSU" or dtype.subdtype is not None:
        raise DatasetError(f"{source}: of type {dtype}; expected numbers or text")
    if min(shape, default=0) < 0 or size != dtype.itemsize * math.prod(shape):
        raise DatasetError(
            f"{source}: {size} bytes of numbers; expected those of shape {shape} and type {dtype}"
        )
    budget.take(size, source)
    numbers = np.frombuffer(read_exactly(file, size, source), dtype) if size else np.empty(0, dtype)
    return numbers.reshape(shape, order="F" if is_fortran else "C")


def _decode_differences(differences: NDArray[Any], path: Path, budget: Budget) -> NDArray[np.uint8]:
    """Undo the coding: red and blue minus green, then differences down and across, all modulo 256."""
    if differences.ndim != 4 or differences.shape[1] != 3 or differences.dtype != np.uint8:
        raise DatasetError(
            f"{path}: differences are {differences.dtype} of shape {differences.shape}; expected uint8 "
            "of shape (n, 3, height, width)"
        )
    budget.take(differences.nbytes, path)
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

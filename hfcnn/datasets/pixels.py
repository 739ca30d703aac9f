"""Pixels as uint8, and images of flat rows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import Budget, DatasetError, Shape, Wanted

__all__ = ["check_image_shape", "flat_to_images", "rows_to_images", "to_uint8"]


def check_image_shape(image_shape: tuple[int, ...] | None) -> Shape | None:
    """Check (height, width) or (height, width, channels), and add the one channel.

    Raises
    ------
    DatasetError
        If it is neither of them nor None.
    """
    if image_shape is None:
        return None
    sizes = tuple(image_shape) if isinstance(image_shape, Iterable) else ()
    sizes = sizes if len(sizes) == 3 else (*sizes, 1)
    if len(sizes) != 3 or not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
        raise DatasetError(
            f"image_shape={image_shape!r}: expected positive (height, width) or (height, width, channels)"
        )
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def flat_to_images(rows: NDArray[np.uint8], path: Path, wanted: Wanted) -> NDArray[np.uint8]:
    """Images (n, height, width, channels) of flat rows that hold one pixel after another.

    Raises
    ------
    DatasetError
        If the rows do not fit the shape of the images, or without one are no gray squares.
    """
    n, n_values = rows.shape
    shape, side = wanted.image_shape, math.isqrt(n_values)
    if shape is None and side and side * side == n_values:
        shape = (side, side, 1)
    if shape is None or math.prod(shape) != n_values:
        raise DatasetError(
            f"{path}: {n_values} values per image, which "
            + (f"do not fit image_shape={shape}" if shape else "is no square")
            + "; expected image_shape=(height, width, channels) that holds them, one pixel after another"
        )
    return rows.reshape(n, *shape)


def rows_to_images(rows: Any, n_labels: int, path: Path, wanted: Wanted) -> NDArray[np.uint8]:
    """Images (n, height, width, channels) of dense or sparse rows that hold one channel after another.

    Raises
    ------
    DatasetError
        If there are not as many rows as labels, they do not fit the shape of the images, or these would
        take more than the budget.
    """
    from scipy.sparse import csr_array, issparse

    n, n_features = rows.shape
    image_shape, budget = wanted.image_shape, wanted.budget
    if n != n_labels:
        raise DatasetError(f"{path}: labels of shape ({n_labels},); expected one for each of {n} images")
    if image_shape is None:
        for channels in (1, 3):
            side = math.isqrt(n_features // channels)
            if side and channels * side * side == n_features:
                image_shape = (side, side, channels)
    if image_shape is None or n_features > math.prod(image_shape):
        raise DatasetError(
            f"{path}: {n_features} features an image, which "
            + (f"do not fit image_shape={image_shape}" if image_shape else "is no square, nor three of them")
            + "; expected image_shape=(height, width, channels) that holds them (features that are 0 in "
            "all images may be missing at the end)"
        )
    height, width, channels = image_shape
    budget.take(n * math.prod(image_shape), f"{path}, {n} images of shape {image_shape}")
    if issparse(rows):
        rows = csr_array(rows)
        data = to_uint8(rows.data, path, budget)
        flat = csr_array((data, rows.indices, rows.indptr), shape=(n, math.prod(image_shape))).toarray()
    else:
        flat = np.zeros((n, math.prod(image_shape)), np.uint8)
        flat[:, :n_features] = to_uint8(rows, path, budget)
    return np.ascontiguousarray(flat.reshape(n, channels, height, width).transpose(0, 2, 3, 1))


def to_uint8(values: NDArray[Any], path: Path, budget: Budget) -> NDArray[np.uint8]:
    """Pixels of any type as uint8: integers in 0..255 as they are, multiples of 1/255 times 255."""
    if values.dtype == np.uint8:
        return values
    budget.take(values.size, path)
    result = np.empty(values.shape, np.uint8)
    if values.dtype.kind in "biuf":
        # six printed digits of k/255 are within 2e-4 of k after the multiplication
        if _scaled_into(values, 1, 0.0, result) or _scaled_into(values, 255, 1e-3, result):
            return result
    raise DatasetError(
        f"{path}: pixels of type {values.dtype} that are not bytes; expected integers in 0..255, or "
        "numbers in [0, 1] that are multiples of 1/255"
    )


def _scaled_into(values: NDArray[Any], scale: int, tolerance: float, out: NDArray[np.uint8]) -> bool:
    """Write values times scale to `out`; False if some are not integers in 0..255 within the tolerance."""
    step = max(1, (1 << 20) // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        scaled = values[start : start + step].astype(np.float64) * scale
        rounded = np.rint(scaled)
        with np.errstate(invalid="ignore"):  # inf - inf
            is_byte = (rounded >= 0) & (rounded <= 255) & (np.abs(scaled - rounded) <= tolerance)
        if not is_byte.all():
            return False
        out[start : start + step] = rounded
    return True

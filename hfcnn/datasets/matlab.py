"""MATLAB 5 files: SVHN and simpleNN."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import Budget, DatasetError, Parts, Wanted, no_part, one_set, read_plain
from hfcnn.datasets.pixels import rows_to_images, to_uint8

__all__ = ["read_mat"]


def read_mat(path: Path, wanted: Wanted) -> Parts:
    """A MATLAB file: SVHN (X, y) or simpleNN (Z, y); or a folder of SVHN's train and test files."""
    if path.is_dir():
        file_name = f"{wanted.split}_32x32.mat"
        if not os.path.lexists(path / file_name):
            no_part(path, wanted.split, file_name)
        path = path / file_name
    else:
        one_set(path, wanted.split)
    budget = wanted.budget
    found = _mat_arrays(read_plain(path, budget), path, budget)
    images, labels = found.get("Z", found.get("X")), found.get("y")
    if labels is not None and images is not None and len(images.shape) == 2 and "Z" in found:
        return rows_to_images(images, labels.size, path, wanted), labels
    if labels is not None and images is not None and len(images.shape) in (3, 4) and "X" in found:
        # MATLAB drops the last dimension of a single image
        images = to_uint8(images if images.ndim == 4 else images[..., None], path, budget)
        if _is_svhn(images, labels):
            labels = np.where(labels == 10, 0, labels)
        return images.transpose(3, 0, 1, 2), labels
    shapes = ", ".join(f"{name} of shape {value.shape}" for name, value in found.items())
    raise DatasetError(
        f"{path}: has {shapes or 'no arrays X, y or Z'}; expected SVHN's X (32 x 32 x 3 x n) and y, or "
        "simpleNN's Z (n x pixels) and y"
    )


def _is_svhn(images: NDArray[Any], labels: NDArray[Any]) -> bool:
    """Whether these are house numbers of 32 x 32 pixels, whose label 10 is the digit 0.

    Other data sets have a class 10 of their own.
    """
    is_one_to_ten = labels.size > 0 and labels.min() >= 1 and labels.max() <= 10
    return images.shape[:3] == (32, 32, 3) and bool(is_one_to_ten)


#: Types of the numbers in a MATLAB 5 file (MATLAB writes integers in the smallest type that holds them).
_MAT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MAT_MATRIX, _MAT_COMPRESSED = 14, 15


def _mat_arrays(data: bytes, path: Path, budget: Budget) -> dict[str, Any]:
    """Real arrays X, y and Z of a MATLAB 5 file, dense or sparse.

    Not by `scipy.io.loadmat`, which can crash the process on a damaged file.
    """
    if data.startswith(b"MATLAB 7.3"):
        raise DatasetError(f"{path}: a MATLAB 7.3 (HDF5) file; expected one saved with the option -v7")
    order = {b"IM": "<", b"MI": ">"}[data[126:128]]
    arrays = {}
    for kind, content in _mat_elements(memoryview(data)[128:], order):
        if kind == _MAT_COMPRESSED:
            kind, content = next(_mat_elements(_decompressed(content, order, path, budget), order))
        if kind != _MAT_MATRIX:
            continue
        elements = _mat_elements(content, order)
        (flags,) = struct.unpack(f"{order}I", next(elements)[1][:4])
        shape = np.frombuffer(next(elements)[1], f"{order}i4").tolist()
        name = bytes(next(elements)[1]).decode("latin1")
        is_complex, matlab_class = bool(flags & 0x800), flags & 0xFF
        if name in ("X", "y", "Z") and 5 <= matlab_class <= 15 and not is_complex:
            parts = [np.frombuffer(part, order + _MAT_TYPES[kind]) for kind, part in elements]
            arrays[name] = _mat_sparse(shape, *parts) if matlab_class == 5 else _mat_dense(shape, *parts)
    return arrays


def _decompressed(content: memoryview, order: str, path: Path, budget: Budget) -> memoryview:
    """Decompress an element up to the size that its tag says, once the budget allows for that."""
    stream = zlib.decompressobj()
    tag = stream.decompress(content, 8)
    _, size = struct.unpack(f"{order}2I", tag)
    budget.take(size, f"{path}, a compressed array")
    element = tag + stream.decompress(stream.unconsumed_tail, size or 1)
    if len(element) - 8 < size:
        raise ValueError("truncated")
    stream.decompress(stream.unconsumed_tail, 8)  # padding; then comes the checksum
    if not stream.eof:
        raise ValueError("a compressed array without its end")
    return memoryview(element)


def _mat_elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and contents of the elements that follow one another."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, at)
        start = at + 8
        if kind >> 16:  # at most four bytes lie inside the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data):
            raise ValueError("truncated")
        yield kind, data[start : start + size]
        at = start + size
        if kind != _MAT_COMPRESSED:
            at += -at % 8


def _mat_dense(shape: list[int], numbers: NDArray[Any]) -> NDArray[Any]:
    if min(shape) < 0:
        raise ValueError(f"negative shape {shape}")
    return numbers.reshape(shape, order="F")


def _mat_sparse(shape: list[int], rows: NDArray[Any], starts: NDArray[Any], numbers: NDArray[Any]) -> Any:
    from scipy.sparse import csc_array

    rows, numbers = rows[: starts[-1]], numbers[: starts[-1]]  # room may be left at the end
    # SciPy trusts the indices
    if starts[0] != 0 or (np.diff(starts) < 0).any() or ((rows < 0) | (rows >= shape[0])).any():
        raise ValueError("indices of a sparse array out of range")
    is_first = np.zeros(len(rows) + 1, bool)
    is_first[starts] = True
    if not (is_first[1:-1] | (np.diff(rows) > 0)).all():
        raise ValueError("indices of a sparse array that are not in ascending order")
    native = [array.astype(array.dtype.newbyteorder("=")) for array in (numbers, rows, starts)]
    return csc_array(tuple(native), shape=tuple(shape))

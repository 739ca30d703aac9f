"""NORB and smallNORB, max pooled as in the paper."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import (
    Budget,
    DatasetError,
    Parts,
    Wanted,
    first_existing,
    no_part,
    one_set,
    open_plain,
    read_exactly,
)

__all__ = ["read_norb"]

#: Bytes that are pooled at a time.
POOLED_BYTES = 1 << 24

_NORB_TYPES = {0x1E3D4C55: np.dtype(np.uint8), 0x1E3D4C54: np.dtype("<i4")}


def read_norb(path: Path, wanted: Wanted) -> Parts:
    """NORB images, max pooled by 3 x 3, from a -dat.mat file or from all those of a folder."""
    split = wanted.split
    if path.is_file():
        one_set(path, split)
        files = [path]
    else:
        # by name without .gz; the plain file comes last and so is preferred
        entries = sorted(path.glob("*-dat.mat*"), reverse=True)
        dat = {p.name.removesuffix(".gz"): p for p in entries if p.name.endswith(("-dat.mat", "-dat.mat.gz"))}
        word = "training" if split == "train" else "testing"
        if not any("training" in name or "testing" in name for name in dat):
            one_set(path, split)
            word = ""
        files = [dat[name] for name in sorted(dat) if word in name]
        if not files:
            no_part(path, split, f"files named ...-{word}-...dat.mat")
        _check_numbers(path, files)
    images, labels = [], []
    for file in files:
        stem, dat_ending, _ = file.name.partition("-dat.mat")
        if not dat_ending:
            raise DatasetError(f"{file}: not an images file; expected a name that ends in -dat.mat")
        cat = first_existing(file.parent, [f"{stem}-cat.mat", f"{stem}-cat.mat.gz"])
        if cat is None:
            raise FileNotFoundError(f"{file}: no labels file beside it; expected {stem}-cat.mat")
        images.append(_norb_images(file, wanted.budget))
        labels.append(_norb_labels(cat, wanted.budget))
        if len(images[-1]) != len(labels[-1]):
            raise DatasetError(
                f"{cat}: {len(labels[-1])} labels; expected {len(images[-1])}, one for each image"
            )
    wanted.budget.take(sum(part.nbytes for part in images), path)
    return np.concatenate(images), np.concatenate(labels)


def _check_numbers(path: Path, files: list[Path]) -> None:
    """Refuse numbered files, as NORB's training-01 to training-10 are, of which one is missing."""
    found = [re.search(r"-(\d{1,4})-dat\.mat", file.name) for file in files]
    numbers = {int(match[1]) for match in found if match is not None}
    missing = sorted({*range(1, max(numbers, default=0) + 1)} - numbers)
    if missing:
        raise DatasetError(f"{path}: lacks number {missing[0]} of the files like {files[-1].name}")


def _norb_images(path: Path, budget: Budget) -> NDArray[np.uint8]:
    pooled = []
    with open_plain(path, budget) as file:
        n, channels, height, width = _norb_header(file, path, np.uint8, 4)
        budget.take(n * channels * (height // 3) * (width // 3), path)
        step = max(1, POOLED_BYTES // (channels * height * width))
        for start in range(0, n, step):
            m = min(step, n - start)
            block = np.frombuffer(read_exactly(file, m * channels * height * width, path), np.uint8)
            block = block.reshape(m, channels, height, width)
            # Sec. 6.1: 96 x 96 to 32 x 32; rows and columns that do not fill a window are dropped
            block = block[:, :, : height // 3 * 3, : width // 3 * 3]
            block = np.maximum(np.maximum(block[:, :, ::3], block[:, :, 1::3]), block[:, :, 2::3])
            block = np.maximum(np.maximum(block[..., ::3], block[..., 1::3]), block[..., 2::3])
            pooled.append(block.transpose(0, 2, 3, 1))
        _at_end(file, path)
    return np.concatenate(pooled)


def _norb_labels(path: Path, budget: Budget) -> NDArray[Any]:
    with open_plain(path, budget) as file:
        (n,) = _norb_header(file, path, "<i4", 1)
        budget.take(4 * n, path)
        labels = np.frombuffer(read_exactly(file, 4 * n, path), "<i4")
        _at_end(file, path)
    return labels


def _norb_header(file: IO[bytes], path: Path, dtype: Any, n_dims: int) -> tuple[int, ...]:
    """Read magic, number of dimensions and sizes; sizes are stored for three dimensions at least."""
    magic, found_dims = struct.unpack("<2I", read_exactly(file, 8, path))
    if _NORB_TYPES.get(magic) != np.dtype(dtype) or found_dims != n_dims:
        raise DatasetError(
            f"{path}: magic number {magic:#010x} and {found_dims} dimensions; expected {np.dtype(dtype)} "
            f"in {n_dims}: {'images' if n_dims == 4 else 'labels'} of NORB"
        )
    stored = max(3, n_dims)
    shape = struct.unpack(f"<{stored}I", read_exactly(file, 4 * stored, path))[:n_dims]
    # an upper limit too, lest a damaged header asks for all the memory there is
    if 0 in shape or math.prod(shape[1:]) > 1 << 20:
        raise DatasetError(f"{path}: of shape {shape}; expected images of 1 to {1 << 20} pixels")
    return shape


def _at_end(file: IO[bytes], path: Path) -> None:
    if file.read(1):
        raise DatasetError(f"{path}: longer than its header says; expected the end of the file")

"""IDX: the format of MNIST and its relatives."""

from __future__ import annotations

import math
import re
import struct
from itertools import product
from pathlib import Path

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
    read_up_to,
)

__all__ = ["IMAGES_NAME", "read_idx"]

#: Name of a file of images: of MNIST, or of one of EMNIST's sets.
IMAGES_NAME = r"(?P<set>|.*-)(?:train|test|t10k)-images[-.]idx3-ubyte(?:\.gz)?"

#: What a part is called.
PREFIXES = {"train": ("train",), "test": ("t10k", "test")}


def read_idx(path: Path, wanted: Wanted) -> Parts:
    """IDX images and labels, from a folder or from an images file with its labels file beside it."""
    if path.is_dir():
        images = _images_of_folder(path, wanted.split)
    else:
        if wanted.labelled:
            one_set(path, wanted.split)
        images = path
    match = re.fullmatch(r"(.*)images[-.]idx3-ubyte(?:\.gz)?", images.name)
    if not wanted.labelled:
        return _idx_array(images, "images", 3, wanted.budget), np.empty(0, np.int64)
    if match is None:
        raise DatasetError(
            f"{images}: an IDX file whose labels cannot be found by its name; expected the images file, "
            "named like train-images-idx3-ubyte, with train-labels-idx1-ubyte beside it"
        )
    names = _names(match[1], "labels", 1)
    labels = first_existing(images.parent, names)
    if labels is None:
        raise FileNotFoundError(f"{images}: no labels file beside it; expected {names[0]} (or with .gz)")
    return _idx_array(images, "images", 3, wanted.budget), _idx_array(labels, "labels", 1, wanted.budget)


def _images_of_folder(path: Path, split: str) -> Path:
    """Images file of a part; EMNIST's folders hold several sets, and name the test part otherwise."""
    named = [re.fullmatch(IMAGES_NAME, name) for name in sorted(file.name for file in path.iterdir())]
    sets = {match["set"] for match in named if match}
    if len(sets) > 1:
        raise DatasetError(
            f"{path}: holds the sets {', '.join(sorted(name.rstrip('-') or '(no name)' for name in sets))}; "
            "expected one: give the path of an images file"
        )
    prefixes = [f"{name}{part}-" for name in sets for part in PREFIXES[split]]
    for prefix in prefixes:
        images = first_existing(path, _names(prefix, "images", 3))
        if images is not None:
            return images
    for prefix in prefixes:
        left = first_existing(path, _names(prefix, "labels", 1))
        if left is not None:
            raise FileNotFoundError(f"{left}: no images file beside it; expected {prefix}images-idx3-ubyte")
    no_part(path, split, f"{prefixes[0]}images-idx3-ubyte (or with .gz)")


def _names(prefix: str, what: str, n_dims: int) -> list[str]:
    return [f"{prefix}{what}{dot}idx{n_dims}-ubyte{gz}" for gz, dot in product(("", ".gz"), "-.")]


def _idx_array(path: Path, what: str, n_dims: int, budget: Budget) -> NDArray[np.uint8]:
    magic, header = bytes((0, 0, 8, n_dims)), 4 + 4 * n_dims
    with open_plain(path, budget) as file:
        start = file.read(header)
        if start[:4] != magic:
            raise DatasetError(
                f"{path}: starts with {start[:4].hex() or 'nothing'}; expected {magic.hex()}, IDX {what} of "
                f"unsigned bytes in {n_dims} dimension{'s' * (n_dims > 1)}"
            )
        if len(start) < header:
            raise DatasetError(f"{path}: truncated, {len(start)} bytes; expected a header of {header} bytes")
        shape = struct.unpack(f">{n_dims}I", start[4:])
        size = math.prod(shape)
        dims = " x ".join(map(str, shape))
        budget.take(size, f"{path}, {dims} {what}")
        data, more = read_up_to(file, size), len(file.read(1))
    if more or len(data) < size:
        raise DatasetError(
            f"{path}: {len(data) + more} bytes of {what} after the header{' or more' * more}; expected "
            f"{dims} = {size}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)

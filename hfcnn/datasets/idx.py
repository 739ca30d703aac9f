"""IDX: the format of MNIST and its relatives."""

from __future__ import annotations

import math
import re
import struct
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import DatasetError, Parts, Shape, first_existing, no_part, one_set, open_plain

__all__ = ["read_idx"]


def read_idx(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """IDX images and labels, from a folder or from an images file with its labels file beside it."""
    if path.is_dir():
        prefix = "train" if split == "train" else "t10k"
        names = [f"{prefix}-images{dot}idx3-ubyte{gz}" for gz, dot in product(("", ".gz"), "-.")]
        images = first_existing(path, names)
        if images is None:
            no_part(path, split, f"{names[0]} (or with .gz)")
    else:
        one_set(path, split)
        images = path
    match = re.fullmatch(r"(.*)images[-.]idx3-ubyte(?:\.gz)?", images.name)
    if match is None:
        raise DatasetError(
            f"{images}: an IDX file whose labels cannot be found by its name; expected the images file, "
            "named like train-images-idx3-ubyte, with train-labels-idx1-ubyte beside it"
        )
    names = [f"{match[1]}labels{dot}idx1-ubyte{gz}" for gz, dot in product(("", ".gz"), "-.")]
    labels = first_existing(images.parent, names)
    if labels is None:
        raise FileNotFoundError(f"{images}: no labels file beside it; expected {names[0]} (or with .gz)")
    return _idx_array(images, "images", 3), _idx_array(labels, "labels", 1)


def _idx_array(path: Path, what: str, n_dims: int) -> NDArray[np.uint8]:
    with open_plain(path) as file:
        data = file.read()
    magic, header = bytes((0, 0, 8, n_dims)), 4 + 4 * n_dims
    if data[:4] != magic:
        raise DatasetError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}; expected {magic.hex()}, IDX {what} of "
            f"unsigned bytes in {n_dims} dimension{'s' * (n_dims > 1)}"
        )
    if len(data) < header:
        raise DatasetError(f"{path}: truncated, {len(data)} bytes; expected a header of {header} bytes")
    shape = struct.unpack(f">{n_dims}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise DatasetError(
            f"{path}: {len(data) - header} bytes of {what} after the header; expected "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)

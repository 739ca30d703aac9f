"""LIBSVM text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hfcnn.datasets.files import DatasetError, Parts, Wanted, one_set, open_plain
from hfcnn.datasets.pixels import rows_to_images

__all__ = ["read_svmlight"]


def read_svmlight(path: Path, wanted: Wanted) -> Parts:
    """LIBSVM text: one image a line, a label and index:value pairs."""
    from sklearn.datasets import load_svmlight_file

    one_set(path, wanted.split)
    with open_plain(path, wanted.budget) as file:
        # float32 holds 0..255 exactly and k/255 closely enough to find k
        features, labels = load_svmlight_file(file, dtype=np.float32, zero_based=wanted.zero_based)
    if features.nnz == 0:
        raise DatasetError(f"{path}: labels without any pixel; expected index:value pairs after them")
    return rows_to_images(features, len(labels), path, wanted), labels

"""The real data sets, where they lie beside this checkout."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from dataset_files import idx

from hfcnn.datasets import load

ALL_DATA = Path(__file__).parents[3] / "shared" / "data"

needs_data = pytest.mark.skipif(
    not ALL_DATA.is_dir(), reason="the real data sets are not beside this checkout"
)


@needs_data
@pytest.mark.parametrize(
    ("split", "counts", "images", "labels"),
    [
        (
            "train",
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
        ),
        (
            "test",
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
    ],
)
def test_mnist(split, counts, images, labels):
    X, y = load(ALL_DATA / "mnist.npz", split=split)
    assert np.bincount(y).tolist() == counts
    assert hashlib.md5(idx(X[..., 0])).hexdigest() == images  # of the original, decompressed files
    assert hashlib.md5(idx(y)).hexdigest() == labels


@needs_data
def test_cifar10_test_part():
    X, y = load(ALL_DATA / "cifar10.npz", split="test")
    assert X.shape == (10000, 32, 32, 3)
    assert np.bincount(y).tolist() == [1000] * 10
    # neighbouring pixels of photographs are alike; wrongly decoded ones are not
    assert np.abs(np.diff(X.astype(np.int16), axis=2)).mean() < 15


@needs_data
def test_fashion_mnist_test_part():
    X, y = load(ALL_DATA / "fashion-mnist.npz", split="test")
    assert X.shape == (10000, 28, 28, 1)
    assert np.bincount(y).tolist() == [1000] * 10

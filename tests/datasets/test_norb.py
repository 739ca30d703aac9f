"""NORB."""

import gzip
import struct

import numpy as np
import pytest
from dataset_files import check, draw, norb

from hfcnn.datasets import DatasetError, load

BYTES, INTS = 0x1E3D4C55, 0x1E3D4C54


def write_norb(folder, name, n, seed, size=(96, 96), ending="", compress=bytes):
    pairs, labels = draw(n, 2, *size, seed=seed, classes=5)
    (folder / f"{name}-dat.mat{ending}").write_bytes(compress(norb(pairs, BYTES)))
    (folder / f"{name}-cat.mat{ending}").write_bytes(compress(norb(labels.astype("<i4"), INTS)))
    (folder / f"{name}-info.mat{ending}").write_bytes(compress(norb(np.zeros((n, 4), "<i4"), INTS)))
    height, width = size[0] // 3, size[1] // 3
    X = np.empty((n, height, width, 2), np.uint8)
    for i in range(height):
        for j in range(width):
            X[:, i, j] = pairs[:, :, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].max(axis=(2, 3))
    return X, labels


def test_norb(tmp_path):
    second = write_norb(tmp_path, "norb-training-02", 3, seed=1)
    first = write_norb(tmp_path, "norb-training-01", 2, seed=2, ending=".gz", compress=gzip.compress)
    test = write_norb(tmp_path, "norb-testing-01", 2, seed=3)
    check(load(tmp_path), *(np.concatenate(pair) for pair in zip(first, second, strict=True)))
    check(load(tmp_path, split="test"), *test)
    check(load(tmp_path / "norb-testing-01-dat.mat"), *test)
    check(load(tmp_path / "norb-training-01-dat.mat.gz"), *first)
    with pytest.raises(
        DatasetError, match="expected uint8 in 4: images|expected a name that ends in -dat.mat"
    ):
        load(tmp_path / "norb-training-02-cat.mat")


def test_norb_many_images_and_odd_sizes(tmp_path):
    part = write_norb(tmp_path, "all", 1003, seed=0, size=(7, 10))
    check(load(tmp_path), *part)
    with pytest.raises(DatasetError, match="no test part"):
        load(tmp_path, split="test")


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("dat", lambda data: data[:-1], "dat.mat: truncated; expected 1 bytes more"),
        ("dat", lambda data: data + b"\0", "dat.mat: longer than its header says"),
        ("dat", lambda data: data[:10], "dat.mat: truncated"),
        (
            "dat",
            lambda data: struct.pack("<I", INTS) + data[4:],
            "magic number 0x1e3d4c54 and 4.*expected uint8",
        ),
        ("dat", lambda data: data[:8] + bytes(4) + data[12:], r"of shape \(0, 2, 96, 96\)"),
        ("cat", lambda data: data[:-4], "cat.mat: truncated"),
        ("cat", lambda data: norb(np.zeros(3, "<i4"), INTS), "cat.mat: 3 labels; expected 2"),
        ("cat", lambda data: b"MATLAB 5", "cat.mat: magic number"),
    ],
)
def test_norb_malformed(tmp_path, which, change, message):
    write_norb(tmp_path, "norb-training", 2, seed=0)
    path = tmp_path / f"norb-training-{which}.mat"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DatasetError, match=message):
        load(tmp_path / "norb-training-dat.mat")


def test_norb_without_labels(tmp_path):
    write_norb(tmp_path, "norb-training", 2, seed=0)
    (tmp_path / "norb-training-cat.mat").unlink()
    with pytest.raises(FileNotFoundError, match="expected norb-training-cat.mat"):
        load(tmp_path)

"""MATLAB files."""

import struct

import numpy as np
import pytest
from dataset_files import check, draw, planes
from scipy.io import savemat
from scipy.sparse import csc_array

from hfcnn.datasets import DatasetError, load


@pytest.mark.parametrize("compressed", [False, True])
def test_svhn(tmp_path, compressed):
    X, y = draw(6, 32, 32, 3)
    y[:2] = 0, 9
    for split, images, labels in (("train", X, y), ("test", X[:1], y[:1])):
        content = {
            "X": images.transpose(1, 2, 3, 0),
            "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8),
        }
        savemat(tmp_path / f"{split}_32x32.mat", content, do_compression=compressed)
    check(load(tmp_path), X, y)
    check(load(tmp_path, split="test"), X[:1], y[:1])
    check(load(tmp_path / "test_32x32.mat"), X[:1], y[:1])
    with pytest.raises(DatasetError, match="no test part"):
        load(tmp_path / "train_32x32.mat", split="test")
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(DatasetError, match="no test part; expected test_32x32.mat"):
        load(tmp_path, split="test")


def test_svhn_single_image_as_matlab_writes_it(tmp_path):
    X, _ = draw(1, 32, 32, 3)
    savemat(tmp_path / "one.mat", {"X": X[0], "y": 10})
    check(load(tmp_path / "one.mat"), X, [0])


@pytest.mark.parametrize("form", ["dense", "sparse", "bytes", "scaled", "sparse scaled"])
def test_simplenn(tmp_path, form):
    X, y = draw(6, 5, 5, 3)
    X[:, 0] = 0
    Z = planes(X).astype(np.uint8 if form == "bytes" else np.float64)
    if "scaled" in form:
        Z = np.round(Z / 255, 6)  # as in LIBSVM's mnist.scale
    if "sparse" in form:
        Z = csc_array(Z)
    savemat(tmp_path / "demo.mat", {"y": y[:, None] + 1.0, "Z": Z})
    check(load(tmp_path / "demo.mat"), X, y + 1)


def test_simplenn_image_shape(tmp_path):
    X, y = draw(4, 3, 5, 2)
    savemat(tmp_path / "demo.mat", {"y": y, "Z": planes(X).astype(float)})
    check(load(tmp_path / "demo.mat", image_shape=(3, 5, 2)), X, y)
    for shape in (None, (3, 5)):
        with pytest.raises(DatasetError, match=r"30 features an image, which .*; expected image_shape="):
            load(tmp_path / "demo.mat", image_shape=shape)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"A": 1}, "has no arrays X, y or Z; expected SVHN's X"),
        ({"X": np.zeros((4, 4)), "y": [1, 2]}, r"has X of shape \(4, 4\), y of .*; expected SVHN"),
        ({"X": np.zeros((4, 4, 3, 2)), "y": ["a", "b"]}, r"has X of shape \(4, 4, 3, 2\); expected SVHN"),
        ({"X": np.zeros((4, 4, 3, 2)) + 1j, "y": [1, 2]}, r"has y of shape \(1, 2\); expected SVHN"),
        ({"Z": np.full((2, 4), 0.3), "y": [1, 2]}, "not bytes; expected integers in 0..255, or numbers in"),
        ({"Z": np.zeros((2, 4)), "y": [1, 2, 3]}, "labels of shape"),
    ],
)
def test_mat_malformed(tmp_path, content, message):
    savemat(tmp_path / "file.mat", content)
    with pytest.raises(DatasetError, match=message) as error:
        load(tmp_path / "file.mat")
    assert "file.mat" in str(error.value)


def mat_element(kind, content, order):
    return struct.pack(f"{order}2I", kind, len(content)) + content + bytes(-len(content) % 8)


def mat_matrix(name, array, order, matlab_class=6, indices=()):
    """A matrix written out by hand, for what SciPy does not write."""
    elements = mat_element(6, struct.pack(f"{order}2I", matlab_class, 0), order)
    elements += mat_element(5, struct.pack(f"{order}{array.ndim}i", *array.shape), order)
    elements += struct.pack(f"{order}I4s", 1 << 16 | 1, name)  # a small element
    for numbers in indices:
        elements += mat_element(5, np.asarray(numbers, f"{order}i4").tobytes(), order)
    numbers = array[array != 0] if indices else array
    elements += mat_element(9, numbers.astype(f"{order}f8").tobytes("F"), order)
    return mat_element(14, elements, order)


def mat_header(order):
    return b"MATLAB 5.0 MAT-file".ljust(124) + {"<": b"\0\1IM", ">": b"\1\0MI"}[order]


@pytest.mark.parametrize("order", "<>")
def test_mat_byte_order(tmp_path, order):
    X, y = draw(3, 32, 32, 3)
    y += 1
    parts = mat_matrix(b"X", X.transpose(1, 2, 3, 0), order), mat_matrix(b"y", y[:, None], order)
    (tmp_path / "file.mat").write_bytes(mat_header(order) + b"".join(parts))
    check(load(tmp_path / "file.mat"), X, y % 10)


@pytest.mark.parametrize(
    ("rows", "starts"),
    [([0, 2], [0, 1, 1, 2, 2]), ([0, -1], [0, 1, 1, 2, 2]), ([0, 1], [0, 2, 1, 2, 2]), ([0, 1], [1] * 5)],
)
def test_mat_sparse_indices_out_of_range(tmp_path, rows, starts):
    Z = np.array([[7, 0, 0, 0], [0, 0, 9, 0]])
    for indices in (([0, 1], [0, 1, 1, 2, 2]), (rows, starts)):
        parts = mat_matrix(b"Z", Z, "<", 5, indices), mat_matrix(b"y", np.ones((2, 1)), "<")
        (tmp_path / "file.mat").write_bytes(mat_header("<") + b"".join(parts))
        if rows is not indices[0]:
            check(load(tmp_path / "file.mat"), Z.reshape(2, 2, 2, 1), [1, 1])
    with pytest.raises(DatasetError, match="indices of a sparse array out of range"):
        load(tmp_path / "file.mat")


def test_mat_truncated_and_hdf5(tmp_path):
    savemat(tmp_path / "file.mat", {"X": draw(4, 32, 32, 3)[0].transpose(1, 2, 3, 0), "y": [1, 2, 3, 4]})
    (tmp_path / "half.mat").write_bytes((tmp_path / "file.mat").read_bytes()[:5000])
    with pytest.raises(DatasetError, match="half.mat: damaged"):
        load(tmp_path / "half.mat")
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    with pytest.raises(
        DatasetError, match="new.mat: a MATLAB 7.3 .HDF5. file; expected one saved with .* -v7"
    ):
        load(tmp_path / "new.mat")

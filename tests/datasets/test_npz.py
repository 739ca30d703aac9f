"""npz archives."""

import numpy as np
import pytest
from dataset_files import check, draw

from hfcnn.datasets import DatasetError, load


def test_npz(tmp_path):
    X, y = draw(7, 5, 4, 3)
    path = tmp_path / "set.data"  # the ending does not matter
    with open(path, "wb") as file:
        np.savez(file, X_train=X, y_train=y[:, None], x_test=X[:3, ..., 0] / 255, Y_TEST=y[:3].astype(float))
    check(load(path), X, y)
    check(load(path, split="test"), X[:3, ..., :1], y[:3])
    np.savez(tmp_path / "one.npz", X=X, y=np.array(["a", "b"] * 3 + ["c"]))
    check(load(tmp_path / "one.npz"), X, ["a", "b"] * 3 + ["c"])
    with pytest.raises(DatasetError, match="no test part"):
        load(tmp_path / "one.npz", split="test")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(2)}, "no train part among its arrays a; expected X_train"),
        ({"X": np.zeros((2, 3, 3)), "y": np.zeros(3)}, "labels of shape"),
        (
            {"X": np.zeros((2, 10)), "y": np.zeros(2)},
            "10 values per image, which is no square",
        ),
        ({"X": np.full((2, 3, 3), 0.3), "y": np.zeros(2)}, "pixels of type float64 that are not bytes"),
        ({"X": np.full((2, 3, 3), 256), "y": np.zeros(2)}, "integers in 0..255"),
        ({"X": np.full((2, 3, 3), np.nan), "y": np.zeros(2)}, "not bytes"),
        ({"X": np.full((2, 3, 3), np.inf), "y": np.zeros(2)}, "not bytes"),
        ({"X": np.full((2, 3, 3), -1 / 255), "y": np.zeros(2)}, "not bytes"),
        ({"X": np.ones((2, 3, 3), complex), "y": np.zeros(2)}, "not bytes"),
        ({"X": np.zeros((2, 3, 3)), "y": np.array([0.5, 1])}, "labels that are not integers"),
        ({"X": np.zeros((2, 3, 3)), "y": np.array([np.nan, 1])}, "labels that are not integers"),
        ({"X": np.zeros((2, 3, 3)), "y": np.array([1j, 1])}, "labels of type complex"),
        ({"D_train": np.zeros((2, 4, 4, 3), np.uint8), "y_train": np.zeros(2)}, r"expected uint8 .*\(n, 3,"),
    ],
)
def test_npz_malformed(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(DatasetError, match=message) as error:
        load(tmp_path / "set.npz")
    assert "set.npz" in str(error.value)


def test_npz_truncated(tmp_path):
    X, y = draw(7, 5, 4, 3)
    np.savez_compressed(tmp_path / "set.npz", X=X, y=y)
    data = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "set.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match="damaged"):
        load(tmp_path / "set.npz")


def test_npz_difference_coded(tmp_path):
    X, y = draw(9, 6, 5, 3)
    coded = X.transpose(0, 3, 1, 2).copy()
    coded[:, 0] -= coded[:, 1]
    coded[:, 2] -= coded[:, 1]
    coded = np.diff(np.diff(coded, axis=2, prepend=np.uint8(0)), axis=3, prepend=np.uint8(0))
    np.savez(tmp_path / "set.npz", D_train=coded, y_train=y, D_test=coded[:2], y_test=y[:2])
    check(load(tmp_path / "set.npz"), X, y)
    check(load(tmp_path / "set.npz", split="test"), X[:2], y[:2])

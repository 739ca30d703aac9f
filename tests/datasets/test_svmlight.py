"""LIBSVM text."""

import bz2
import gzip
import lzma

import pytest
from dataset_files import check, draw, svmlight

from hfcnn.datasets import DatasetError, load


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("channels", [1, 3])
def test_svmlight(tmp_path, compress, channels):
    X, y = draw(7, 6, 6, channels)
    X[0] = 0  # a line of a label alone
    X[1:, -1, -1, -1] = 9  # so that the last feature is there
    (tmp_path / "set").write_bytes(compress(svmlight(X, y)))
    check(load(tmp_path / "set"), X, y)
    (tmp_path / "set").write_bytes(compress(svmlight(X, y - 3, lambda v: f"{v / 255:.6g}")))
    check(load(tmp_path / "set"), X, y - 3)


def test_svmlight_row_is_channel_after_channel_by_rows(tmp_path):
    (tmp_path / "set").write_bytes(b"# one image\n1 1:10 2:20 3:30 5:50 12:120\n")
    X, _ = load(tmp_path / "set")
    assert X[0].transpose(2, 0, 1).tolist() == [[[10, 20], [30, 0]], [[50, 0], [0, 0]], [[0, 0], [0, 120]]]


def test_svmlight_missing_last_features(tmp_path):
    X, y = draw(5, 4, 4, 1)
    X[:, -1, -2:] = 0
    (tmp_path / "set").write_bytes(svmlight(X, y))
    with pytest.raises(DatasetError, match="14 features an image, which is no square, nor three of them"):
        load(tmp_path / "set")
    check(load(tmp_path / "set", image_shape=(4, 4)), X, y)
    with pytest.raises(DatasetError, match=r"do not fit image_shape=\(3, 4, 1\)"):
        load(tmp_path / "set", image_shape=(3, 4, 1))
    with pytest.raises(DatasetError, match="no test part"):
        load(tmp_path / "set", split="test", image_shape=(4, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1 1:3 4:0.5\n", "not bytes"),
        (b"1 1:3 4:300\n", "not bytes"),
        (b"0.5 1:3 4:1\n", "labels that are not integers"),
        (b"1 4:3 1:1\n", "damaged"),
        (b"1 1:3 4:one\n", "damaged"),
        (b"1\n2\n", "labels without any pixel"),
    ],
)
def test_svmlight_malformed(tmp_path, text, message):
    (tmp_path / "set").write_bytes(text)
    with pytest.raises(DatasetError, match=f"set: .*{message}"):
        load(tmp_path / "set")

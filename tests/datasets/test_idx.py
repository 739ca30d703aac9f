"""IDX files."""

import gzip

import numpy as np
import pytest
from dataset_files import check, idx, write_idx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hfcnn.datasets import DatasetError, load


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    X=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)),
    separator=st.sampled_from("-."),
    ending=st.sampled_from(["", ".gz"]),
    seed=st.integers(0, 9),
)
def test_idx_round_trip(tmp_path_factory, X, separator, ending, seed):
    folder = tmp_path_factory.mktemp("idx")
    y = np.random.default_rng(seed).integers(0, 256, len(X))
    write = gzip.compress if ending else bytes
    for part, images, labels in (("train", X, y), ("t10k", 255 - X, y[::-1])):
        (folder / f"{part}-images{separator}idx3-ubyte{ending}").write_bytes(write(idx(images)))
        (folder / f"{part}-labels{separator}idx1-ubyte{ending}").write_bytes(write(idx(labels)))
    check(load(folder), X[..., None], y)
    check(load(str(folder), split="test"), 255 - X[..., None], y[::-1])
    check(load(folder / f"t10k-images{separator}idx3-ubyte{ending}"), 255 - X[..., None], y[::-1])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (idx(np.zeros((3, 4, 4)))[:-1], np.zeros(3), r"ubyte: 47 bytes of images.*expected 3 x 4 x 4 = 48"),
        (idx(np.zeros((3, 4, 4))) + b"\0", np.zeros(3), "49 bytes of images"),
        (idx(np.zeros((3, 4, 4)))[:9], np.zeros(3), "truncated, 9 bytes; expected a header of 16"),
        (np.zeros((3, 4, 4)), np.zeros(4), r"labels of shape \(4,\); expected one for each of 3 images"),
        (np.zeros((3, 4, 4)), np.zeros((3, 1)), "labels-idx1-ubyte: starts with 00000802; expected 00000801"),
        (np.zeros((3, 4, 4)), b"", "labels-idx1-ubyte: starts with nothing"),
        (np.zeros((0, 4, 4)), np.zeros(0), r"images of shape \(0, 4, 4, 1\)"),
        (b"\0\0\x0d\x03" + bytes(60), np.zeros(3), "starts with 00000d03; expected 00000803"),
        (b"\x7fELF" + bytes(60), np.zeros(3), "00000803|of no known format"),
        (b"", np.zeros(3), "starts with nothing"),
        (gzip.compress(idx(np.zeros((3, 4, 4))), mtime=0)[:-9], np.zeros(3), "damaged"),
    ],
)
def test_idx_malformed(tmp_path, images, labels, message):
    path = write_idx(tmp_path, images, labels)
    for source in (path, tmp_path):
        with pytest.raises(DatasetError, match=message) as error:
            load(source)
        assert str(tmp_path) in str(error.value)


def test_idx_without_labels(tmp_path):
    path = write_idx(tmp_path, np.zeros((3, 4, 4)), np.zeros(3))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="expected train-labels-idx1-ubyte"):
        load(path)
    with pytest.raises(DatasetError, match="labels cannot be found by its name"):
        load(path.rename(tmp_path / "pictures"))

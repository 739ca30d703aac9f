"""What is missing or damaged is said, and nothing else is taken in its place without a word."""

import gzip

import numpy as np
import pytest
from bombs import png, png_folder
from dataset_files import cifar_binary, cifar_pickle, draw, idx, norb, tar, write_idx

from hfcnn.datasets import DatasetError, MissingPartError, load


def write_parts(folder):
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 4, 4))))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(3)))


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", ["empty", "cut", "missing", "other", "folder"])
def test_a_damaged_part_is_not_missing(tmp_path, name, damage):
    write_parts(tmp_path)
    path = tmp_path / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage in ("missing", "folder"):
        path.unlink()
        if damage == "folder":
            path.mkdir()
    else:
        path.write_bytes(b"" if damage == "empty" else b"<html>not found</html>")
    with pytest.raises((DatasetError, FileNotFoundError), match="t10k") as error:
        load(tmp_path, split="test")
    assert not isinstance(error.value, MissingPartError)


def test_a_missing_part_is_not_damaged(tmp_path):
    write_parts(tmp_path)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (tmp_path / name).unlink()
    with pytest.raises(MissingPartError, match="no test part"):
        load(tmp_path, split="test")


def test_half_of_a_part_in_npz(tmp_path):
    X, y = draw(4, 5, 5)
    np.savez(tmp_path / "half.npz", X_train=X, y_train=y, X_test=X)
    with pytest.raises(DatasetError, match="no test part among") as error:
        load(tmp_path / "half.npz", split="test")
    assert not isinstance(error.value, MissingPartError)
    np.savez(tmp_path / "one.npz", X_train=X, y_train=y)
    with pytest.raises(MissingPartError):
        load(tmp_path / "one.npz", split="test")


@pytest.mark.parametrize("missing", [1, 3, 5])
@pytest.mark.parametrize("kind", ["binary", "pickle"])
def test_missing_cifar_batches(tmp_path, missing, kind):
    write, ending = (cifar_binary, ".bin") if kind == "binary" else (cifar_pickle, "")
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}{ending}").write_bytes(write(*draw(2, 32, 32, 3, seed=i)))
    (tmp_path / f"test_batch{ending}").write_bytes(write(*draw(2, 32, 32, 3)))
    assert len(load(tmp_path)[0]) == 10
    (tmp_path / f"data_batch_{missing}{ending}").unlink()
    with pytest.raises(DatasetError, match=f"lacks data_batch_{missing}; expected data_batch_1 to 5"):
        load(tmp_path)
    assert len(load(tmp_path, split="test")[0]) == 2


def test_missing_norb_files(tmp_path):
    for name in ("training-01", "training-03", "testing-01"):
        (tmp_path / f"norb-{name}-dat.mat").write_bytes(norb(draw(2, 2, 6, 6)[0], 0x1E3D4C55))
        (tmp_path / f"norb-{name}-cat.mat").write_bytes(norb(np.zeros(2, "<i4"), 0x1E3D4C54))
    with pytest.raises(DatasetError, match="lacks number 2 of the files like norb-training-03"):
        load(tmp_path)
    assert len(load(tmp_path, split="test")[0]) == 2


@pytest.mark.parametrize("labels", [[1e300, 2e300], [-1e300, 1.0], [2.0**60, 2.0**60 + 512]])
def test_labels_that_would_become_one(tmp_path, labels):
    np.savez(tmp_path / "set.npz", X=np.zeros((2, 3, 3)), y=np.array(labels))
    with pytest.raises(DatasetError, match="which are not told apart"):
        load(tmp_path / "set.npz")


def test_labels_beyond_64_bits(tmp_path):
    np.savez(tmp_path / "set.npz", X=np.zeros((2, 3, 3)), y=np.array([1, 2**64 - 1], np.uint64))
    with pytest.raises(DatasetError, match="which are not told apart"):
        load(tmp_path / "set.npz")


def test_arrays_that_are_there_twice(tmp_path):
    np.savez(tmp_path / "set.npz", X=np.zeros((2, 3, 3)), x=np.ones((2, 3, 3)), y=np.arange(2))
    with pytest.raises(DatasetError, match="names differ in case"):
        load(tmp_path / "set.npz")


def test_labels_of_bytes_that_are_no_text(tmp_path):
    np.savez(tmp_path / "set.npz", X=np.zeros((2, 3, 3)), y=np.array([b"\xff", b"a"]))
    with pytest.raises(DatasetError, match="set.npz: damaged"):
        load(tmp_path / "set.npz")


@pytest.mark.parametrize("kind", ["npz", "tar.gz", "idx.gz"])
def test_checksums_are_compared(tmp_path, kind):
    """One byte of a pixel is another, in a layer that stores it as it is: only a checksum can tell."""
    X, y = draw(3, 32, 32, 3)
    path = tmp_path / kind.replace(" ", ".")
    if "npz" in kind:
        with open(path, "wb") as file:
            np.savez(file, X=X, y=y)
        data = path.read_bytes()
    elif kind == "tar.gz":
        tar(tmp_path / "plain.tar", {"data_batch_1.bin": cifar_binary(X, y)})
        data = gzip.compress((tmp_path / "plain.tar").read_bytes(), 0)
    else:
        path = write_idx(tmp_path, X[..., 0], y)
        data = gzip.compress(path.read_bytes(), 0)
    path.write_bytes(data)
    assert len(load(path)[0]) == 3
    damaged = bytearray(data)
    damaged[data.index(X[1, 0, :4, 0].tobytes() if "npz" not in kind else X[1, 0, :4].tobytes())] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match=path.name):
        load(path)


@pytest.mark.parametrize("ending", [".bmp", ".gif", ".tif", ".webp", ".heic", ".txt", "", None])
def test_classes_do_not_vanish(tmp_path, ending):
    png_folder(tmp_path)
    (tmp_path / "bird").mkdir()
    if ending is not None:
        (tmp_path / "bird" / f"0{ending}").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match="bird"):
        load(tmp_path)


def test_names_of_two_spellings_are_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for part, name in (("train", composed), ("test", decomposed)):
        for label in (name, "tea"):
            (tmp_path / part / label).mkdir(parents=True)
            (tmp_path / part / label / "0.png").write_bytes(png(4, 4, 4))
    (_, train), (_, test) = load(tmp_path), load(tmp_path, split="test")
    assert train.tolist() == test.tolist() == [composed, "tea"]
    np.savez(tmp_path / "set.npz", X=np.zeros((2, 3, 3)), y=np.array([composed, decomposed]))
    assert load(tmp_path / "set.npz")[1].tolist() == [composed, composed]

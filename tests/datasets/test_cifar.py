"""CIFAR-10 and CIFAR-100, in folders and archives."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from dataset_files import check, cifar_binary, cifar_pickle, draw, planes, tar

from hfcnn.datasets import DatasetError, load


def cifar_parts():
    """Batches in an order that text sorting gets wrong: 10 after 1."""
    return {f"data_batch_{i}": draw(2, 32, 32, 3, seed=i) for i in range(10, 0, -1)} | {
        "test_batch": draw(3, 32, 32, 3, seed=99)
    }


CIFAR_KINDS = {
    "binary": (".bin", cifar_binary),
    "python 2": ("", cifar_pickle),
    "python 3": ("", lambda X, y: cifar_pickle(X, y, protocol=4, as_bytes=False)),
    "protocol 5": ("", lambda X, y: cifar_pickle(X, y, protocol=5)),
    "labels as an array": ("", lambda X, y: cifar_pickle(X, y, labels=y)),
}


@pytest.mark.parametrize("kind", CIFAR_KINDS)
def test_cifar10(tmp_path, kind):
    ending, write = CIFAR_KINDS[kind]
    parts = cifar_parts()
    X, y = (np.concatenate([parts[f"data_batch_{i}"][j] for i in range(1, 11)]) for j in (0, 1))
    files = {f"cifar/{name}{ending}": write(*part) for name, part in parts.items()}
    files["cifar/batches.meta.txt"] = files["cifar/batches.meta"] = b"airplane\n"
    folder = tmp_path / "cifar"
    folder.mkdir()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    tar(tmp_path / "cifar.tar.gz", files)
    tar(tmp_path / "cifar.tar", files)
    for source in (folder, tmp_path / "cifar.tar.gz", tmp_path / "cifar.tar"):
        check(load(source), X, y)
        check(load(source, split="test"), *parts["test_batch"])
    check(load(folder / f"data_batch_2{ending}"), *parts["data_batch_2"])
    with pytest.raises(DatasetError, match="no test part"):
        load(folder / f"test_batch{ending}", split="test")


def test_cifar10_pickled_python2_bytes(tmp_path):
    # protocol 0-2 of Python 3 writes bytes by _codecs.encode; a file of Python 2 has them as its str
    X, y = draw(2, 32, 32, 3)
    assert b"_codecs" in cifar_pickle(X, y)
    python2 = b"\x80\x02}(U\x04dataq\x00" + pickle.dumps(planes(X), 2)[2:-1] + b"U\x06labels](K\x03K\x04eu."
    (tmp_path / "data_batch_1").write_bytes(python2)
    check(load(tmp_path), X, [3, 4])


def test_cifar_binary_and_pickle_side_by_side(tmp_path):
    X, y = draw(2, 32, 32, 3)
    (tmp_path / "data_batch_1").write_bytes(cifar_pickle(X, y))
    (tmp_path / "data_batch_1.bin").write_bytes(cifar_binary(X, y))
    check(load(tmp_path), X, y)


def test_cifar100_has_fine_labels(tmp_path):
    X, fine = draw(5, 32, 32, 3, classes=100)
    coarse = fine // 5
    (tmp_path / "train").write_bytes(
        pickle.dumps({"data": planes(X), "fine_labels": fine.tolist(), "coarse_labels": coarse.tolist()})
    )
    (tmp_path / "test").write_bytes((tmp_path / "train").read_bytes())
    check(load(tmp_path), X, fine)
    binary = np.column_stack([coarse, fine, planes(X)]).astype(np.uint8).tobytes()
    tar(tmp_path / "cifar.tar.gz", {"cifar/train.bin": binary})
    check(load(tmp_path / "cifar.tar.gz"), X, fine)
    with pytest.raises(DatasetError, match="no test part; expected test_batch or test"):
        load(tmp_path / "cifar.tar.gz", split="test")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (cifar_binary(*draw(2, 32, 32, 3))[:-1], "6145 bytes that are not whole CIFAR records"),
        (cifar_binary(draw(1, 32, 32, 3)[0], np.array([10])), "label of 0 to 9"),
        (cifar_pickle(*draw(2, 32, 32, 3))[:-50], "not a CIFAR batch, or damaged"),
        (pickle.dumps([1, 2]), "not a CIFAR batch, or damaged .*; expected a dict with 'data'"),
        (
            pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}),
            "data float64 of shape .*; expected a dict with 'data', uint8",
        ),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}), "'labels' or 'fine_labels'"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}), "labels of shape"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, None]}), "labels of type object"),
    ],
)
def test_cifar_malformed(tmp_path, data, message):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(data)
    for source in (path, tmp_path):
        with pytest.raises(DatasetError, match=message) as error:
            load(source)
        assert str(tmp_path) in str(error.value)


def test_tar_members_are_not_unpacked(tmp_path, monkeypatch):
    X, y = draw(2, 32, 32, 3)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "deep" / "cifar.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("data_batch_2.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        info = tarfile.TarInfo("../../data_batch_1.bin")
        info.size = len(cifar_binary(X, y))
        archive.addfile(info, io.BytesIO(cifar_binary(X, y)))
    check(load(path), X, y)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["cifar.tar.gz"]


def test_tar_truncated(tmp_path):
    tar(tmp_path / "whole.tar.gz", {"data_batch_1.bin": cifar_binary(*draw(4, 32, 32, 3))})
    (tmp_path / "half.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:5000])
    with pytest.raises(DatasetError, match="half.tar.gz"):
        load(tmp_path / "half.tar.gz")

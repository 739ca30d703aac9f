"""Every format that `load` reads, from small files written here, and the ways in which they can be broken."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import pickle
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import savemat
from scipy.sparse import csc_array

from hfcnn.datasets import DatasetError, load

ALL_DATA = Path(__file__).parents[2] / "shared" / "data"


def draw(n, *shape, seed=0, classes=10):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.integers(0, classes, n)


def idx(array):
    return (
        struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def norb(array, magic):
    sizes = (*array.shape, 1, 1)[: max(3, array.ndim)]
    return struct.pack(f"<{2 + len(sizes)}I", magic, array.ndim, *sizes) + array.tobytes()


def planes(X):
    return X.transpose(0, 3, 1, 2).reshape(len(X), -1)


def svmlight(X, y, form="{}".format):
    lines = [
        f"{label} " + " ".join(f"{j + 1}:{form(v)}" for j, v in enumerate(row) if v)
        for row, label in zip(planes(X), y, strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()


def tar(path, files):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def check(loaded, X, y):
    images, labels = loaded
    np.testing.assert_array_equal(images, X)
    np.testing.assert_array_equal(labels, y)
    assert images.dtype == np.uint8 and images.flags.c_contiguous and images.flags.writeable
    assert labels.dtype == np.int64 or labels.dtype.kind == "U"


# --- IDX ---


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


def write_idx(folder, X, y):
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    images.write_bytes(X if isinstance(X, bytes) else idx(X))
    labels.write_bytes(y if isinstance(y, bytes) else idx(y))
    return images


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
        (gzip.compress(idx(np.zeros((3, 4, 4))))[:-9], np.zeros(3), "damaged"),
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


def test_absent_parts(tmp_path):
    path = write_idx(tmp_path, np.zeros((3, 4, 4)), np.zeros(3))
    with pytest.raises(DatasetError, match="no test part; expected t10k-images-idx3-ubyte"):
        load(tmp_path, split="test")
    with pytest.raises(DatasetError, match="holds one set and no test part"):
        load(path, split="test")
    with pytest.raises(DatasetError, match="split must be 'train' or 'test'; got 'valid'"):
        load(path, split="valid")
    with pytest.raises(FileNotFoundError, match="nowhere: no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"images of shape \(4, 4, 1\); expected image_shape=\(2, 8, 1\)"):
        load(path, image_shape=(2, 8))
    check(load(path, image_shape=(4, 4)), np.zeros((3, 4, 4, 1)), np.zeros(3))
    with pytest.raises(DatasetError, match=r"image_shape=\(4, 0\)"):
        load(path, image_shape=(4, 0))


@pytest.mark.parametrize(
    "content", [b"", b"5,0,0,1\n", b"\x89PNG\r\n\x1a\n" + bytes(30), bytes(range(200)), b"BZh91"]
)
def test_unknown_file(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DatasetError, match="file: (of no known format|damaged)"):
        load(tmp_path / "file")


def test_unknown_folder(tmp_path):
    with pytest.raises(DatasetError, match="no data set in this folder"):
        load(tmp_path)


# --- npz ---


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
        ({"X": np.zeros((2, 9)), "y": np.zeros(2)}, r"images of shape \(2, 9\)"),
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


# --- CIFAR ---


def cifar_parts():
    """Batches in an order that text sorting gets wrong: 1, 2, 10."""
    return {f"data_batch_{i}": draw(4, 32, 32, 3, seed=i) for i in (10, 1, 2)} | {
        "test_batch": draw(3, 32, 32, 3, seed=99)
    }


def cifar_binary(X, y):
    return np.column_stack([y.astype(np.uint8), planes(X)]).tobytes()


def cifar_pickle(X, y, protocol=2, as_bytes=True, **more):
    batch = {"batch_label": "one of them", "labels": y.tolist(), "data": planes(X)} | more
    return pickle.dumps({k.encode() if as_bytes else k: v for k, v in batch.items()}, protocol)


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
    X, y = (np.concatenate([parts[f"data_batch_{i}"][j] for i in (1, 2, 10)]) for j in (0, 1))
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


class Malicious:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("archived", [False, True])
def test_pickles_do_not_run(tmp_path, protocol, archived):
    mark = tmp_path / "ran"
    attacks = [
        Malicious(os.mkdir, str(mark)),
        Malicious(exec, f"open({str(mark)!r}, 'w').close()"),
        Malicious(np.load, str(mark)),
        Malicious(getattr, np.ndarray, "tofile"),
        Malicious(sys.exit, 1),
    ]
    for attack in attacks:
        data = cifar_pickle(*draw(1, 32, 32, 3), protocol=protocol, filenames=[attack])
        path = tmp_path / "data_batch_1"
        path.write_bytes(data)
        if archived:
            path = tmp_path / "cifar.tar.gz"
            tar(path, {"data_batch_1": data})
        with pytest.raises(DatasetError, match="refused, the pickle asks for .*; expected only arrays"):
            load(path)
        assert not mark.exists()


def test_pickled_array_of_objects(tmp_path):
    data = pickle.dumps({"data": np.array([[1, None]]), "labels": [1]})
    (tmp_path / "data_batch_1").write_bytes(data)
    with pytest.raises(DatasetError, match="an array of type O"):
        load(tmp_path)


def test_pickled_array_in_other_orders(tmp_path):
    X, y = draw(3, 32, 32, 3)
    for protocol in (2, 5):
        batch = {"data": np.asfortranarray(planes(X)), "labels": y.astype(">i4")}
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
        check(load(tmp_path), X, y)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_end_in_dataset_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    X, y = draw(2, 32, 32, 3)
    path = folder / "file"
    kind = data.draw(st.sampled_from(["npz", "mat", "sparse mat", "pickle", "tar", "svmlight"]))
    if kind == "npz":
        np.savez_compressed(path.with_suffix(".npz"), X=X, y=y)
        path = path.with_suffix(".npz")
    elif "mat" in kind:
        content = (
            {"Z": csc_array(planes(X).astype(float))} if "sparse" in kind else {"X": X.transpose(1, 2, 3, 0)}
        )
        with open(path, "wb") as file:
            savemat(file, content | {"y": y}, do_compression=False)
    elif kind == "pickle":
        path.write_bytes(cifar_pickle(X, y, protocol=data.draw(st.sampled_from([2, 4, 5]))))
    elif kind == "tar":
        tar(path, {"data_batch_1": cifar_pickle(X, y)})
    else:
        path.write_bytes(svmlight(X, y))
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, min(len(damaged), 700) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.sampled_from([len(damaged), len(damaged) - 9, 300]))])
    try:
        images, labels = load(path)
    except (DatasetError, FileNotFoundError):
        return
    assert images.dtype == np.uint8 and len(images) == len(labels)


def test_pickle_cannot_reach_other_codecs(tmp_path):
    import _codecs

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Malicious(_codecs.encode, "x", "zlib_codec"), 2))
    with pytest.raises(DatasetError, match="refused, the pickle asks for the encoding zlib_codec"):
        load(tmp_path)


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


# --- MATLAB files ---


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


# --- NORB ---

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


# --- LIBSVM text ---


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


# --- folders of images ---


def write_images(folder, X, y, name="{}.png".format):
    image = pytest.importorskip("PIL.Image")
    for i, (pixels, label) in enumerate(zip(X, y, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(folder / label / name(i))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=str)
def test_image_folder(tmp_path, shape):
    X, _ = draw(6, *shape)
    y = np.array(["cat", "cat", "dog", "dog", "dog", "emu"])
    write_images(tmp_path / "one", X, y)
    (tmp_path / "one" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "one" / "empty").mkdir()
    expected = X.reshape(6, 6, 5, -1)
    check(load(tmp_path / "one"), expected, y)
    with pytest.raises(DatasetError, match="no test part"):
        load(tmp_path / "one", split="test")
    write_images(tmp_path / "both" / "train", X[:4], y[:4])
    with pytest.raises(DatasetError, match="no test part; expected a sub-folder test"):
        load(tmp_path / "both", split="test")
    write_images(tmp_path / "both" / "test", X[4:], y[4:])
    check(load(tmp_path / "both"), expected[:4], y[:4])
    check(load(tmp_path / "both", split="test"), expected[4:], y[4:])


def test_image_folder_jpeg(tmp_path):
    write_images(tmp_path, np.full((2, 16, 16, 3), 90, np.uint8), ["a", "b"], "{}.JPG".format)
    X, y = load(tmp_path)
    assert X.shape == (2, 16, 16, 3) and abs(X.astype(int) - 90).max() <= 2
    assert y.tolist() == ["a", "b"]


def test_image_folder_odd_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    X, _ = draw(3, 6, 5)
    write_images(tmp_path, X, ["a", "a", "b"])
    odd = tmp_path / "b" / "2.png"
    image.fromarray(X[0, :4]).save(odd)
    with pytest.raises(DatasetError, match=r"2.png: of shape \(4, 5\); expected \(6, 5\), that of .*0.png"):
        load(tmp_path)
    image.fromarray(X[0]).convert("RGB").save(odd)
    with pytest.raises(DatasetError, match=r"2.png: of shape \(6, 5, 3\); expected \(6, 5\)"):
        load(tmp_path)
    image.fromarray(X[0]).convert("RGBA").save(odd)
    with pytest.raises(DatasetError, match="2.png: of mode RGBA; expected L"):
        load(tmp_path)
    odd.write_bytes((tmp_path / "a" / "0.png").read_bytes()[:50])
    with pytest.raises(DatasetError, match="2.png: damaged"):
        load(tmp_path)
    odd.write_bytes(b"text")
    with pytest.raises(DatasetError, match="2.png: damaged"):
        load(tmp_path)


def test_image_folder_without_images(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DatasetError, match="no images; expected PNG or JPEG"):
        load(tmp_path)


def test_image_folder_without_pillow(tmp_path, monkeypatch):
    write_images(tmp_path, draw(1, 4, 4)[0], ["a"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install hfcnn\[plots\]"):
        load(tmp_path)


# --- the real data sets ---

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

"""Small data sets in each format, written here by hand."""

import io
import pickle
import struct
import tarfile

import numpy as np


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


def cifar_binary(X, y):
    return np.column_stack([y.astype(np.uint8), planes(X)]).tobytes()


def cifar_pickle(X, y, protocol=2, as_bytes=True, **more):
    batch = {"batch_label": "one of them", "labels": y.tolist(), "data": planes(X)} | more
    return pickle.dumps({k.encode() if as_bytes else k: v for k, v in batch.items()}, protocol)


def write_idx(folder, X, y):
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels-idx1-ubyte"
    images.write_bytes(X if isinstance(X, bytes) else idx(X))
    labels.write_bytes(y if isinstance(y, bytes) else idx(y))
    return images

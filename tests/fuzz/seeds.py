"""Small sound files of each format, and how to get into their compression layers and out again."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from dataset_files import cifar_binary, cifar_pickle, draw, idx, norb, planes, svmlight
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array


def same(data):
    return data


@dataclass
class Seed:
    """Files of one data set; the first is mutated, below the layer that `unpack` opens and `pack` closes."""

    files: dict[str, bytes]
    load: str = ""  # what of the folder is loaded; the folder itself if empty
    unpack: Callable[[bytes], bytes] = same
    pack: Callable[[bytes], bytes] = same
    tokens: list[bytes] = field(default_factory=list)


def npz(arrays, method):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", content.getvalue())
    return file.getvalue()


def unpack_npz(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read("X.npy")


def pack_npz(y):
    content = io.BytesIO()
    np.save(content, y)

    def pack(data):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("X.npy", data)
            archive.writestr("y.npy", content.getvalue())
        return file.getvalue()

    return pack


def mat(arrays, compressed):
    file = io.BytesIO()
    savemat(file, arrays, do_compression=compressed)
    return file.getvalue()


def unpack_mat(data):
    """The elements of a file that follow its header, decompressed."""
    at, parts = 128, [data[:128]]
    while at < len(data):
        _, size = struct.unpack_from("<2I", data, at)
        parts.append(zlib.decompress(data[at + 8 : at + 8 + size]))
        at += 8 + size
    return b"".join(parts)


def pack_mat(data):
    """Compress again what follows the header, as one element for each that starts soundly."""
    at, parts = 128, [data[:128]]
    while at + 8 <= len(data):
        _, size = struct.unpack_from("<2I", data, at)
        content = zlib.compress(data[at : at + 8 + size], 1)
        parts.append(struct.pack("<2I", 15, len(content)) + content)
        at += 8 + size
    return b"".join(parts)


def tar(files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()[: 1024 + 512 * (2 + sum(2 + len(data) // 512 for data in files.values()))]


def picture(kind, shape):
    file = io.BytesIO()
    Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)).save(file, kind)
    return file.getvalue()


def unpack_png(data):
    """The chunks of a PNG without their checksums, the pixels decompressed."""
    at, parts = 8, []
    while at < len(data):
        (size,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + size]
        content = zlib.decompress(content) if kind == b"IDAT" else content
        parts.append(struct.pack(">I", len(content)) + kind + content)
        at += 12 + size
    return b"".join(parts)


def pack_png(data):
    at, parts = 0, [b"\x89PNG\r\n\x1a\n"]
    while at + 8 <= len(data):
        (size,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        content = data[at + 8 : at + 8 + size]
        content = zlib.compress(content, 1) if kind == b"IDAT" else content
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        parts.append(struct.pack(">I", len(content)) + kind + content + checksum)
        at += 8 + size
    return b"".join(parts)


def seeds():
    """Sound data sets by name."""
    X, y = draw(3, 6, 6)
    colour, _ = draw(3, 4, 4, 3)
    C, k = draw(1, 32, 32, 3)
    labels = {"train-labels-idx1-ubyte": idx(y)}
    found = {
        "idx": Seed({"train-images-idx3-ubyte": idx(X)} | labels),
        "idx labels": Seed({"train-labels-idx1-ubyte": idx(y), "train-images-idx3-ubyte": idx(X)}),
        "svmlight": Seed(
            {"set": svmlight(X[..., None], y)}, "set", tokens=[b":", b" ", b"\n", b"1e9", b"nan", b"#", b"-1"]
        ),
    }
    layers = {
        "gzip": (gzip.decompress, lambda data: gzip.compress(data, 1)),
        "bzip2": (bz2.decompress, lambda data: bz2.compress(data, 1)),
        "xz": (lzma.decompress, lambda data: lzma.compress(data, preset=0)),
    }
    for kind, (unpack, pack) in layers.items():
        found[f"idx {kind}"] = Seed({"train-images-idx3-ubyte": pack(idx(X))} | labels)
        found[f"idx in {kind}"] = Seed(
            {"train-images-idx3-ubyte": pack(idx(X))} | labels, unpack=unpack, pack=pack
        )
    text = np.array(["a", "b", "c"])
    for name, arrays in {
        "npz": {"X": colour, "y": y},
        "npz parts": {"X_train": X, "y_train": text, "D_test": colour, "y_test": y},
        "npz objects": {"X": X, "y": text.astype(object)},
    }.items():
        found[name] = Seed({"set.npz": npz(arrays, zipfile.ZIP_STORED)}, "set.npz")
        found[f"{name} deflated"] = Seed({"set.npz": npz(arrays, zipfile.ZIP_DEFLATED)}, "set.npz")
    whole = npz({"X": colour, "y": y}, zipfile.ZIP_DEFLATED)
    found["npz in deflate"] = Seed(
        {"set.npz": whole},
        "set.npz",
        unpack_npz,
        pack_npz(y),
        tokens=[b"|u1", b"<f8", b"(", b"|O", b"-1", b"9" * 9],
    )
    opcodes = [
        bytes([code]) for code in b"().0123NKMJIGUXBCTV]}adelpqrstubhjgcR\x80\x81\x85\x86\x87\x88\x8a\x94\x95"
    ]
    for protocol in (0, 1, 2, 4, 5):
        batch = cifar_pickle(C, k, protocol)
        found[f"pickle {protocol}"] = Seed({"data_batch_1": batch}, tokens=opcodes)
        small = pickle.dumps({"data": np.zeros((1, 9), np.uint8), "labels": [1, 2], "x": (1, "a")}, protocol)
        found[f"small pickle {protocol}"] = Seed({"data_batch_1": small}, tokens=opcodes)
    found["cifar binary"] = Seed({"data_batch_1.bin": cifar_binary(C, k)})
    archive = tar({"cifar/data_batch_1.bin": cifar_binary(C, k), "cifar/readme": b"text"})
    found["tar"] = Seed({"cifar.tar": archive}, "cifar.tar")
    found["tar in gzip"] = Seed(
        {"cifar.tar.gz": gzip.compress(archive)}, "cifar.tar.gz", gzip.decompress, gzip.compress
    )
    Z = planes(colour).astype(float)
    contents = {
        "dense": {"X": draw(2, 4, 4, 3)[0].transpose(1, 2, 3, 0), "y": y[:2] + 1.0},
        "rows": {"Z": Z, "y": y},
        "sparse": {"Z": csc_array(Z), "y": y},
    }
    for name, arrays in contents.items():
        found[f"mat {name}"] = Seed({"set.mat": mat(arrays, False)}, "set.mat")
        found[f"mat {name} in zlib"] = Seed({"set.mat": mat(arrays, True)}, "set.mat", unpack_mat, pack_mat)
    pairs = draw(2, 2, 6, 6)[0]
    found["norb"] = Seed(
        {"x-dat.mat": norb(pairs, 0x1E3D4C55), "x-cat.mat": norb(np.zeros(2, "<i4"), 0x1E3D4C54)}
    )
    for kind in ("png", "jpeg", "bmp", "gif", "webp", "tiff", "ppm"):
        data = picture(kind, (6, 5, 3))
        pictures = {f"a/0.{kind}": data, f"b/0.{kind}": data}
        found[kind] = Seed(pictures)
        if kind == "png":
            found["png in zlib"] = Seed(pictures, unpack=unpack_png, pack=pack_png)
    rows = [",".join(map(str, [label, *image.ravel()])) for image, label in zip(X, y, strict=True)]
    header = ",".join(["label", *(f"pixel{i}" for i in range(36))])
    cells = [b",", b",,", b"\n", b'"', b"nan", b"1e99", b"-1"]
    found["csv"] = Seed({"train.csv": "\n".join([header, *rows]).encode()}, "train.csv", tokens=cells)
    found["csv without names"] = Seed({"train.csv": "\n".join(rows).encode()}, "train.csv", tokens=cells)
    return found

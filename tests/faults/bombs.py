"""Files that are small and ask for much, each written here by hand."""

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib

import numpy as np
from dataset_files import idx, norb

MIB = 1 << 20


def zeros(compress, head=b"", n=32, line=b"\0"):
    """`head` and n MiB of zeros or lines, compressed: these in streams that follow one another."""
    return (compress(head) if head else b"") + compress(line * (4 * MIB // len(line))) * (n // 4)


def csv_with_a_long_label():
    """One label of a thousand letters, and a hundred thousand of one: an array of text of 400 MB."""
    return gzip.compress(b"label,a,b,c,d\n" + b"a" * 1000 + b",1,2,3,4\n" + b"b,1,2,3,4\n" * 100_000)


def idx_head(*shape):
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


def xz_with_large_dictionary():
    """An xz file of a few bytes whose header asks for a dictionary of 3 GiB."""
    data = bytearray(lzma.compress(idx(np.zeros((3, 4, 4)))))
    size = (data[12] + 1) * 4
    data[16] = 39
    data[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(data[12 : 12 + size - 4]))
    return bytes(data)


def npy_head(shape, descr="|u1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def npz(X, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        with archive.open("X.npy", "w") as member:
            for part in X:
                member.write(part)
        archive.writestr("y.npy", npy_head((2,)) + b"\0\1")
    return file.getvalue()


def npz_that_lies(size):
    """An archive that says of X.npy that it has `size` bytes."""
    data = npz([npy_head((size,)), bytes(100)])
    real = struct.pack("<I", len(npy_head((size,))) + 100)
    return data.replace(real, struct.pack("<I", len(npy_head((size,))) + size))


def mat(*elements):
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"".join(elements)


def mat_element(kind, content):
    return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)


def mat_zeros(n=32):
    """A compressed array X whose tag and content are n MiB of zeros."""
    flags = mat_element(6, struct.pack("<2I", 9, 0))
    shape, name = (
        mat_element(5, struct.pack("<4i", 32, 32, n * 1024 // 3, 3)),
        struct.pack("<I4s", 1 << 16 | 1, b"X"),
    )
    head = flags + shape + name + struct.pack("<2I", 2, n * MIB)
    stream = zlib.compressobj(1)
    content = stream.compress(struct.pack("<2I", 14, len(head) + n * MIB) + head)
    content += b"".join(stream.compress(bytes(4 * MIB)) for _ in range(n // 4)) + stream.flush()
    return mat(struct.pack("<2I", 15, len(content)) + content)


def mat_sparse(n, features):
    """A sparse array Z of n rows without a number in it, and two labels."""
    shape = mat_element(5, struct.pack("<2i", n, features))
    body = mat_element(6, struct.pack("<2I", 5, 0)) + shape + struct.pack("<I4s", 1 << 16 | 1, b"Z")
    body += mat_element(5, struct.pack("<i", 0)) + mat_element(5, bytes(4 * (features + 1)))
    body += mat_element(9, struct.pack("<d", 0))
    labels = mat_element(6, struct.pack("<2I", 6, 0)) + mat_element(
        5, struct.pack("<2i", n if n < 9 else 2, 1)
    )
    labels += struct.pack("<I4s", 1 << 16 | 1, b"y") + mat_element(9, bytes(8 * (n if n < 9 else 2)))
    return mat(mat_element(14, body), mat_element(14, labels))


def tar_header(name, size, kind=b"0", rest=b""):
    header = bytearray(512)
    header[: len(name)] = name
    header[124:136] = f"{size:011o}\0".encode() if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    header[156:157], header[257:265] = kind, b"ustar  \0"
    header[345 : 345 + len(rest)] = rest
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def sparse_tar():
    """A member of 1 GiB, all of it a hole, in the form of GNU tar."""
    hole = b"%011o\0%011o\0" % (1 << 30, 0)
    rest = bytes(41) + hole + bytes(24 * 3) + b"\0" + b"%011o\0" % (1 << 30)
    return tar_header(b"data_batch_1.bin", 0, b"S", rest) + bytes(1024)


def many_members(n=20_000):
    return gzip.compress(tar_header(b"x", 0) * n + bytes(1024), 1)


def png(width, height, rows=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    stream = zlib.compressobj(9)
    pixels = b"".join(stream.compress(bytes(width + 1)) for _ in range(rows)) + stream.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_folder(folder):
    """A sound folder of two classes."""
    for label in "ab":
        (folder / label).mkdir(parents=True)
        (folder / label / "0.png").write_bytes(png(4, 4, 4))
    return folder


def deep_tuple_key(depth=200_000):
    """A dict whose key is a deep tuple: its hash is computed by recursion."""
    return b"\x80\x02})" + b"\x85" * depth + b"K\x01s."


def wide_tuple_key(depth=60):
    """A dict whose key is a tuple of twice the same tuple, and so on: 2^depth values to hash."""
    return b"\x80\x02})" + b"2\x86" * depth + b"K\x01s."


def wide_labels(depth=40):
    """Labels that are a list of twice the same list, and so on."""
    pixels = pickle.dumps(np.zeros((2, 3072), np.uint8), 2)[2:-1]
    lists = (
        b"]K\x01a"
        + b"".join(b"q%c]h%ch%c\x86" % (i, i, i) for i in ())
        + b"".join(b"q%c0](h%ch%ce" % (200, 200, 200) for _ in range(depth))
    )
    return b"\x80\x02}(U\x04data" + pixels + b"U\x06labels" + lists + b"u."


def encoded_again_and_again(n=30):
    """The same text turned into bytes n times, each time a new copy."""
    text = b"X" + struct.pack("<I", MIB) + b"a" * MIB
    once = b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R"
    return b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x01](" + once * n + b"e."


PICKLES = {
    "deep tuple as a key": deep_tuple_key(),
    "short deep tuple as a key": gzip.compress(deep_tuple_key()),
    "wide tuple as a key": wide_tuple_key(),
    "labels in labels": wide_labels(),
    "memo index": b"\x80\x02Nr\xff\xff\xff\x1f.",
    "memo index in text": b"\x80\x02Np500000000\n.",
    "byte array that is not there": b"\x80\x05\x96" + struct.pack("<Q", 1 << 32) + b".",
    "bytes that are not there": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 32) + b".",
    "frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 1 << 32) + b"N.",
    "same text as bytes": gzip.compress(encoded_again_and_again(), 1),
    "empty lists": gzip.compress(b"\x80\x02(" + b"]" * (4 * MIB) + b"l.", 1),
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"\x80\x02Pname\n.",
    "long number": b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"1.",
}


def bombs(folder):
    """Write them all: returns what to load, by what it does."""
    tag = zlib.compress(struct.pack("<2I", 14, 0xF0000000))
    norb_head = struct.pack("<6I", 0x1E3D4C55, 4, *[(1 << 30) - 1] * 4)
    files = {
        "bzip2": ("train-images-idx3-ubyte", zeros(bz2.compress, idx_head(32, 1024, 1024))),
        "gzip": ("train-images-idx3-ubyte", zeros(gzip.compress, idx_head(32, 1024, 1024))),
        "xz": (
            "train-images-idx3-ubyte",
            zeros(lambda d: lzma.compress(d, preset=0), idx_head(32, 1024, 1024)),
        ),
        "xz dictionary": ("train-images-idx3-ubyte", xz_with_large_dictionary()),
        "idx header": ("train-images-idx3-ubyte", idx_head(*[(1 << 32) - 1] * 3) + bytes(100)),
        "idx header, compressed": (
            "train-images-idx3-ubyte",
            gzip.compress(idx_head(1 << 10, 1 << 9, 1 << 10)),
        ),
        "text that never ends": ("set", zeros(gzip.compress, b"1 1:1\n")),
        "unknown that never ends": ("set.bin", zeros(gzip.compress)),
        "npz": ("set.npz", npz([npy_head((32, 1024, 1024)), *[bytes(4 * MIB)] * 8])),
        "npz header": ("set.npz", npz([npy_head((1 << 20, 1 << 10, 1 << 10)), bytes(100)])),
        "npz negative": ("set.npz", npz([npy_head((-1, 4, 4)), bytes(100)])),
        "npz wide type": ("set.npz", npz([npy_head((1, 2, 2), "|S1000000000"), bytes(100)])),
        "npz directory": ("set.npz", npz_that_lies(1 << 31)),
        "npz, bzip2 within": ("set.npz", npz([npy_head((2, 4, 4)), bytes(32)], method=zipfile.ZIP_BZIP2)),
        "npz in gzip": ("set.npz", gzip.compress(npz([npy_head((32, 1024, 1024)), *[bytes(4 * MIB)] * 8]))),
        "mat": ("set.mat", mat_zeros()),
        "mat tag": ("set.mat", mat(struct.pack("<2I", 15, len(tag)) + tag)),
        "mat sparse": ("set.mat", mat_sparse((1 << 31) - 1, 4)),
        "svmlight": ("set", b"1 1:1 2147395600:1\n" * 3),
        "norb": (
            "x-dat.mat",
            norb_head,
        ),
        "csv, empty lines": ("set.csv", zeros(gzip.compress, b"label,a,b,c,d\n1,2,3,4,5\n", line=b"\n")),
        "csv, short lines": ("set.csv", zeros(gzip.compress, b"label,a,b,c,d\n1,2,3,4,5\n", 12, b"12\n")),
        "csv, one label": ("set.csv", csv_with_a_long_label()),
        "csv, columns": ("set.csv", zeros(gzip.compress, b"label,a,b,c,d", 12, b",")),
        "tar, sparse": ("cifar.tar", sparse_tar()),
        "tar, sparse, compressed": ("cifar.tar.gz", gzip.compress(sparse_tar())),
        "tar, size": ("cifar.tar", tar_header(b"data_batch_1.bin", 1 << 40) + bytes(1024)),
        "tar, long name": ("cifar.tar.gz", gzip.compress(tar_header(b"n", 1 << 33, b"L") + bytes(1024))),
        "tar, pax": ("cifar.tar.gz", zeros(gzip.compress, tar_header(b"n", 32 * MIB, b"x"))),
        "tar, many": ("cifar.tar.gz", many_members()),
        "tar, zeros": ("cifar.tar.gz", zeros(gzip.compress, tar_header(b"data_batch_1.bin", 32 * MIB))),
    }
    files |= {f"pickle, {what}": ("data_batch_1", data) for what, data in PICKLES.items()}
    paths = {}
    for number, (what, (name, data)) in enumerate(files.items()):
        place = folder / str(number)
        place.mkdir()
        paths[what] = place / name
        paths[what].write_bytes(data)
        if "images" in name:
            (place / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(3)))
        if "dat" in name:
            (place / "x-cat.mat").write_bytes(norb(np.zeros(3, "<i4"), 0x1E3D4C54))
    for what, images in {
        "png": [png(30_000, 30_000)],
        "png, many": [png(2500, 2500, 2500)] * 3,
    }.items():
        paths[what] = folder / what
        (paths[what] / "a").mkdir(parents=True)
        for i, data in enumerate(images):
            (paths[what] / "a" / f"{i}.png").write_bytes(data)
    return paths

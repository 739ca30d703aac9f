"""Readers of the file formats that `hfcnn.datasets.load` recognises, one function a format.

A reader takes the path, the split and the image shape that the caller gave (or None), and returns images
(n, height, width[, channels]) and labels (n,). `load` brings both to their final type and checks them.
Nothing here runs code from a file, and no archive is unpacked to disk.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import math
import pickle
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, int, int]
Parts: TypeAlias = tuple[NDArray[Any], NDArray[Any]]


class DatasetError(ValueError):
    """A data set that cannot be read: which file, what is wrong with it, and what was expected."""


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, through gzip, bzip2 or xz if its first bytes say so."""
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if start.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if start == b"\xfd7zXZ\x00":
        return lzma.open(path, "rb")
    return open(path, "rb")


def one_set(path: Path, split: str) -> None:
    """Refuse the test part of something that holds a single set."""
    if split == "test":
        raise DatasetError(
            f"{path}: holds one set and no test part; split='train' returns all of it, a folder with "
            "the training and the test files has both"
        )


def no_part(path: Path, split: str, expected: str) -> NoReturn:
    """Report a folder or an archive that lacks the files of the split."""
    raise DatasetError(f"{path}: has no {split} part; expected {expected}")


# --- IDX: MNIST and its relatives ------------------------------------------------------------------------


def read_idx(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """IDX images and labels, from a folder or from an images file with its labels file beside it."""
    if path.is_dir():
        prefix = "train" if split == "train" else "t10k"
        names = [f"{prefix}-images{dot}idx3-ubyte{gz}" for gz, dot in product(("", ".gz"), "-.")]
        images = _first_existing(path, names)
        if images is None:
            no_part(path, split, f"{names[0]} (or with .gz)")
    else:
        one_set(path, split)
        images = path
    match = re.fullmatch(r"(.*)images[-.]idx3-ubyte(?:\.gz)?", images.name)
    if match is None:
        raise DatasetError(
            f"{images}: an IDX file whose labels cannot be found by its name; expected the images file, "
            "named like train-images-idx3-ubyte, with train-labels-idx1-ubyte beside it"
        )
    names = [f"{match[1]}labels{dot}idx1-ubyte{gz}" for gz, dot in product(("", ".gz"), "-.")]
    labels = _first_existing(images.parent, names)
    if labels is None:
        raise FileNotFoundError(f"{images}: no labels file beside it; expected {names[0]} (or with .gz)")
    return _idx_array(images, "images", 3), _idx_array(labels, "labels", 1)


def _idx_array(path: Path, what: str, n_dims: int) -> NDArray[np.uint8]:
    with open_plain(path) as file:
        data = file.read()
    magic, header = bytes((0, 0, 8, n_dims)), 4 + 4 * n_dims
    if data[:4] != magic:
        raise DatasetError(
            f"{path}: starts with {data[:4].hex() or 'nothing'}; expected {magic.hex()}, IDX {what} of "
            f"unsigned bytes in {n_dims} dimension{'s' * (n_dims > 1)}"
        )
    if len(data) < header:
        raise DatasetError(f"{path}: truncated, {len(data)} bytes; expected a header of {header} bytes")
    shape = struct.unpack(f">{n_dims}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise DatasetError(
            f"{path}: {len(data) - header} bytes of {what} after the header; expected "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


# --- npz -------------------------------------------------------------------------------------------------


def read_npz(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """Arrays X_train, y_train, X_test, y_test, or X, y, or the difference-coded D_train, D_test."""
    with open_plain(path) as file, np.load(file, allow_pickle=False) as arrays:
        keys = {key.lower(): key for key in arrays.files}
        if f"d_{split}" in keys and f"y_{split}" in keys:
            return _decode_differences(arrays[keys[f"d_{split}"]], path), arrays[keys[f"y_{split}"]]
        if f"x_{split}" in keys and f"y_{split}" in keys:
            images, labels = keys[f"x_{split}"], keys[f"y_{split}"]
        elif "x" in keys and "y" in keys:
            one_set(path, split)
            images, labels = keys["x"], keys["y"]
        else:
            raise DatasetError(
                f"{path}: no {split} part among its arrays {', '.join(arrays.files) or '(none)'}; "
                f"expected X_{split} (or D_{split}) and y_{split}, or X and y"
            )
        return to_uint8(arrays[images], path), arrays[labels]


def _decode_differences(differences: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Undo the coding: red and blue minus green, then differences down and across, all modulo 256."""
    if differences.ndim != 4 or differences.shape[1] != 3 or differences.dtype != np.uint8:
        raise DatasetError(
            f"{path}: differences are {differences.dtype} of shape {differences.shape}; expected uint8 "
            "of shape (n, 3, height, width)"
        )
    n, channels, height, width = differences.shape
    images = np.empty((n, height, width, channels), np.uint8)
    for start in range(0, n, 2000):
        block = slice(start, start + 2000)
        planes = np.cumsum(differences[block], axis=2, dtype=np.uint8)
        np.cumsum(planes, axis=3, dtype=np.uint8, out=planes)
        planes[:, 0] += planes[:, 1]
        planes[:, 2] += planes[:, 1]
        images[block] = planes.transpose(0, 2, 3, 1)
    return images


# --- CIFAR-10 and CIFAR-100 ------------------------------------------------------------------------------

#: Names of the batches, in a folder or an archive, binary (.bin) or pickled (no ending).
CIFAR_BATCH = r"(?:(?P<train>data_batch_(?P<number>\d+)|train)|test_batch|test)(?P<binary>\.bin)?"


def read_cifar(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """CIFAR-10 or CIFAR-100 (fine labels), binary or pickled: a batch, a folder or a tar archive."""
    if path.is_file() and not is_tar(path):
        one_set(path, split)
        with open_plain(path) as file:
            return _cifar_batch(file.read(), str(path))
    found = []
    for name, data in _named_files(path, CIFAR_BATCH):
        match = re.fullmatch(CIFAR_BATCH, name)
        if match and (match["train"] is not None) == (split == "train"):
            found.append((match["binary"] is None, int(match["number"] or 0), name, data))
    if not found:
        no_part(path, split, "data_batch_1, ... or train" if split == "train" else "test_batch or test")
    # where both forms of the batches lie side by side, each image is still taken once: binary sorts first
    found = sorted(entry for entry in found if entry[0] == min(found)[0])
    batches = [_cifar_batch(data, f"{path}: {name}") for _, _, name, data in found]
    return np.concatenate([images for images, _ in batches]), np.concatenate([y for _, y in batches])


def is_tar(path: Path) -> bool:
    """Whether a file, decompressed, is a tar archive."""
    with open_plain(path) as file:
        return file.read(512)[257:262] == b"ustar"


def _named_files(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files whose names match, of a folder or of a tar archive."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.is_file() and re.fullmatch(pattern, file.name):
                yield file.name, file.read_bytes()
        return
    with open_plain(path) as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and re.fullmatch(pattern, name):
                yield name, content.read()


def _cifar_batch(data: bytes, source: str) -> Parts:
    if data.startswith(b"\x80"):
        pixels, labels = _cifar_pickle(data, source)
    else:
        pixels, labels = _cifar_binary(data, source)
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _cifar_binary(data: bytes, source: str) -> Parts:
    """Records of one label (CIFAR-10) or a coarse and a fine label (CIFAR-100), then 3072 bytes."""
    for n_labels, limits in ((1, (10,)), (2, (20, 100))):
        records, rest = divmod(len(data), n_labels + 3072)
        if rest == 0 and records:
            table = np.frombuffer(data, np.uint8).reshape(records, n_labels + 3072)
            if (table[:, :n_labels] < limits).all():
                return table[:, n_labels:], table[:, n_labels - 1]
    raise DatasetError(
        f"{source}: {len(data)} bytes that are not whole CIFAR records; expected records of 3073 bytes, "
        "the first a label of 0 to 9 (CIFAR-10), or of 3074, labels below 20 and 100 (CIFAR-100)"
    )


class _Recorded:
    """What a pickle asks to make: the arguments and the state it gives, with nothing done."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reconstruct(_Recorded):
    """An array as protocols 0 to 4 hold it."""


class _FromBuffer(_Recorded):
    """An array as protocol 5 holds it."""


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of arrays, bytes, text, lists and dicts that calls no function of any other module.

    Not even numpy's: its own restoring functions trust what the pickle says of types.
    """

    _ALLOWED = {
        ("numpy", "ndarray"): _Recorded,
        ("numpy", "dtype"): _Recorded,
        # numpy 2 moved numpy.core to numpy._core; files hold either name
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
        ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) not in self._ALLOWED:
            raise DatasetError(f"asks for {module}.{name}")
        return self._ALLOWED[module, name]


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes into old pickle protocols."""
    if encoding != "latin1":
        raise DatasetError(f"asks for the encoding {encoding}")
    return text.encode("latin1")


def _as_text(value: Any) -> Any:
    """Text of Python 3, and of Python 2, whose text is bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _as_array(value: Any) -> NDArray[Any]:
    """Make the array that was recorded; numbers only."""
    if isinstance(value, _Reconstruct):
        _, shape, dtype, is_fortran, raw = value.state
    elif isinstance(value, _FromBuffer):
        raw, dtype, shape, order = value.arguments
        is_fortran = order == "F"
    elif isinstance(value, list):
        return np.asarray(value)
    else:
        raise TypeError("no array where one is expected")
    name, byte_order = _as_text(dtype.arguments[0]), _as_text(dtype.state[1])
    if re.fullmatch(r"[biuf][1248]", name) is None:
        raise TypeError(f"an array of type {name}")
    numbers = np.frombuffer(raw, np.dtype(name).newbyteorder(byte_order))
    return numbers.reshape(shape, order="F" if is_fortran else "C")


def _cifar_pickle(data: bytes, source: str) -> Parts:
    expected = "a dict with 'data', uint8 of shape (n, 3072), and 'labels' or 'fine_labels'"
    try:
        batch = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        batch = {_as_text(key): value for key, value in batch.items()}
        pixels = _as_array(batch["data"])
        labels = _as_array(batch["fine_labels" if "fine_labels" in batch else "labels"])
    except DatasetError as error:
        raise DatasetError(
            f"{source}: refused, the pickle {error}; expected only arrays, bytes, text, lists and dicts"
        ) from None
    except Exception as error:  # a damaged pickle can end in almost any exception
        raise DatasetError(
            f"{source}: not a CIFAR batch, or damaged ({type(error).__name__}: {error}); expected {expected}"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise DatasetError(f"{source}: data {pixels.dtype} of shape {pixels.shape}; expected {expected}")
    return pixels, labels


# --- MATLAB files: SVHN and simpleNN ---------------------------------------------------------------------


def read_mat(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """A MATLAB file: SVHN (X, y) or simpleNN (Z, y); or a folder of SVHN's train and test files."""
    if path.is_dir():
        file_name = f"{split}_32x32.mat"
        if not (path / file_name).is_file():
            no_part(path, split, file_name)
        path = path / file_name
    else:
        one_set(path, split)
    with open_plain(path) as file:
        found = _mat_arrays(file.read(), path)
    images, labels = found.get("Z", found.get("X")), found.get("y")
    if labels is not None and images is not None and len(images.shape) == 2 and "Z" in found:
        return rows_to_images(images, image_shape, path), labels
    if labels is not None and images is not None and len(images.shape) in (3, 4) and "X" in found:
        # MATLAB drops the last dimension of a single image
        images = to_uint8(images if images.ndim == 4 else images[..., None], path)
        return images.transpose(3, 0, 1, 2), np.where(labels == 10, 0, labels)
    shapes = ", ".join(f"{name} of shape {value.shape}" for name, value in found.items())
    raise DatasetError(
        f"{path}: has {shapes or 'no arrays X, y or Z'}; expected SVHN's X (32 x 32 x 3 x n) and y, or "
        "simpleNN's Z (n x pixels) and y"
    )


#: Types of the numbers in a MATLAB 5 file (MATLAB writes integers in the smallest type that holds them).
_MAT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MAT_MATRIX, _MAT_COMPRESSED = 14, 15


def _mat_arrays(data: bytes, path: Path) -> dict[str, Any]:
    """Real arrays X, y and Z of a MATLAB 5 file, dense or sparse.

    Not by `scipy.io.loadmat`, which can crash the process on a damaged file.
    """
    if data.startswith(b"MATLAB 7.3"):
        raise DatasetError(f"{path}: a MATLAB 7.3 (HDF5) file; expected one saved with the option -v7")
    order = {b"IM": "<", b"MI": ">"}[data[126:128]]
    arrays = {}
    for kind, content in _mat_elements(memoryview(data)[128:], order):
        if kind == _MAT_COMPRESSED:
            kind, content = next(_mat_elements(memoryview(zlib.decompress(content)), order))
        if kind != _MAT_MATRIX:
            continue
        elements = _mat_elements(content, order)
        (flags,) = struct.unpack(f"{order}I", next(elements)[1][:4])
        shape = np.frombuffer(next(elements)[1], f"{order}i4").tolist()
        name = bytes(next(elements)[1]).decode("latin1")
        is_complex, matlab_class = bool(flags & 0x800), flags & 0xFF
        if name in ("X", "y", "Z") and 5 <= matlab_class <= 15 and not is_complex:
            parts = [np.frombuffer(part, order + _MAT_TYPES[kind]) for kind, part in elements]
            arrays[name] = _mat_sparse(shape, *parts) if matlab_class == 5 else _mat_dense(shape, *parts)
    return arrays


def _mat_elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and contents of the elements that follow one another."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, at)
        start = at + 8
        if kind >> 16:  # at most four bytes lie inside the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(data):
            raise ValueError("truncated")
        yield kind, data[start : start + size]
        at = start + size
        if kind != _MAT_COMPRESSED:
            at += -at % 8


def _mat_dense(shape: list[int], numbers: NDArray[Any]) -> NDArray[Any]:
    if min(shape) < 0:
        raise ValueError(f"negative shape {shape}")
    return numbers.reshape(shape, order="F")


def _mat_sparse(shape: list[int], rows: NDArray[Any], starts: NDArray[Any], numbers: NDArray[Any]) -> Any:
    from scipy.sparse import csc_array

    rows, numbers = rows[: starts[-1]], numbers[: starts[-1]]  # room may be left at the end
    # SciPy trusts the indices
    if starts[0] != 0 or (np.diff(starts) < 0).any() or ((rows < 0) | (rows >= shape[0])).any():
        raise ValueError("indices of a sparse array out of range")
    native = [array.astype(array.dtype.newbyteorder("=")) for array in (numbers, rows, starts)]
    return csc_array(tuple(native), shape=tuple(shape))


# --- smallNORB -------------------------------------------------------------------------------------------

_NORB_TYPES = {0x1E3D4C55: np.dtype(np.uint8), 0x1E3D4C54: np.dtype("<i4")}


def read_norb(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """NORB images, max pooled by 3 x 3, from a -dat.mat file or from all those of a folder."""
    if path.is_file():
        one_set(path, split)
        files = [path]
    else:
        # by name without .gz; the plain file comes last and so is preferred
        entries = sorted(path.glob("*-dat.mat*"), reverse=True)
        dat = {p.name.removesuffix(".gz"): p for p in entries if p.name.endswith(("-dat.mat", "-dat.mat.gz"))}
        word = "training" if split == "train" else "testing"
        if not any("training" in name or "testing" in name for name in dat):
            one_set(path, split)
            word = ""
        files = [dat[name] for name in sorted(dat) if word in name]
        if not files:
            no_part(path, split, f"files named ...-{word}-...dat.mat")
    images, labels = [], []
    for file in files:
        stem, dat_ending, _ = file.name.partition("-dat.mat")
        if not dat_ending:
            raise DatasetError(f"{file}: not an images file; expected a name that ends in -dat.mat")
        cat = _first_existing(file.parent, [f"{stem}-cat.mat", f"{stem}-cat.mat.gz"])
        if cat is None:
            raise FileNotFoundError(f"{file}: no labels file beside it; expected {stem}-cat.mat")
        images.append(_norb_images(file))
        labels.append(_norb_labels(cat))
        if len(images[-1]) != len(labels[-1]):
            raise DatasetError(
                f"{cat}: {len(labels[-1])} labels; expected {len(images[-1])}, one for each image"
            )
    return np.concatenate(images), np.concatenate(labels)


def _norb_images(path: Path) -> NDArray[np.uint8]:
    pooled = []
    with open_plain(path) as file:
        n, channels, height, width = _norb_header(file, path, np.uint8, 4)
        for start in range(0, n, 500):
            m = min(500, n - start)
            block = np.frombuffer(_exactly(file, m * channels * height * width, path), np.uint8)
            block = block.reshape(m, channels, height, width)
            # Sec. 6.1: 96 x 96 to 32 x 32; rows and columns that do not fill a window are dropped
            block = block[:, :, : height // 3 * 3, : width // 3 * 3]
            block = np.maximum(np.maximum(block[:, :, ::3], block[:, :, 1::3]), block[:, :, 2::3])
            block = np.maximum(np.maximum(block[..., ::3], block[..., 1::3]), block[..., 2::3])
            pooled.append(block.transpose(0, 2, 3, 1))
        _at_end(file, path)
    return np.concatenate(pooled)


def _norb_labels(path: Path) -> NDArray[Any]:
    with open_plain(path) as file:
        (n,) = _norb_header(file, path, "<i4", 1)
        labels = np.frombuffer(_exactly(file, 4 * n, path), "<i4")
        _at_end(file, path)
    return labels


def _norb_header(file: IO[bytes], path: Path, dtype: Any, n_dims: int) -> tuple[int, ...]:
    """Read magic, number of dimensions and sizes; sizes are stored for three dimensions at least."""
    magic, found_dims = struct.unpack("<2I", _exactly(file, 8, path))
    if _NORB_TYPES.get(magic) != np.dtype(dtype) or found_dims != n_dims:
        raise DatasetError(
            f"{path}: magic number {magic:#010x} and {found_dims} dimensions; expected {np.dtype(dtype)} "
            f"in {n_dims}: {'images' if n_dims == 4 else 'labels'} of NORB"
        )
    stored = max(3, n_dims)
    shape = struct.unpack(f"<{stored}I", _exactly(file, 4 * stored, path))[:n_dims]
    # an upper limit too, lest a damaged header asks for all the memory there is
    if 0 in shape or math.prod(shape[1:]) > 1 << 20:
        raise DatasetError(f"{path}: of shape {shape}; expected images of 1 to {1 << 20} pixels")
    return shape


def _exactly(file: IO[bytes], size: int, path: Path) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise DatasetError(f"{path}: truncated; expected {size - len(data)} bytes more")
    return data


def _at_end(file: IO[bytes], path: Path) -> None:
    if file.read(1):
        raise DatasetError(f"{path}: longer than its header says; expected the end of the file")


# --- LIBSVM text -----------------------------------------------------------------------------------------


def read_svmlight(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """LIBSVM text: one image a line, a label and index:value pairs."""
    from sklearn.datasets import load_svmlight_file

    one_set(path, split)
    with open_plain(path) as file:
        # float32 holds 0..255 exactly and k/255 closely enough to find k
        features, labels = load_svmlight_file(file, dtype=np.float32, zero_based="auto")
    if features.nnz == 0:
        raise DatasetError(f"{path}: labels without any pixel; expected index:value pairs after them")
    return rows_to_images(features, image_shape, path), labels


def rows_to_images(rows: Any, image_shape: Shape | None, path: Path) -> NDArray[np.uint8]:
    """Images (n, height, width, channels) of dense or sparse rows that hold one channel after another."""
    from scipy.sparse import csr_array, issparse

    n, n_features = rows.shape
    if image_shape is None:
        for channels in (1, 3):
            side = math.isqrt(n_features // channels)
            if side and channels * side * side == n_features:
                image_shape = (side, side, channels)
    if image_shape is None or n_features > math.prod(image_shape):
        raise DatasetError(
            f"{path}: {n_features} features an image, which "
            + (f"do not fit image_shape={image_shape}" if image_shape else "is no square, nor three of them")
            + "; expected image_shape=(height, width, channels) that holds them (features that are 0 in "
            "all images may be missing at the end)"
        )
    height, width, channels = image_shape
    if issparse(rows):
        rows = csr_array(rows)
        data = to_uint8(rows.data, path)
        flat = csr_array((data, rows.indices, rows.indptr), shape=(n, math.prod(image_shape))).toarray()
    else:
        flat = np.zeros((n, math.prod(image_shape)), np.uint8)
        flat[:, :n_features] = to_uint8(rows, path)
    return np.ascontiguousarray(flat.reshape(n, channels, height, width).transpose(0, 2, 3, 1))


def to_uint8(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Pixels of any type as uint8: integers in 0..255 as they are, multiples of 1/255 times 255."""
    if values.dtype == np.uint8:
        return values
    result = np.empty(values.shape, np.uint8)
    if values.dtype.kind in "biuf":
        # six printed digits of k/255 are within 2e-4 of k after the multiplication
        if _scaled_into(values, 1, 0.0, result) or _scaled_into(values, 255, 1e-3, result):
            return result
    raise DatasetError(
        f"{path}: pixels of type {values.dtype} that are not bytes; expected integers in 0..255, or "
        "numbers in [0, 1] that are multiples of 1/255"
    )


def _scaled_into(values: NDArray[Any], scale: int, tolerance: float, out: NDArray[np.uint8]) -> bool:
    """Write values times scale to `out`; False if some are not integers in 0..255 within the tolerance."""
    step = max(1, (1 << 20) // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), step):
        scaled = values[start : start + step].astype(np.float64) * scale
        rounded = np.rint(scaled)
        with np.errstate(invalid="ignore"):  # inf - inf
            is_byte = (rounded >= 0) & (rounded <= 255) & (np.abs(scaled - rounded) <= tolerance)
        if not is_byte.all():
            return False
        out[start : start + step] = rounded
    return True


# --- folders of PNG and JPEG -----------------------------------------------------------------------------


def read_image_folder(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """PNG and JPEG images in one sub-folder a class, below train/ and test/ if these are there."""
    if (path / "train").is_dir() or (path / "test").is_dir():
        if not (path / split).is_dir():
            no_part(path, split, f"a sub-folder {split}")
        path = path / split
    else:
        one_set(path, split)
    files = [
        (file, folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in (".png", ".jpg", ".jpeg") and not file.name.startswith(".")
    ]
    if not files:
        raise DatasetError(f"{path}: no images; expected PNG or JPEG files in one sub-folder a class")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{path}: reading PNG and JPEG needs pillow: pip install hfcnn[plots]") from error
    images = np.empty(0, np.uint8)
    for i, (file, _) in enumerate(files):
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                if image.mode not in ("L", "RGB"):
                    raise DatasetError(f"{file}: of mode {image.mode}; expected L (gray) or RGB")
                pixels = np.asarray(image)
        except OSError as error:
            raise DatasetError(f"{file}: damaged ({error}); expected a PNG or JPEG image") from error
        if i == 0:
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DatasetError(
                f"{file}: of shape {pixels.shape}; expected {images.shape[1:]}, that of {files[0][0]}"
            )
        images[i] = pixels
    return images, np.array([label for _, label in files])

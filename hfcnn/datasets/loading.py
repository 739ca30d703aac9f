"""Image data sets from files: one function, `load`, that finds the format by what the files hold."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.cifar import CIFAR_BATCH, PICKLE, read_cifar
from hfcnn.datasets.files import Budget, DatasetError, Parts, Shape, Wanted, default_limit, open_plain
from hfcnn.datasets.folder import read_image_folder
from hfcnn.datasets.idx import read_idx
from hfcnn.datasets.matlab import read_mat
from hfcnn.datasets.norb import read_norb
from hfcnn.datasets.npz import read_npz
from hfcnn.datasets.svmlight import read_svmlight

__all__ = ["DatasetError", "load"]

_Reader: TypeAlias = Callable[[Path, Wanted], Parts]

#: What the first 512 bytes of a file, decompressed, match, and who reads it.
_FILES: tuple[tuple[bytes, _Reader], ...] = (
    (rb"PK\x03\x04", read_npz),
    (rb"\x00\x00[\x08\x09\x0b-\x0e][\x01-\x04]", read_idx),
    (rb"[\x54\x55]\x4c\x3d\x1e", read_norb),
    (rb"MATLAB [57]\.\d MAT-file", read_mat),
    (PICKLE, read_cifar),
    (rb"(?s:.{257})ustar", read_cifar),
    (rb"(?:\s*#[^\n]*\n)*\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?(?:[ \t]+\d+:[-+\d.]|[ \t]*\r?\n)", read_svmlight),
)

#: What the name of some file in a folder matches, and who reads the folder.
_FOLDERS: tuple[tuple[str, _Reader], ...] = (
    (r"(train|t10k)-images[-.]idx3-ubyte(\.gz)?", read_idx),
    (CIFAR_BATCH, read_cifar),
    (r"(train|test)_32x32\.mat", read_mat),
    (r".*-dat\.mat(\.gz)?", read_norb),
)

_EXPECTED = "IDX, npz, CIFAR (binary or python), SVHN or simpleNN .mat, NORB .mat, or LIBSVM text"


def load(
    path: str | os.PathLike[str],
    *,
    split: Literal["train", "test"] = "train",
    image_shape: tuple[int, ...] | None = None,
    max_bytes: int | None = None,
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Load one part of an image data set from a file or a folder.

    The format is found by content; gzip, bzip2 and xz compression too. Nothing in a file is executed:
    pickles are limited to arrays, and archives are read in memory.

    Parameters
    ----------
    path : str or path-like
        One of:

        - IDX (MNIST, Fashion-MNIST): a folder with ``train-images-idx3-ubyte`` and its companions, or an
          images file with its labels file beside it;
        - ``.npz`` with ``X_train``, ``y_train``, ``X_test``, ``y_test``, or ``X``, ``y``; also
          ``D_train``, ``D_test``, differences modulo 256 of shape (n, 3, height, width);
        - CIFAR-10 or CIFAR-100 (fine labels), binary or python version: the folder, the ``.tar.gz``, or
          one batch;
        - SVHN's cropped digits: ``train_32x32.mat``, or the folder; label 10 becomes 0;
        - NORB: a ``-dat.mat`` file with its ``-cat.mat`` beside it, or a folder, whose numbered files are
          joined in the order of their names; images are max pooled by 3 x 3, so that smallNORB's two
          96 x 96 views become one image of shape (32, 32, 2) (Wang, Tan & Lin, Sec. 6.1);
        - LIBSVM text, as of its pages of data sets; see Notes;
        - simpleNN's ``.mat``: ``y`` and ``Z`` of shape (n, pixels), dense or sparse; see Notes;
        - a folder of PNG or JPEG images (gray or RGB, all of one size) in one sub-folder a class, whose
          names are the labels; below ``train`` and ``test`` if these are there. Needs pillow, which
          ``hfcnn[plots]`` installs.
    split : {"train", "test"}, default="train"
        The part to load. A single file that holds one set is all "train".
    image_shape : (height, width, channels) or (height, width), default=None
        Shape of the images; only LIBSVM and simpleNN files do not say it themselves. None takes a square
        number of features as a gray image and three times a square as a colour image. For other formats
        it is only compared.
    max_bytes : int, default=None
        Most bytes that the data set may take once it is decompressed: what is read of its files and made of
        that; the memory in use at one time is at most a small multiple. A file that asks for more is refused
        before the memory is taken. None allows 256 MiB, or a hundred times the size of the files on disk if
        that is more, so that a small file cannot fill the memory.

    Returns
    -------
    X : ndarray of shape (n, height, width, channels), uint8
        Images, C-contiguous and writable.
    y : ndarray of shape (n,), int64 or str
        Labels as they are in the file, not renumbered; text in Unicode's form NFC.

    Raises
    ------
    DatasetError
        If a file is damaged, of no known format, needs more than `max_bytes`, or lacks the split (then a
        `MissingPartError`, which a damaged part never is). A `ValueError` that names the file, what is wrong,
        and what was expected.
    FileNotFoundError
        If the path, or a labels file that belongs to it, is not there.
    PermissionError
        If a file may not be read.
    ImportError
        If pillow is needed and missing.

    Notes
    -----
    A row of LIBSVM's mnist and cifar10 files, and of simpleNN's ``Z``, holds one channel after another
    (all of red, then green, then blue), each by rows from the top: index ``(c * height + i) * width + j``.
    Features missing at the end are 0: LIBSVM's mnist has only 780 columns, so give it
    ``image_shape=(28, 28, 1)``. Indices start at 1, or at 0 if an index 0 occurs. Their values become
    uint8 only if nothing is lost: integers in 0..255 as they are, multiples of 1/255 in [0, 1] times 255.

    Examples
    --------
    >>> X, y = load("cifar-10-binary.tar.gz", split="test")  # doctest: +SKIP
    >>> X.shape, X.dtype  # doctest: +SKIP
    ((10000, 32, 32, 3), dtype('uint8'))
    """
    path = Path(path)
    if split not in ("train", "test"):
        raise DatasetError(f"{path}: split must be 'train' or 'test'; got {split!r}")
    shape = _check_image_shape(image_shape)
    if max_bytes is not None and (not isinstance(max_bytes, int | np.integer) or max_bytes < 1):
        raise DatasetError(f"max_bytes={max_bytes!r}: expected a positive number of bytes")
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file or folder; expected {_EXPECTED}, or a folder of images"
        )
    wanted = Wanted(split, shape, Budget(default_limit(path) if max_bytes is None else int(max_bytes)))
    try:
        X, y = _find_reader(path, wanted.budget)(path, wanted)
        return _checked(X, y, shape, path)
    except (DatasetError, FileNotFoundError, PermissionError, ImportError):
        raise
    except MemoryError as error:
        raise DatasetError(
            f"{path}: needs more memory than there is; max_bytes sets a lower limit"
        ) from error
    except Exception as error:  # a damaged file leads decoders into almost any exception
        raise DatasetError(f"{path}: damaged ({error}); expected {_EXPECTED}") from error


def _find_reader(path: Path, budget: Budget) -> _Reader:
    if path.is_dir():
        entries = sorted(path.iterdir())
        for pattern, reader in _FOLDERS:
            if any(re.fullmatch(pattern, entry.name) for entry in entries if not entry.is_dir()):
                return reader
        if any(entry.is_dir() for entry in entries):
            return read_image_folder
        raise DatasetError(
            f"{path}: no data set in this folder; expected the files of {_EXPECTED}, or images"
        )
    with open_plain(path, budget) as file:
        head = file.read(512)
        for magic, reader in _FILES:
            if re.match(magic, head):
                return reader
        # binary CIFAR has no magic number: its length and the labels below 10 or 100 must do
        size = len(head) + sum(map(len, iter(lambda: file.read(1 << 16), b"")))
    if path.name.endswith((".bin", ".bin.gz")) or size and 0 in (size % 3073, size % 3074):
        return read_cifar
    raise DatasetError(
        f"{path}: of no known format, starts with {head[:8].hex(' ') or 'nothing'}; expected {_EXPECTED}"
    )


def _check_image_shape(image_shape: tuple[int, ...] | None) -> Shape | None:
    if image_shape is None:
        return None
    sizes = tuple(image_shape) if isinstance(image_shape, Iterable) else ()
    sizes = sizes if len(sizes) == 3 else (*sizes, 1)
    if len(sizes) != 3 or not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
        raise DatasetError(
            f"image_shape={image_shape!r}: expected positive (height, width) or (height, width, channels)"
        )
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def _checked(X: NDArray[Any], y: NDArray[Any], image_shape: Shape | None, path: Path) -> Parts:
    """Bring images and labels to their final form, or say why not."""
    if X.ndim == 3:
        X = X[..., None]
    if X.ndim != 4 or X.size == 0:
        raise DatasetError(
            f"{path}: images of shape {X.shape}; expected (n, height, width[, channels]), n > 0"
        )
    if image_shape is not None and X.shape[1:] != image_shape:
        raise DatasetError(f"{path}: images of shape {X.shape[1:]}; expected image_shape={image_shape}")
    if y.size != len(X) or max(y.shape, default=0) != y.size:
        raise DatasetError(f"{path}: labels of shape {y.shape}; expected one for each of {len(X)} images")
    y = y.ravel()
    if y.dtype.kind in "biuf":
        if not np.array_equal(y, np.trunc(y)) or not np.isfinite(y).all():
            raise DatasetError(f"{path}: labels that are not integers; expected class labels")
        y = y.astype(np.int64)
    elif y.dtype.kind in "SU":
        # the same text may be written in two ways, such as an accent apart, by other systems
        texts, indices = np.unique(y.astype(str), return_inverse=True)
        y = np.array([unicodedata.normalize("NFC", text) for text in texts])[indices]
    else:
        raise DatasetError(f"{path}: labels of type {y.dtype}; expected integers or text")
    return np.require(X, np.uint8, ["C", "W"]), y

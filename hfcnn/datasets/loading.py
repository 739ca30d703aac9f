"""Image data sets from files: one function, `load`, that finds the format by what the files hold."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.decode import check_color, check_shape, check_size
from hfcnn.datasets.files import Budget, Color, DatasetError, Wanted, default_limit
from hfcnn.datasets.pixels import check_image_shape
from hfcnn.datasets.recognize import only_dataset_errors, read
from hfcnn.datasets.shards import Shards

__all__ = ["DatasetError", "budget_for", "load", "with_channels"]


def load(
    path: str | os.PathLike[str],
    *,
    split: Literal["train", "test"] = "train",
    image_shape: tuple[int, ...] | None = None,
    size: tuple[int, int] | None = None,
    color: Color | None = None,
    zero_based: bool | Literal["auto"] = "auto",
    max_bytes: int | None = None,
) -> tuple[Any, NDArray[Any]]:
    """Load one part of an image data set from a file or a folder.

    The format is found by content; gzip, bzip2 and xz compression too. Nothing in a file is executed:
    pickles are limited to arrays, and archives are read in memory.

    Parameters
    ----------
    path : str or path-like
        One of:

        - IDX (MNIST, Fashion-MNIST): a folder with ``train-images-idx3-ubyte`` and its companions, or an
          images file with its labels file beside it;
        - ``.npz`` with ``X_train``, ``y_train``, ``X_test``, ``y_test``, or ``X``, ``y``; also ``images``,
          ``labels`` or ``data``, ``target`` in their place, or ``train_images``, ``train_labels``, ...; and
          ``D_train``, ``D_test``, differences modulo 256 of shape (n, 3, height, width);
        - CIFAR-10 or CIFAR-100 (fine labels), binary or python version: the folder, the ``.tar.gz``, or
          one batch;
        - SVHN's cropped digits: ``train_32x32.mat``, or the folder; label 10 becomes 0;
        - NORB: a ``-dat.mat`` file with its ``-cat.mat`` beside it, or a folder, whose numbered files are
          joined in the order of their names; images are max pooled by 3 x 3, so that smallNORB's two
          96 x 96 views become one image of shape (32, 32, 2) (Wang, Tan & Lin, Sec. 6.1);
        - CSV with a column of pixels each, and one of labels, named ``label`` or the like, or else the first:
          a file, or a folder such as Kaggle's with ``train.csv`` and ``test.csv``;
        - LIBSVM text, as of its pages of data sets; see Notes;
        - simpleNN's ``.mat``: ``y`` and ``Z`` of shape (n, pixels), dense or sparse; see Notes;
        - a folder of ``.npy`` files, for more images than memory holds: ``X-000.npy``, ``X-001.npy``, ... of
          images, uint8, and ``y-000.npy``, ... of their labels, or one ``y.npy`` of all; with parts,
          ``X_train-000.npy`` and so on; also ``images``, ``labels`` or ``data``, ``target`` in their place;
        - a folder of image files (PNG, JPEG, BMP, WebP, TIFF, GIF, PPM) in one sub-folder per class, whose
          name is the label; what lies deeper belongs to the class too. Below ``train`` and ``test`` (or
          ``Training``, ``test_set``, ...; ``val`` where there is no test folder) if these are there. Needs
          pillow, which ``hfcnn[plots]`` installs.

        A folder that holds one of these, such as torchvision's ``MNIST/raw``, may be named too.
    split : {"train", "test"}, default="train"
        The part to load. A single file that holds one set is all "train".
    image_shape : (height, width, channels) or (height, width), default=None
        Shape of the images; only LIBSVM and simpleNN files, CSV and flat arrays do not say it themselves.
        None takes a square number of features as a gray image, and of LIBSVM and simpleNN three times a
        square as a colour image. For other formats it is only compared.
    size : (height, width), default=None
        Size to bring image files to: each is resized until it covers this size, and cut at the centre. None
        keeps theirs, which must then be one. Formats that hold arrays keep their size: it is compared.
    color : {"gray", "rgb"}, default=None
        Colour to bring image files to; transparent parts become white. None keeps gray and RGB, and makes
        RGB of palettes and CMYK; all must then be of one kind.
    zero_based : bool or "auto", default="auto"
        Whether the first feature of LIBSVM text has the index 0. "auto" takes 0 for the first if that occurs.
    max_bytes : int, default=None
        Most bytes that the data set may take once it is decompressed: what is read of its files and made of
        that; the memory in use at one time is at most a small multiple. A file that asks for more is refused
        before the memory is taken. None allows 256 MiB, or a hundred times the size of the files on disk if
        that is more, so that a small file cannot fill the memory.

    Returns
    -------
    X : ndarray of shape (n, height, width, channels), uint8
        Images, C-contiguous and writable. Of ``.npy`` files a `Shards`, which reads images when it is
        indexed, and takes none of `max_bytes`.
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
    Rows of CSV and flat arrays hold one pixel after another: ``(i * width + j) * channels + c``.
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
    shape = check_image_shape(image_shape)
    size, color = check_size(size), check_color(color)
    if zero_based not in (True, False, "auto"):
        raise DatasetError(f"zero_based={zero_based!r}: expected True, False or 'auto'")
    wanted = Wanted(split, shape, budget_for(path, max_bytes), size, color, zero_based, max_bytes)
    with only_dataset_errors(path):
        X, y = read(path, wanted)
        X = with_channels(X, wanted, path)
        return X, _checked_labels(y, len(X), path)


def budget_for(path: Path, max_bytes: int | None) -> Budget:
    """Make the budget of a data set.

    Raises
    ------
    DatasetError
        If the limit is no positive number.
    """
    if max_bytes is None:
        return Budget(default_limit(path) if path.exists() else 1)
    if not isinstance(max_bytes, int | np.integer) or max_bytes < 1:
        raise DatasetError(f"max_bytes={max_bytes!r}: expected a positive number of bytes")
    return Budget(int(max_bytes))


def with_channels(X: Any, wanted: Wanted, path: Path) -> Any:
    """Bring images to their final form, uint8 of shape (n, height, width, channels), or say why not."""
    if isinstance(X, Shards):
        check_shape(X.shape, wanted, path)
        return X
    if X.ndim == 3:
        X = X[..., None]
    if X.ndim != 4 or X.size == 0:
        raise DatasetError(
            f"{path}: images of shape {X.shape}; expected (n, height, width[, channels]), n > 0"
        )
    check_shape(X.shape, wanted, path)
    return np.require(X, np.uint8, ["C", "W"])


def _checked_labels(y: NDArray[Any], n_images: int, path: Path) -> NDArray[Any]:
    if y.size != n_images or max(y.shape, default=0) != y.size:
        raise DatasetError(f"{path}: labels of shape {y.shape}; expected one for each of {n_images} images")
    y = y.ravel()
    if y.dtype.kind in "biuf":
        if not np.array_equal(y, np.trunc(y)) or not np.isfinite(y).all():
            raise DatasetError(f"{path}: labels that are not integers; expected class labels")
        if y.dtype.kind in "uf" and y.max() >= (1 << 53 if y.dtype.kind == "f" else 1 << 63):
            raise DatasetError(f"{path}: labels up to {y.max()}, which are not told apart; expected classes")
        if y.dtype.kind == "f" and y.min() <= -(1 << 53):
            raise DatasetError(f"{path}: labels from {y.min()}, which are not told apart; expected classes")
        y = y.astype(np.int64)
    elif y.dtype.kind in "SU":
        # the same text may be written in two ways, such as an accent apart, by other systems
        texts, indices = np.unique(y.astype(str), return_inverse=True)
        y = np.array([unicodedata.normalize("NFC", text) for text in texts])[indices]
    else:
        raise DatasetError(f"{path}: labels of type {y.dtype}; expected integers or text")
    return y

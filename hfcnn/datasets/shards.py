"""Images in many `.npy` files, read as they are needed: for sets larger than memory."""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import DatasetError, Wanted, no_part, one_set, open_regular
from hfcnn.datasets.npz import IMAGE_ARRAYS, LABEL_ARRAYS, array_header, read_array
from hfcnn.datasets.pixels import check_image_shape

__all__ = ["SHARD", "Shards", "read_shards"]

#: Name of such a file: X-000.npy, y_train-12.npy, images.npy.
SHARD = (
    rf"(?i:(?P<name>{'|'.join((*IMAGE_ARRAYS, *LABEL_ARRAYS))})"
    r"(?:[-_](?P<part>train|test))?(?:[-_]?(?P<number>\d+))?\.npy)"
)


class _File(NamedTuple):
    path: Path
    n_images: int
    offset: int  # bytes before the first image


class Shards:
    """Images in `.npy` files, one after another, as one array that is never read as a whole.

    Files are opened for each read and closed after it: nothing is mapped, so memory holds the images that
    were asked for and no others, and copies, also in other processes, hold only the files' names.

    Parameters
    ----------
    paths : sequence of str or path
        The files, each of images (n, height, width[, channels]) or, flat, (n, values), of one real type.
    image_shape : (height, width, channels) or (height, width), default=None
        Shape of flat images, one pixel after another.

    Attributes
    ----------
    shape : (int, int, int, int)
        (l, H, W, C).
    dtype : dtype
        Type of the images, in this machine's byte order.

    Raises
    ------
    DatasetError
        If there is no file, or one is damaged or of other images than the first.
    OSError
        If a file cannot be read.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pathlib import Path
    >>> from hfcnn.datasets import Shards
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in range(2):
    ...         np.save(Path(folder) / f"X-{i}.npy", np.full((3, 4, 4), i, np.uint8))
    ...     X = Shards(sorted(Path(folder).iterdir()))
    ...     print(X.shape, X[[0, 5, 2]][:, 0, 0, 0])
    (6, 4, 4, 1) [0 1 0]
    """

    ndim = 4
    #: Reading them takes time in which something else can be computed.
    is_on_disk = True

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], image_shape: tuple[int, ...] | None = None
    ) -> None:
        if not len(paths):
            raise DatasetError("there are no shards; expected at least one .npy file of images")
        self._wanted = check_image_shape(image_shape)
        self._stored = np.dtype(np.uint8)
        self.shape: tuple[int, ...] = ()
        self._files = [self._opened(Path(path)) for path in paths]
        self._stops = list(accumulate(file.n_images for file in self._files))
        self.shape = (self._stops[-1], *self.shape[1:])
        self.dtype = self._stored.newbyteorder("=")

    def _opened(self, path: Path) -> _File:
        """Check a file by its header and its size."""
        with open_regular(path) as file:
            shape, is_fortran, dtype = array_header(file)
            offset = file.tell()
            n_bytes = os.fstat(file.fileno()).st_size - offset
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or dtype.subdtype is not None:
            raise DatasetError(f"{path}: images of type {dtype}; expected integers or float16 to float64")
        if is_fortran or n_bytes != dtype.itemsize * math.prod(shape):
            raise DatasetError(
                f"{path}: {n_bytes} bytes in {'Fortran' if is_fortran else 'C'} order; expected those of "
                f"shape {shape} and type {dtype} in C order"
            )
        images = self._image_shape(path, shape)
        if self.shape and (images, dtype) != (self.shape[1:], self._stored):
            raise DatasetError(
                f"{path}: images of shape {images} and type {dtype}; expected {self.shape[1:]} and "
                f"{self._stored}, as in the first shard"
            )
        self.shape, self._stored = (0, *images), dtype
        return _File(path, shape[0], offset)

    def _image_shape(self, path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(shape) in (3, 4) and min(shape) > 0:
            return (*shape[1:], 1)[:3]
        if len(shape) == 2 and shape[0] and self._wanted and math.prod(self._wanted) == shape[1]:
            return self._wanted
        raise DatasetError(
            f"{path}: an array of shape {shape}; expected images (n, height, width[, channels]), n > 0, or "
            "flat ones with the image_shape that holds their values"
        )

    @property
    def lengths(self) -> list[int]:
        """Images of each file."""
        return [file.n_images for file in self._files]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read some images: one by its number, or those of a slice, an array of numbers, or a mask.

        What follows the first of several indices is applied to the images that were read.
        """
        first, rest = (index[0], index[1:]) if isinstance(index, tuple) else (index, ())
        if isinstance(first, int | np.integer):
            image: NDArray[Any] = self._read(self._rows([first]))[(0, *rest)]
            return image
        images = self._read(self._rows(first))
        return images[(slice(None), *rest)] if rest else images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all images, for what takes nothing but arrays."""
        if copy is False:
            raise ValueError("images in files cannot be an array without being read")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def _rows(self, index: Any) -> NDArray[np.int64]:
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        rows = np.asarray(index)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of shape {rows.shape}; expected ({len(self)},)")
            return np.flatnonzero(rows)
        if rows.ndim != 1 or rows.size and rows.dtype.kind not in "iu":
            raise IndexError(
                f"an index of shape {rows.shape} and type {rows.dtype}; expected numbers of images"
            )
        rows = np.where(rows < 0, rows + len(self), rows).astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"images {rows.min()} to {rows.max()} of {len(self)}")
        return rows

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read rows in the order in which they are stored; return them in theirs."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        images = np.empty((len(rows), *self.shape[1:]), self._stored)
        runs = np.flatnonzero(np.diff(ordered, prepend=-2) != 1).tolist()
        cuts = np.searchsorted(ordered, self._stops).tolist()  # also where a file ends
        bounds = sorted({*runs, *cuts, len(rows)})
        for start, stop in zip(bounds, bounds[1:], strict=False):
            self._read_run(int(ordered[start]), images[start:stop])
        if (order[1:] < order[:-1]).any():
            images = images[np.argsort(order)]
        return images.astype(self.dtype, copy=False)

    def _read_run(self, first: int, out: NDArray[Any]) -> None:
        """Read images that follow one another in a file."""
        number = bisect_right(self._stops, first)
        path, n_images, offset = self._files[number]
        place = first - (self._stops[number] - n_images)
        with open(path, "rb", buffering=0) as file, out.reshape(-1).view(np.uint8).data as view:
            file.seek(offset + place * (out.nbytes // len(out)))
            done = 0
            while done < len(view):
                n_read = file.readinto(view[done:])
                if not n_read:
                    raise OSError(f"{path}: ends before its last image; it has been changed")
                done += n_read


def read_shards(folder: Path, wanted: Wanted) -> tuple[Shards, NDArray[Any]]:
    """Images and labels of a folder of `.npy` files with names of `SHARD`, in the order of their numbers.

    Raises
    ------
    DatasetError
        If images or labels are missing, of a type that is no pixel's, or do not belong together.
    """
    images, labels = _files_of_part(folder, wanted.split)
    if not images or wanted.labelled and not labels:
        missing = "labels, such as y-000.npy" if images else "images, such as X-000.npy"
        raise DatasetError(f"{folder}: has no {wanted.split} {missing}, beside the others")
    X = Shards(list(images.values()), wanted.image_shape)
    if X.dtype != np.uint8:
        raise DatasetError(
            f"{folder}: images of type {X.dtype}; expected uint8. Images of other types can be passed to fit "
            "as hfcnn.datasets.Shards(paths)"
        )
    if not wanted.labelled:
        return X, np.empty(0, np.int64)
    found = [_labels(path, wanted) for path in labels.values()]
    if len(labels) > 1:  # one file may hold all labels
        n_images = dict(zip(images, X.lengths, strict=True))
        n_labels = {number: len(part) for number, part in zip(labels, found, strict=True)}
        for number in sorted({*images, *labels}):
            if n_images.get(number) != n_labels.get(number):
                raise DatasetError(
                    f"{folder}: shard {number} has {n_images.get(number, 0)} images and "
                    f"{n_labels.get(number, 0)} labels; expected as many, or the labels of all in one file"
                )
    return X, np.concatenate(found)


def _files_of_part(folder: Path, split: str) -> tuple[dict[int, Path], dict[int, Path]]:
    """Files of images and of labels of a part, by their numbers, upwards."""
    found: dict[tuple[str, bool], dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(SHARD, path.name)
        if match is None:
            continue
        key = ((match["part"] or "").lower(), match["name"].lower() in LABEL_ARRAYS)
        files, number = found.setdefault(key, {}), int(match["number"] or 0)
        if number in files:
            raise DatasetError(
                f"{folder}: has {files[number].name} and {path.name}; expected one of a number"
            )
        files[number] = path
    parts = {part for part, _ in found}
    if parts == {""}:
        one_set(folder, split)
        split = ""
    elif "" in parts:
        raise DatasetError(
            f"{folder}: has shards with and without train or test in their names; expected one kind"
        )
    elif split not in parts:
        no_part(folder, split, f"X_{split}-000.npy and y_{split}-000.npy")
    images, labels = (dict(sorted(found.get((split, is_labels), {}).items())) for is_labels in (False, True))
    return images, labels


def _labels(path: Path, wanted: Wanted) -> NDArray[Any]:
    with open_regular(path) as file:
        return read_array(file, os.fstat(file.fileno()).st_size, str(path), wanted.budget).reshape(-1)

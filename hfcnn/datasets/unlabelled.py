"""Images without labels, for prediction: `load_images`."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.decode import check_color, check_size, looks_like_image, size_and_color
from hfcnn.datasets.files import Budget, Color, DatasetError, MissingPartError, Wanted, open_regular
from hfcnn.datasets.folder import read_files, readable
from hfcnn.datasets.loading import budget_for, with_channels
from hfcnn.datasets.pixels import check_image_shape
from hfcnn.datasets.recognize import find_data_folder, only_dataset_errors, read
from hfcnn.datasets.tree import part_folders, scan, unwrapped

__all__ = ["load_images"]


def load_images(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    split: Literal["train", "test"] | None = None,
    image_shape: tuple[int, ...] | None = None,
    size: tuple[int, int] | None = None,
    color: Color | None = None,
    max_bytes: int | None = None,
) -> tuple[NDArray[np.uint8], list[str]]:
    """Load images whose labels are not known, or not of interest.

    Parameters
    ----------
    paths : str, path, or several
        Each is an image file, a folder of image files at any depth, a pattern such as ``"photos/*.jpg"``,
        an ``.npz`` or CSV file of images without labels, or any data set that `hfcnn.load` reads.
    split : {"train", "test"}, default=None
        Part of a data set that has parts. None takes the test part, or all where there is none.
    image_shape : (height, width, channels) or (height, width), default=None
        Shape of the images, such as ``classifier.image_shape_``. Image files are brought to it, so that
        `size` and `color` follow from it. Arrays must have it, or be flat: then they are given it.
    size : (height, width), default=None
        Size to bring image files to, if `image_shape` is None: as in `hfcnn.load`.
    color : {"gray", "rgb"}, default=None
        Colour to bring image files to, if `image_shape` is None.
    max_bytes : int, default=None
        Most bytes for all of them, as in `hfcnn.load`.

    Returns
    -------
    X : ndarray of shape (n, height, width, channels), uint8
        Images.
    names : list of n str
        The file of each image, with escapes for bytes that are no text; for images in one file
        ``file[index]``.

    Raises
    ------
    DatasetError
        If there is no image, one is damaged, or their shapes differ. A `ValueError` that names the file.
    FileNotFoundError
        If a path is not there, or nothing matches a pattern.
    ImportError
        If pillow is needed and missing.
    """
    if split not in (None, "train", "test"):
        raise DatasetError(f"split={split!r}: expected 'train', 'test' or None")
    shape = check_image_shape(image_shape)
    size, color = check_size(size), check_color(color)
    if shape is not None:
        size, color = size_and_color(shape)
    wanted = Wanted(split or "test", shape, Budget(1), size, color, "auto", max_bytes, labelled=False)
    parts: list[NDArray[np.uint8]] = []
    names: list[str] = []
    for is_file, group in groupby(_sources(paths, split), lambda source: source[0]):
        found = [path for _, path in group]
        if is_file:
            left = (
                sum(budget_for(path, max_bytes).n_bytes for path in found) if max_bytes is None else max_bytes
            )
            of_group = replace(wanted, budget=budget_for(found[0], left))
            try:
                parts.append(with_channels(read_files(found, of_group), of_group, found[0]))
            except MemoryError as error:
                raise DatasetError(
                    f"{found[0]} and {len(found) - 1} more need more memory than there is"
                ) from error
            names += map(_printable, found)
        else:
            for path in found:
                parts.append(_read_arrays(path, replace(wanted, budget=budget_for(path, max_bytes)), split))
                names += [f"{_printable(path)}[{i}]" for i in range(len(parts[-1]))]
    for part in parts:
        if part.shape[1:] != parts[0].shape[1:]:
            raise DatasetError(
                f"images of shapes {parts[0].shape[1:]} and {part.shape[1:]} in what was given; expected one"
            )
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)), names


def _printable(path: Path) -> str:
    """Name of a file, with escapes for what in it is no text."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _sources(paths: Any, split: str | None) -> Iterator[tuple[bool, Path]]:
    """Each image file that is meant, and each file or folder of arrays: whether it is the former."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    is_empty = True
    for given in paths:
        is_empty = False
        path = Path(given)
        if path.exists():
            yield from _of_path(path, split)
            continue
        matches = sorted(glob.glob(os.fspath(given), recursive=True)) if glob.has_magic(str(path)) else []
        if not matches:
            raise FileNotFoundError(f"{path}: no such file or folder, and no pattern that a file matches")
        for match in matches:
            yield from _of_path(Path(match), split)
    if is_empty:
        raise DatasetError("no paths of images were given; expected at least one")


def _of_path(path: Path, split: str | None) -> Iterator[tuple[bool, Path]]:
    if not path.is_dir():
        with open_regular(path) as file:
            yield looks_like_image(file.read(16)), path
        return
    if find_data_folder(path) is not None:
        yield False, path
        return
    tree = unwrapped(scan(path), stops_at_part=True)
    parts = part_folders(tree)
    if parts and split is not None and split not in parts:
        raise MissingPartError(f"{path}: has no {split} part; expected a sub-folder {split}")
    if parts:
        tree = parts.get(split or "test") or parts.get("validation") or tree
    images = readable(tree)
    if not images:
        raise DatasetError(f"{path}: no images in this folder or below; expected PNG, JPEG or the like")
    for image in images:
        yield True, image


def _read_arrays(path: Path, wanted: Wanted, split: str | None) -> NDArray[np.uint8]:
    """Images of a data set: of the part asked for, or by default of the test part or else of all."""
    with only_dataset_errors(path):
        try:
            X, _ = read(path, wanted)
        except MissingPartError:
            if split is not None:
                raise
            wanted = replace(wanted, split="train", budget=budget_for(path, wanted.max_bytes))
            X, _ = read(path, wanted)
        images: NDArray[np.uint8] = with_channels(X, wanted, path)
        return images

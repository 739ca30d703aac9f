"""Folders of image files, one sub-folder per class, and image files without labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.decode import decode_image, pillow
from hfcnn.datasets.files import DatasetError, Parts, Wanted, no_part, one_set, open_regular
from hfcnn.datasets.tree import ImageTree, class_folders, label_of, scan, unwrapped

__all__ = ["read_files", "read_image_folder", "readable"]


def read_image_folder(path: Path, wanted: Wanted) -> Parts:
    """Images in one sub-folder per class, below folders of training and test images if these are there."""
    tree = unwrapped(scan(path), stops_at_part=True)
    classes = class_folders(tree, wanted.split)
    if classes is None:
        one_set(path, wanted.split)
        classes = tree.folders
    elif not classes:
        no_part(path, wanted.split, f"a sub-folder {wanted.split} that holds one folder per class")
    if tree.images and tree.folders is classes:
        raise DatasetError(f"{tree.images[0]}: an image in no folder of a class; expected one per class")
    files: list[Path] = []
    labels: list[str] = []
    for folder in classes:
        of_class = _images_of_class(folder)
        files += of_class
        labels += [label_of(folder.path)] * len(of_class)
    return read_files(files, wanted), np.array(labels)


def _images_of_class(folder: ImageTree) -> list[Path]:
    images = readable(folder)
    if not images:
        raise DatasetError(f"{folder.path}: a class with no images; put some there, or remove the folder")
    return images


def readable(tree: ImageTree) -> list[Path]:
    """Images of a folder and all below it, of which none may be left out in silence.

    Raises
    ------
    DatasetError
        If there is a file that is neither an image nor a known companion of images.
    """
    for other in tree.all_others():
        raise DatasetError(
            f"{other}: no image of a kind that is read (PNG, JPEG, BMP, WebP, TIFF, GIF, PPM); convert it or "
            "move it away"
        )
    return list(tree.all_images())


def read_files(files: Sequence[Path], wanted: Wanted) -> NDArray[np.uint8]:
    """Decode image files into one array.

    Parameters
    ----------
    files : sequence of Path
        The files, of which there is at least one.
    wanted : Wanted
        Size, colour and limits.

    Returns
    -------
    ndarray of shape (n, height, width, channels), uint8

    Raises
    ------
    DatasetError
        If one is damaged, they need more memory than is allowed, or their shapes differ.
    """
    pillow(files[0])
    images = np.empty((0, 0, 0, 0), np.uint8)
    for i, file in enumerate(files):
        with open_regular(file) as opened:
            pixels = decode_image(opened, file, wanted.size, wanted.color, wanted.max_bytes)
        if i == 0:
            n_bytes = len(files) * pixels.nbytes
            wanted.budget.take(n_bytes, f"{len(files)} images of shape {pixels.shape}, the first {file}")
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            _refuse_shape(file, pixels, files[0], images)
        images[i] = pixels
    return images


def _refuse_shape(file: Path, pixels: NDArray[np.uint8], first: Path, images: NDArray[np.uint8]) -> None:
    if pixels.shape[:2] != images.shape[1:3]:
        remedy = "size=(height, width), or --size H,W, brings all images to one size"
    else:
        remedy = "color='gray' or color='rgb', or --color, brings all images to one of them"
    raise DatasetError(
        f"{file}: of shape {pixels.shape}; expected {images.shape[1:]}, that of {first}; {remedy}"
    )

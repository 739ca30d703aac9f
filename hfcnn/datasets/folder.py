"""Folders of images, one sub-folder per class."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import DatasetError, Parts, Wanted, no_part, one_set, open_regular

__all__ = ["read_image_folder"]

#: Endings of the files that are read.
ENDINGS = (".png", ".jpg", ".jpeg")

#: Endings of images that are not read: in the folder of a class they are not passed over in silence.
OTHER_ENDINGS = (
    *(".jfif", ".jpe", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif", ".heic", ".heif", ".jp2"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".svg", ".exr", ".psd", ".dcm", ".raw", ".cr2", ".nef"),
)

#: Bytes per pixel of a decoded image at most.
DECODED = 4


def read_image_folder(path: Path, wanted: Wanted) -> Parts:
    """PNG and JPEG images in one sub-folder per class, below train/ and test/ if these are there."""
    root, split = path, wanted.split
    if (path / "train").is_dir() or (path / "test").is_dir():
        if not os.path.lexists(path / split):
            no_part(path, split, f"a sub-folder {split}")
        path = path / split
        if not _is_folder(path, root):
            raise DatasetError(f"{path}: a file; expected a folder of images")
    else:
        one_set(path, split)
    files = []
    for folder in sorted(path.iterdir()):
        if not folder.name.startswith(".") and _is_folder(folder, root):
            files += [(file, folder.name) for file in _images_of_class(folder, root)]
    if not files:
        raise DatasetError(f"{path}: no images; expected PNG or JPEG files in one sub-folder per class")
    images = np.empty(0, np.uint8)
    for i, (file, _) in enumerate(files):
        pixels = _read_image(file, wanted)
        if i == 0:
            wanted.budget.take(
                len(files) * pixels.nbytes, f"{path}, {len(files)} images of shape {pixels.shape}"
            )
            images = np.empty((len(files), *pixels.shape), np.uint8)
        if pixels.shape != images.shape[1:]:
            raise DatasetError(
                f"{file}: of shape {pixels.shape}; expected {images.shape[1:]}, that of {files[0][0]}"
            )
        images[i] = pixels
    return images, np.array([label for _, label in files])


def _is_folder(path: Path, root: Path) -> bool:
    """Whether this is a folder, else a file; refuse what is neither, and links out of the tree."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DatasetError(f"{path}: a link to nothing") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise DatasetError(f"{path}: a device, pipe or socket; expected folders and images")
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError(
            f"{path}: a link out of {root}; expected the images themselves, or links within it"
        )
    return stat.S_ISDIR(mode)


def _images_of_class(folder: Path, root: Path) -> list[Path]:
    """List the images of a class; there must be some, and none that cannot be read."""
    files = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or _is_folder(file, root):
            continue
        ending = file.suffix.lower()
        if ending in OTHER_ENDINGS:
            raise DatasetError(f"{file}: an image of a kind that is not read; expected PNG or JPEG")
        if ending in ENDINGS:
            files.append(file)
    if not files:
        raise DatasetError(
            f"{folder}: a class with no images; expected PNG or JPEG files (if it is no class, remove it)"
        )
    return files


def _read_image(file: Path, wanted: Wanted) -> NDArray[Any]:
    """Decode an image, once its size is known to be within the budget."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"{file}: reading PNG and JPEG needs pillow: pip install hfcnn[plots]") from error
    budget = wanted.budget
    try:
        with warnings.catch_warnings(), open_regular(file) as opened:
            warnings.simplefilter("ignore")  # the budget is the limit; damage is an error below
            with Image.open(opened, formats=("PNG", "JPEG")) as image:
                if DECODED * image.width * image.height > budget.n_bytes:
                    budget.refuse(f"of {image.width} x {image.height} pixels", file)
                if image.mode not in ("L", "RGB"):
                    raise DatasetError(f"{file}: of mode {image.mode}; expected L (gray) or RGB")
                return np.asarray(image)
    except (DatasetError, PermissionError, MemoryError):
        raise
    except Exception as error:  # decoders end in almost any exception
        raise DatasetError(f"{file}: damaged ({error}); expected a PNG or JPEG image") from error

"""Folders of images, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hfcnn.datasets.files import DatasetError, Parts, Shape, no_part, one_set

__all__ = ["read_image_folder"]


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

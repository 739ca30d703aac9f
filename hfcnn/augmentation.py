"""Random shifts and flips of training images, drawn anew each time an image is used."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["AUGMENTATIONS", "augmented"]

#: "shift": by up to an eighth of the side, down and across; "shift+flip": and left for right, half the time.
AUGMENTATIONS = ("shift", "shift+flip")


def augmented(images: Tensor, how: str, rng: np.random.Generator) -> Tensor:
    """Shift, and perhaps flip, each image by draws of its own.

    Parameters
    ----------
    images : Tensor of shape (N, H, W, C)
        The images.
    how : {"shift", "shift+flip"}
        See `AUGMENTATIONS`.
    rng : numpy.random.Generator
        Source of the draws.

    Returns
    -------
    Tensor of shape (N, H, W, C)
        Where an image was moved away, its edge is repeated.
    """
    n_images, height, width, _ = images.shape
    rows = _moved(height, n_images, rng)
    columns = _moved(width, n_images, rng)
    if how == "shift+flip":
        is_flipped = rng.random((n_images, 1)) < 0.5
        columns = np.where(is_flipped, columns[:, ::-1], columns)
    device = images.device
    image = torch.arange(n_images, device=device).view(-1, 1, 1)
    row = torch.from_numpy(rows).to(device).unsqueeze(2)
    column = torch.from_numpy(columns).to(device).unsqueeze(1)
    return images[image, row, column]


def _moved(side: int, n_images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Where each row (or column) comes from, image by image: shape (n_images, side)."""
    reach = side // 8
    shifts = rng.integers(-reach, reach + 1, (n_images, 1))
    places: NDArray[np.int64] = np.clip(np.arange(side) + shifts, 0, side - 1).astype(np.int64)
    return places

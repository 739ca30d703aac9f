"""Random shifts and flips of training images, drawn anew each time an image is used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["AUGMENTATIONS", "Moves", "augmented"]

#: "shift": by up to an eighth of the side, down and across; "shift+flip": and left for right, half the time.
AUGMENTATIONS = ("shift", "shift+flip")


class Moves(NamedTuple):
    """Where each row and column of each image comes from: int64 of shapes (N, H) and (N, W)."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]

    @classmethod
    def draw(cls, n_images: int, sides: tuple[int, int], how: str, rng: np.random.Generator) -> Moves:
        """Draw a shift, and perhaps a flip, for each image.

        Parameters
        ----------
        n_images : int
            Number N of images.
        sides : (int, int)
            Their height H and width W.
        how : {"shift", "shift+flip"}
            See `AUGMENTATIONS`.
        rng : numpy.random.Generator
            Source of the draws.
        """
        rows = _moved(sides[0], n_images, rng)
        columns = _moved(sides[1], n_images, rng)
        if how == "shift+flip":
            is_flipped = rng.random((n_images, 1)) < 0.5
            columns = np.where(is_flipped, columns[:, ::-1], columns)
        return cls(rows, columns)

    def of(self, images: NDArray[np.int64]) -> Moves:
        """Those of some of the images."""
        return Moves(self.rows[images], self.columns[images])


def augmented(images: Tensor, moves: Moves) -> Tensor:
    """Shift, and perhaps flip, each image of shape (H, W, C) of N as was drawn for it.

    Where an image was moved away, its edge is repeated.
    """
    device = images.device
    image = torch.arange(len(images), device=device).view(-1, 1, 1)
    row = torch.from_numpy(moves.rows).to(device).unsqueeze(2)
    column = torch.from_numpy(moves.columns).to(device).unsqueeze(1)
    return images[image, row, column]


def _moved(side: int, n_images: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Where each row (or column) comes from, image by image: shape (n_images, side)."""
    reach = side // 8
    shifts = rng.integers(-reach, reach + 1, (n_images, 1))
    places: NDArray[np.int64] = np.clip(np.arange(side) + shifts, 0, side - 1).astype(np.int64)
    return places

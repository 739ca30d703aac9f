"""Raw pixels straight into `fit`: the paper's scaling inside the classifier, batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hfcnn.estimator.images import Rows, chunks
from hfcnn.estimator.labels import Array
from hfcnn.preprocessing import ImageScaler

__all__ = ["ScaleImages", "ScaledImages", "fit_scaler", "holds_pixels", "joined"]

#: Values that are looked at, or scaled, at a time.
CHUNK = 2**18

#: Largest value of a pixel: 16 bits.
LARGEST_PIXEL = 65535


class ScaledImages:
    """Images that are scaled when they are read: no scaled copy of them is kept.

    Parameters
    ----------
    images : ndarray or Rows of shape (l, H, W, C)
        The images as they came.
    scaler : ImageScaler
        Fitted.
    """

    def __init__(self, images: Array | Rows, scaler: ImageScaler) -> None:
        self.images = images
        self.scaler = scaler

    @property
    def shape(self) -> tuple[int, ...]:
        """(l, H, W, C)."""
        return self.images.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float64 for float64 images, float32 for all others."""
        return np.dtype(np.float64 if self.images.dtype == np.float64 else np.float32)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Array:
        """Read and scale the images at `index`, a slice or an int64 array."""
        return self.scaler.transform(self.images[index])


class ScaleImages(nn.Module):
    """`ImageScaler.transform` as a module: images (N, C, H, W) of raw pixels in.

    Parameters
    ----------
    mean : Tensor of shape (C, H, W)
        Mean of the scaled training images.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> Tensor:
        """Scale each image by its own extremes and subtract the mean."""
        x = images.to(self.mean)
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        span = torch.where(high == low, 1, high - low)
        return (x - low) / span - self.mean


def holds_pixels(images: Array | Rows) -> bool:
    """Whether images are pixels as a camera or file gives them, rather than numbers prepared for training.

    They are if their type is an integer's, or if every value is a whole number from 0 to 65535 and one is
    above 1.
    """
    if images.dtype.kind in "iu":
        return True
    if images.dtype.kind != "f":
        return False
    largest = 0.0
    for part in chunks(images, CHUNK):
        largest = max(largest, float(part.max()))
        if part.min() < 0 or largest > LARGEST_PIXEL or (part != np.rint(part)).any():
            return False
    return largest > 1


def fit_scaler(images: Array | Rows) -> ImageScaler:
    """Fit a scaler to training images, a part at a time."""
    scaler = ImageScaler()
    for part in chunks(images, CHUNK):
        scaler.partial_fit(part)
    return scaler


def joined(scalers: list[ImageScaler]) -> ImageScaler:
    """Scaler with the mean over the images of several."""
    numbers = [scaler.n_samples_seen_ for scaler in scalers]
    result = ImageScaler()
    result.mean_ = np.average([scaler.mean_ for scaler in scalers], axis=0, weights=numbers)
    result.n_samples_seen_ = sum(numbers)
    return result

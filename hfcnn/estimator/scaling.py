"""Raw pixels straight into `fit`: the paper's scaling, batch by batch on the device that computes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from hfcnn.estimator.images import Rows, chunks
from hfcnn.estimator.labels import Array
from hfcnn.image_reader import Block, PreparedImages
from hfcnn.preprocessing import ImageScaler
from hfcnn.ranks import Ranks

__all__ = ["ScaleBatch", "ScaleImages", "fit_scaler", "holds_pixels", "scaled_images"]

#: Values that are looked at, or scaled, at a time.
CHUNK = 2**18

#: Largest value of a pixel: 16 bits.
LARGEST_PIXEL = 65535


class ScaleImages(nn.Module):
    """`ImageScaler.transform` as a module: images of raw pixels in, of any type and on any device.

    Parameters
    ----------
    mean : Tensor of the shape of an image
        Mean of the scaled training images; arithmetic is of its type.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)

    def forward(self, images: Tensor) -> Tensor:
        """Scale each image by its own extremes and subtract the mean."""
        x = 0.5 * images.to(self.mean)  # which is exact, so that max - min cannot overflow
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        span = torch.where(high == low, 1, high - low)
        return (x - low) / span - self.mean


class ScaleBatch:
    """`ImageScaler.transform` bit for bit, in float64 on a few images at a time, wherever they are.

    Parameters
    ----------
    mean : float64 array of shape (H, W, C)
        Mean of the scaled training images.
    """

    def __init__(self, mean: Array) -> None:
        self._scale = ScaleImages(torch.tensor(mean, dtype=torch.float64))  # a copy: it may be read-only

    def __call__(self, images: Tensor) -> Tensor:
        """Images (N, H, W, C), scaled; float64 stays float64, every other type gives float32."""
        scale = self._scale.to(images.device)
        wide = images.dtype == torch.float64
        result = torch.empty(
            images.shape, dtype=torch.float64 if wide else torch.float32, device=images.device
        )
        step = max(1, CHUNK // scale.mean.numel())
        for start in range(0, len(images), step):
            result[start : start + step] = scale(images[start : start + step])
        return result


def scaled_images(images: Array | Rows, scaler: ImageScaler) -> PreparedImages:
    """Images that are scaled where they are used: they are kept and moved as they came.

    Parameters
    ----------
    images : ndarray or Rows of shape (l, H, W, C)
        Checked images.
    scaler : ImageScaler
        Fitted.
    """
    dtype = np.dtype(np.float64 if images.dtype == np.float64 else np.float32)
    return PreparedImages(images, ScaleBatch(scaler.mean_.reshape(images.shape[1:])), dtype)


def holds_pixels(images: Array | Rows | Block, ranks: Ranks | None = None) -> bool:
    """Whether images are pixels as a camera or file gives them, rather than numbers prepared for training.

    They are if their type is an integer's, or if every value is a whole number from 0 to 65535 and one is
    above 1. Several processes, each with its own images of one type, ask this of all of them.
    """
    if images.dtype.kind in "iu":
        return True
    if images.dtype.kind != "f":
        return False
    largest = _largest_pixel(images)
    if ranks is not None:
        largest = max(ranks.gather(largest))
    return 1 < largest <= LARGEST_PIXEL


def _largest_pixel(images: Array | Rows | Block) -> float:
    """Largest value; infinity where one is no pixel's."""
    largest = 0.0
    for part in chunks(images, CHUNK):
        largest = max(largest, float(part.max()))
        if part.min() < 0 or largest > LARGEST_PIXEL or (part != np.rint(part)).any():
            return math.inf
    return largest


def fit_scaler(images: Array | Rows | Block, ranks: Ranks | None = None) -> ImageScaler:
    """Fit a scaler to training images, a part at a time; to those of all processes, each with its own."""
    scaler = ImageScaler()
    for part in chunks(images, CHUNK):
        scaler.partial_fit(part)
    return scaler if ranks is None else _joined(ranks.gather(scaler if len(images) else None))


def _joined(own: list[ImageScaler | None]) -> ImageScaler:
    """Scaler with the mean over the images of several; None is one of no images."""
    scalers = [scaler for scaler in own if scaler is not None]
    numbers = [scaler.n_samples_seen_ for scaler in scalers]
    result = ImageScaler()
    result.mean_ = np.average([scaler.mean_ for scaler in scalers], axis=0, weights=numbers)
    result.n_samples_seen_ = sum(numbers)
    return result

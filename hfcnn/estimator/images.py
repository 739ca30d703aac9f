"""Images as the estimators take them: checked, viewed as (l, H, W, C), and never copied as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.validation import validate_data

from hfcnn.datasets.arrays import as_images
from hfcnn.datasets.shards import Shards
from hfcnn.estimator.labels import Array, check_labels, check_weights, class_indices, stratified_rows
from hfcnn.image_reader import Block
from hfcnn.network import PRESETS, Network

__all__ = [
    "ImageSet",
    "ImageShape",
    "Rows",
    "assert_images_finite",
    "chunks",
    "default_shape",
    "image_dtype",
    "make_network",
    "stratified_split",
    "training_set",
    "view_images",
]

ImageShape: TypeAlias = tuple[int, int, int]

#: Elements whose finiteness is checked at once, so that no temporary is as large as the images.
CHUNK_ELEMENTS = 2**22

#: Most channels that a trailing (or leading) axis is taken for.
MAX_CHANNELS = 4


class Rows:
    """Some rows of an array, read only when indexed: no copy of the images is made.

    Parameters
    ----------
    array : ndarray of shape (l, ...)
        The images, possibly memory-mapped.
    rows : int64 array of shape (m,)
        Which of them.
    """

    def __init__(self, array: Array, rows: NDArray[np.int64]) -> None:
        self.array = array
        self.rows = rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, ...)."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the array."""
        return self.array.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Array:
        """Read the rows at `index`, a slice or an int64 array."""
        part: Array = self.array[self.rows[index]]
        return part


def chunks(images: Array | Rows | Block, n_elements: int = CHUNK_ELEMENTS) -> Iterator[Array]:
    """Read images a part at a time, so that no temporary is as large as they are."""
    step = max(1, n_elements // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def image_dtype(images: Any) -> torch.dtype:
    """Type to compute in: float64 for float64 images, float32 for all others."""
    return torch.float64 if images.dtype == np.float64 else torch.float32


def view_images(estimator: Any, X: Any, image_shape: Any, *, reset: bool, name: str = "X") -> Array:
    """View images as (l, H, W, C), checking all but whether their values are finite; reads no image.

    Parameters
    ----------
    estimator : BaseEstimator
        Its `n_features_in_` and `feature_names_in_` are set or compared; the number of features is that
        of an image's values, whatever the rank of `X`.
    X : array-like, Shards, DataFrame or Tensor of shape (l, H, W, C), (l, H, W) or (l, n_features)
        Images of any real dtype.
    image_shape : (int, int), (int, int, int) or None
        (H, W) or (H, W, C). Without it flat images are square and gray if their number of values is a
        perfect square, and one row of values otherwise.
    reset : bool
        Whether this is `fit`.
    name : str, default="X"
        What the user calls them.

    Returns
    -------
    ndarray or Shards of shape (l, H, W, C)
        A view where possible: integers stay integers, and what is on disk stays there.

    Raises
    ------
    TypeError
        If `X` is sparse or holds things that are not numbers.
    ValueError
        If `X` is complex, empty or channels-first, or its rank or shape is not `image_shape` or not that of
        `fit`.
    """
    X = as_images(X, name)
    shape = _normal_shape(image_shape)
    images: Any
    checks = {"dtype": "numeric", "ensure_all_finite": False}
    if isinstance(X, Shards):
        images = _with_channels(X, shape, name)
        _check_image_features(estimator, images, name, reset=reset)
    elif getattr(X, "ndim", 2) <= 2:
        X = validate_data(estimator, X, reset=reset, **checks)
        if shape and X.shape[1] != math.prod(shape):
            raise ValueError(
                f"{name} has {X.shape[1]} values per image, but image_shape {shape} needs {math.prod(shape)}"
            )
        images = _readable(X).reshape(len(X), *(shape or default_shape(X.shape[1])))
    else:
        X = check_array(X, allow_nd=True, estimator=estimator, input_name=name, **checks)
        images = _readable(_with_channels(X, shape, name))
        _check_image_features(estimator, images, name, reset=reset)
    if shape and images.shape[1:] != shape:
        raise ValueError(f"{name} holds images of shape {images.shape[1:]}, but image_shape is {shape}")
    if not reset and images.shape[1:] != estimator.image_shape_:
        raise ValueError(
            f"{name} holds images of shape {images.shape[1:]}, but {type(estimator).__name__} "
            f"was fitted on images of shape {estimator.image_shape_}"
        )
    result: Array = images
    return result


def default_shape(n_features: int) -> ImageShape:
    """Shape (H, W, 1) of flat images: square if their size allows, one row otherwise."""
    side = math.isqrt(n_features)
    return (side, side, 1) if side * side == n_features else (1, n_features, 1)


def _normal_shape(image_shape: Any) -> ImageShape | None:
    if image_shape is None:
        return None
    if isinstance(image_shape, Integral) or len(image_shape) not in (2, 3) or min(image_shape) < 1:
        raise ValueError(
            f"image_shape must be (height, width) or (height, width, channels); got {image_shape}"
        )
    height, width, *channels = (int(size) for size in image_shape)
    return (height, width, channels[0] if channels else 1)


def _with_channels(X: Any, shape: ImageShape | None, name: str) -> Any:
    """View (l, H, W) as (l, H, W, 1), and refuse images whose channels come first."""
    if X.ndim == 3:
        return X[..., np.newaxis]
    if X.ndim != 4:
        raise ValueError(f"{name} must be of shape (l, H, W, C), (l, H, W) or (l, n_features); got {X.shape}")
    if X.shape[1] <= MAX_CHANNELS < X.shape[3] and X.shape[1:] != shape:
        raise ValueError(
            f"{name} of shape {X.shape} looks channels-first; images are (l, height, width, channels): "
            "use X.transpose(0, 2, 3, 1), or for a torch tensor X.permute(0, 2, 3, 1)"
        )
    return X


def _readable(X: Array) -> Array:
    """Convert the few dtypes that torch cannot read: long double and foreign byte orders."""
    if X.dtype == np.longdouble and X.dtype.itemsize > 8:
        return X.astype(np.float64)
    return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))


def _check_image_features(estimator: Any, images: Array, name: str, *, reset: bool) -> None:
    n_features = math.prod(images.shape[1:])
    if reset:
        estimator.n_features_in_ = n_features
        estimator.__dict__.pop("feature_names_in_", None)
    elif n_features != estimator.n_features_in_:
        raise ValueError(
            f"{name} holds images of shape {images.shape[1:]}, but {type(estimator).__name__} "
            f"was fitted on images of shape {estimator.image_shape_}"
        )


def assert_images_finite(images: Any, name: str, estimator: Any) -> None:
    """Check that no value is NaN or infinite, in one pass over the images.

    Parameters
    ----------
    images : ndarray, or what reads like one, of shape (l, H, W, C)
        The images.
    name : str
        What the user calls them.
    estimator : BaseEstimator
        Whose they are, for the message.

    Raises
    ------
    ValueError
        If one is.
    """
    if images.dtype.kind != "f":
        return
    for part in chunks(images):
        assert_all_finite(part, estimator_name=type(estimator).__name__, input_name=name)


def make_network(network: Any, image_shape: ImageShape, n_outputs: int) -> Network:
    """Build the network that the parameter `network` means, for images of a shape.

    Raises
    ------
    ValueError
        If it is neither a preset's name nor a sequence of Conv and Dense, or does not fit the images.
    """
    if isinstance(network, str):
        return Network.preset(network, image_shape, n_outputs)
    if isinstance(network, Network):
        return Network(network.specs, image_shape, n_outputs)
    if isinstance(network, list | tuple):
        return Network(network, image_shape, n_outputs)
    raise ValueError(
        f"network must be {', '.join(map(repr, PRESETS))} or a list of Conv and Dense; got {network!r}"
    )


@dataclass(frozen=True)
class ImageSet:
    """Checked images with what is known of each.

    Attributes
    ----------
    images : ndarray or Rows of shape (l, H, W, C)
        The images.
    labels : int64 array of shape (l,)
        Class indices; -1 is none of `classes`.
    weight : float64 array of shape (l,) or None
        Positive weights; None is weights of one.
    classes : ndarray of shape (K,)
        Labels of the classes, sorted.
    """

    images: Any
    labels: NDArray[np.int64]
    weight: NDArray[np.float64] | None
    classes: Array

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def total_weight(self) -> float:
        """Sum of the weights: the number of images where there are none."""
        return float(len(self) if self.weight is None else self.weight.sum())

    def take(self, rows: NDArray[np.int64]) -> ImageSet:
        """Select some images, without reading them."""
        weight = None if self.weight is None else self.weight[rows]
        return replace(self, images=Rows(self.images, rows), labels=self.labels[rows], weight=weight)


def training_set(estimator: Any, images: Array, y: Any, sample_weight: Any, classes: Any) -> ImageSet:
    """Join images, labels and weights; images of weight zero are left out, and classes that only they have.

    Parameters
    ----------
    estimator : BaseEstimator
        Gives `class_weight` and the name in messages.
    images : ndarray of shape (l, H, W, C)
        Checked images.
    y : array-like of shape (l,)
        Labels.
    sample_weight : array-like of shape (l,), number or None
        Weights.
    classes : ndarray of shape (K,) or None
        All classes, sorted; None takes those of `y`.

    Raises
    ------
    ValueError
        As `check_labels` and `check_weights`, or if there are fewer than two classes or unknown ones.
    """
    labels = check_labels(y, images, estimator)
    present, indices = np.unique(labels, return_inverse=True)
    indices = indices.astype(np.int64, copy=False)
    weight = check_weights(sample_weight, estimator.class_weight, present, indices)
    kept = None
    if weight is not None and not weight.all():
        kept = np.flatnonzero(weight)
        present, indices[kept] = np.unique(labels[kept], return_inverse=True)
    if classes is None:
        classes = present
    else:
        indices = class_indices(labels, classes)
    if len(classes) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs at least two classes to tell apart; "
            f"y holds one class: {classes}"
        )
    whole = ImageSet(images, indices, weight, classes)
    return whole if kept is None else whole.take(kept)


def stratified_split(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Put a share of each class aside, drawn by `seed`: returns the rest and the share."""
    train, held_out = stratified_rows(images.labels, seed, test=fraction)
    return images.take(np.sort(train)), images.take(np.sort(held_out))

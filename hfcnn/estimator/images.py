"""What the estimators do to their arguments before any mathematics: images, labels, weights, parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_scalar, validate_data

from hfcnn.network import PRESETS, Network

__all__ = [
    "Array",
    "ImageSet",
    "Rows",
    "check_images",
    "check_labels",
    "check_parameters",
    "check_weights",
    "class_indices",
    "image_dtype",
    "make_network",
    "stratified_split",
    "training_set",
]

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, int, int]

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


def image_dtype(images: Array | Rows) -> torch.dtype:
    """Type to compute in: float64 for float64 images, float32 for all others."""
    return torch.float64 if images.dtype == np.float64 else torch.float32


def check_images(estimator: Any, X: Any, image_shape: Any, *, reset: bool) -> Array:
    """Check images and view them as (l, H, W, C), copying nothing that torch can read as it is.

    Parameters
    ----------
    estimator : BaseEstimator
        Its `n_features_in_` and `feature_names_in_` are set or compared; the number of features is that
        of an image's values, whatever the rank of `X`.
    X : array-like, DataFrame or Tensor of shape (l, H, W, C), (l, H, W) or (l, n_features)
        Images of any real dtype.
    image_shape : (int, int), (int, int, int) or None
        (H, W) or (H, W, C). Without it flat images are square and gray if their number of values is a
        perfect square, and one row of values otherwise.
    reset : bool
        Whether this is `fit`.

    Returns
    -------
    ndarray of shape (l, H, W, C)
        A view where possible: integers stay integers and memory-mapped arrays stay on disk.

    Raises
    ------
    TypeError
        If `X` is sparse or holds things that are not numbers.
    ValueError
        If `X` is complex, holds NaN or infinity, is empty, is channels-first, or its rank or shape is not
        `image_shape` or not that of `fit`.
    """
    X = _as_array(X)
    shape = _normal_shape(image_shape)
    checks = {"dtype": "numeric", "ensure_all_finite": False}
    if getattr(X, "ndim", 2) <= 2:
        X = validate_data(estimator, X, reset=reset, **checks)
        images = _readable(X).reshape(len(X), *(shape or default_shape(X.shape[1])))
    else:
        X = check_array(X, allow_nd=True, estimator=estimator, input_name="X", **checks)
        images = _readable(_with_channels(X, shape))
        _check_image_features(estimator, images, reset=reset)
    if shape and images.shape[1:] != shape:
        raise ValueError(f"X holds images of shape {images.shape[1:]}, but image_shape is {shape}")
    if not reset and images.shape[1:] != estimator.image_shape_:
        raise ValueError(
            f"X holds images of shape {images.shape[1:]}, but {type(estimator).__name__} "
            f"was fitted on images of shape {estimator.image_shape_}"
        )
    _assert_finite(images, type(estimator).__name__)
    return images


def default_shape(n_features: int) -> Shape:
    """Shape (H, W, 1) of flat images: square if their size allows, one row otherwise."""
    side = math.isqrt(n_features)
    return (side, side, 1) if side * side == n_features else (1, n_features, 1)


def _as_array(X: Any) -> Any:
    """Turn tensors and nested lists into arrays; leave what scikit-learn knows to it."""
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        return (X.float() if X.dtype == torch.bfloat16 else X).numpy()
    return X if hasattr(X, "shape") else np.asarray(X)


def _normal_shape(image_shape: Any) -> Shape | None:
    if image_shape is None:
        return None
    if isinstance(image_shape, Integral) or len(image_shape) not in (2, 3) or min(image_shape) < 1:
        raise ValueError(
            f"image_shape must be (height, width) or (height, width, channels); got {image_shape}"
        )
    height, width, *channels = (int(size) for size in image_shape)
    return (height, width, channels[0] if channels else 1)


def _with_channels(X: Array, shape: Shape | None) -> Array:
    """View (l, H, W) as (l, H, W, 1), and refuse images whose channels come first."""
    if X.ndim == 3:
        return X[..., np.newaxis]
    if X.ndim != 4:
        raise ValueError(f"X must be of shape (l, H, W, C), (l, H, W) or (l, n_features); got {X.shape}")
    if X.shape[1] <= MAX_CHANNELS < X.shape[3] and X.shape[1:] != shape:
        raise ValueError(
            f"X of shape {X.shape} looks channels-first; images are (l, height, width, channels): "
            "use X.transpose(0, 2, 3, 1), or for a torch tensor X.permute(0, 2, 3, 1)"
        )
    return X


def _readable(X: Array) -> Array:
    """Convert the few dtypes that torch cannot read: long double and foreign byte orders."""
    if X.dtype == np.longdouble and X.dtype.itemsize > 8:
        return X.astype(np.float64)
    return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))


def _check_image_features(estimator: Any, images: Array, *, reset: bool) -> None:
    n_features = math.prod(images.shape[1:])
    if reset:
        estimator.n_features_in_ = n_features
        estimator.__dict__.pop("feature_names_in_", None)
    elif n_features != estimator.n_features_in_:
        raise ValueError(
            f"X has {n_features} features, but {type(estimator).__name__} "
            f"is expecting {estimator.n_features_in_} features as input"
        )


def _assert_finite(images: Array, name: str) -> None:
    if images.dtype.kind != "f":
        return
    step = max(1, CHUNK_ELEMENTS // math.prod(images.shape[1:]))
    for start in range(0, len(images), step):
        assert_all_finite(images[start : start + step], estimator_name=name, input_name="X")


def check_labels(y: Any, images: Array, estimator: Any) -> Array:
    """Check that `y` holds one class label an image: returns an array of shape (l,).

    Raises
    ------
    ValueError
        If `y` is None, not one-dimensional, of another length, not finite, or not of classes.
    """
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    labels: Array = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    check_consistent_length(images, labels)
    return labels


def check_weights(
    sample_weight: Any, class_weight: Any, classes: Array, indices: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Combine the weights of images and classes; None if all are one.

    Parameters
    ----------
    sample_weight : array-like of shape (l,), number or None
        Weights of the images; a number is the weight of each.
    class_weight : dict, "balanced" or None
        Weights of the classes; "balanced" is inverse to their total weight.
    classes : ndarray of shape (K,)
        Labels of the classes.
    indices : int64 array of shape (l,)
        Class index of each image.

    Returns
    -------
    float64 array of shape (l,) or None

    Raises
    ------
    ValueError
        If weights are not one an image, not finite, negative or all zero, or a class is unknown.
    """
    weight = np.ones(len(indices))
    if sample_weight is not None:
        if isinstance(sample_weight, Real):
            sample_weight = np.full(len(indices), sample_weight)
        sample_weight = _as_array(sample_weight)
        given = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        if given.ndim != 1:
            raise ValueError(f"sample_weight must be 1D; got {given.ndim} dimensions")
        if given.shape != weight.shape:
            raise ValueError(f"sample_weight.shape == {given.shape}, expected {weight.shape}")
        if given.min() < 0:
            raise ValueError("sample_weight must not be negative")
        if not given.any():
            raise ValueError("sample_weight must hold a weight that is not zero; all are zero")
        weight = weight * given
    if class_weight is not None:
        weight = weight * _class_weights(class_weight, classes, indices, weight)[indices]
    return None if (weight == 1).all() else weight


def _class_weights(
    class_weight: Any, classes: Array, indices: NDArray[np.int64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    if isinstance(class_weight, str) and class_weight == "balanced":
        totals = np.bincount(indices, weight, minlength=len(classes))
        balanced: NDArray[np.float64] = weight.sum() / (len(classes) * np.maximum(totals, 1e-300))
        return balanced
    result: NDArray[np.float64] = compute_class_weight(class_weight, classes=classes, y=classes[indices])
    return result


def make_network(network: Any, image_shape: Shape, n_outputs: int) -> Network:
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


#: Type and smallest value of the numeric parameters; "exclusive" where that value itself is not allowed.
NUMBERS: dict[str, tuple[type, float, str]] = {
    "C": (Real, 0, "exclusive"),
    "max_iter": (Integral, 1, ""),
    "tol": (Real, 0, ""),
    "cg_tol": (Real, 0, "exclusive"),
    "cg_max_iter": (Integral, 1, ""),
    "damping": (Real, 0, ""),
    "learning_rate": (Real, 0, "exclusive"),
    "momentum": (Real, 0, ""),
    "decay": (Real, 0, ""),
    "sgd_batch_size": (Integral, 1, ""),
    "n_iter_no_change": (Integral, 1, ""),
    "checkpoint_every": (Integral, 1, ""),
}


def check_parameters(parameters: dict[str, Any]) -> None:
    """Check the numeric parameters of an estimator.

    Raises
    ------
    TypeError
        If one is not a number of the right kind.
    ValueError
        If one is out of its range.
    """
    for name in NUMBERS.keys() & parameters.keys():
        kind, smallest, bound = NUMBERS[name]
        include = "right" if bound == "exclusive" else "both"
        check_scalar(
            parameters[name], name, kind, min_val=smallest, max_val=math.inf, include_boundaries=include
        )
    if parameters["batch_size"] is not None:
        check_scalar(parameters["batch_size"], "batch_size", Integral, min_val=1)
    if parameters["n_jobs"] is not None and check_scalar(parameters["n_jobs"], "n_jobs", Integral) == 0:
        raise ValueError("n_jobs == 0 has no meaning; use None, -1 or a number of threads")


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
    elif not np.isin(present, classes).all():
        raise ValueError(f"y holds classes that are not among {classes}: {np.setdiff1d(present, classes)}")
    else:
        indices = class_indices(labels, classes)
    if len(classes) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs at least two classes to tell apart; "
            f"y holds one class: {classes}"
        )
    whole = ImageSet(images, indices, weight, classes)
    return whole if kept is None else whole.take(kept)


def class_indices(labels: Array, classes: Array) -> NDArray[np.int64]:
    """Index of each label in the sorted `classes`; -1 where it is not there."""
    indices = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[indices] == labels, indices, -1).astype(np.int64)


def stratified_split(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Put a share of each class aside, drawn by `seed`: returns the rest and the share."""
    train, held_out = train_test_split(
        np.arange(len(images)), test_size=fraction, stratify=images.labels, random_state=seed
    )
    return images.take(np.sort(train)), images.take(np.sort(held_out))

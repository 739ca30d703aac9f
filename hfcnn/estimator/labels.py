"""Class labels and weights of images, and choices of images that keep the classes' shares."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

__all__ = [
    "Array",
    "RowNumbers",
    "check_labels",
    "check_weights",
    "class_indices",
    "within_range",
    "stratified_rows",
]

#: Powers of two up to this are left to float32, which goes to 127.
LARGEST_EXPONENT = 40

Array: TypeAlias = NDArray[Any]
RowNumbers: TypeAlias = NDArray[np.int64]


def check_labels(y: Any, images: Array, estimator: Any, name: str = "y") -> Array:
    """Check that `y` holds one class label an image: returns an array of shape (l,).

    Raises
    ------
    ValueError
        If `y` is None, not one-dimensional, of another length, not finite, or not of classes.
    """
    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target {name} is None")
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    labels: Array = column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name=name)
    check_classification_targets(labels)
    check_consistent_length(images, labels)
    return labels


def within_range(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights for a weighted mean, multiplied by a power of two where float32 could not hold them."""
    exponent = round(math.log2(weight.mean()))
    return np.ldexp(weight, -exponent) if abs(exponent) > LARGEST_EXPONENT else weight


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
        if isinstance(sample_weight, torch.Tensor):
            sample_weight = sample_weight.detach().cpu().numpy()
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
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not 0 < total < np.inf:
        raise ValueError(f"the weights of the images add up to {total}: they are too small or too large")
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


def class_indices(labels: Array, classes: Array, name: str = "y") -> NDArray[np.int64]:
    """Index of each label in the sorted `classes`.

    Raises
    ------
    ValueError
        If there are labels that are no class, naming them, and `name` as what holds them.
    """
    known = set(classes.tolist())
    unknown = [label for label in np.unique(labels).tolist() if label not in known]
    if unknown:
        listed = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise ValueError(
            f"{name} holds labels that are no class of the training images: {listed}; the classes are "
            f"{', '.join(map(repr, classes.tolist()[:20]))}{', ...' if len(classes) > 20 else ''}"
        )
    return np.searchsorted(classes, labels.astype(classes.dtype)).astype(np.int64)


def stratified_rows(
    labels: Array, seed: int, *, train: float | int | None = None, test: float | int | None = None
) -> tuple[RowNumbers, RowNumbers]:
    """Divide images in two so that each class has its share of both.

    Parameters
    ----------
    labels : ndarray of shape (l,)
        Label, or class index, of each image.
    seed : int
        Seed of the choice.
    train, test : float, int or None
        Share or number of the images of the first part, or of the second; None leaves it to the other.

    Returns
    -------
    first, second : int64 arrays
        Their rows, each in random order.

    Raises
    ------
    ValueError
        If a class has too few images for both parts.
    """
    first, second = train_test_split(
        np.arange(len(labels)), train_size=train, test_size=test, stratify=labels, random_state=seed
    )
    return first, second

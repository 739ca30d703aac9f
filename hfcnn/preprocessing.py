"""The paper's preparation of images: min-max scaling of each image, then centring by the training mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["ImageScaler"]

#: Values scaled at a time: 2 MiB of float64, so that the passes over them stay in the cache.
_CHUNK = 1 << 18


class ImageScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Scale each image to [0, 1] by its own extremes, then subtract the mean training image.

    ``(Z - min Z) / (max Z - min Z) - mean``, where min and max are over all pixels and channels of an
    image and the mean is over the training images, for each pixel and channel by itself.
    Wang, Tan & Lin (2020), Sec. 6.1.

    Images are arrays of shape (n_samples, height, width), (n_samples, height, width, channels) or, flat,
    (n_samples, n_features), of any integer or floating-point type, or torch tensors on the CPU.

    Attributes
    ----------
    mean_ : ndarray of the shape of an image, float64
        Mean of the scaled training images.
    n_features_in_ : int
        Number of features; only after a fit on flat images.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only after a fit on a data frame whose columns are named by strings.

    Notes
    -----
    An image all of whose pixels are equal becomes 0 before centring. float64 stays float64, every other
    type gives float32. The arithmetic is done in float64 on a few images at a time: beside the output it
    needs no memory that grows with the number of images.

    Examples
    --------
    >>> import numpy as np
    >>> from hfcnn.preprocessing import ImageScaler
    >>> X = np.array([[[0, 50], [100, 200]], [[3, 3], [3, 3]]], dtype=np.uint8)
    >>> scaler = ImageScaler().fit(X)
    >>> scaler.mean_
    array([[0.   , 0.125],
           [0.25 , 0.5  ]])
    >>> scaler.transform(X)[0]
    array([[0.   , 0.125],
           [0.25 , 0.5  ]], dtype=float32)
    """

    def fit(self, X: Any, y: Any = None) -> ImageScaler:
        """Compute the mean of the scaled training images.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width[, channels]) or (n_samples, n_features)
            Training images.
        y : None
            Ignored.

        Returns
        -------
        self : ImageScaler
            The fitted scaler.

        Raises
        ------
        ValueError
            If X is empty, holds NaN or infinity, or has another number of dimensions.
        """
        X = self._validate(X, reset=True)
        total = np.zeros(X.shape[1:])
        for _, scaled in _min_max_chunks(X):
            total += scaled.sum(axis=0)
        self.mean_ = total / len(X)
        return self

    def transform(self, X: Any) -> NDArray[np.floating[Any]]:
        """Scale each image by its own extremes and subtract the mean training image.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width[, channels]) or (n_samples, n_features)
            Images of the shape of the training images.

        Returns
        -------
        Xt : ndarray of the shape of X, float64 if X is float64, else float32
            Scaled and centred images.

        Raises
        ------
        NotFittedError
            If the scaler is not fitted.
        ValueError
            If X is empty, holds NaN or infinity, or its images are of another shape than those of `fit`.
        """
        check_is_fitted(self)
        X = self._validate(X, reset=False)
        if X.shape[1:] != self.mean_.shape:
            raise ValueError(
                f"X has images of shape {X.shape[1:]}, but ImageScaler was fitted on images of shape "
                f"{self.mean_.shape}"
            )
        result = np.empty(X.shape, np.float64 if X.dtype == np.float64 else np.float32)
        for block, scaled in _min_max_chunks(X):
            np.subtract(scaled, self.mean_, out=result[block], casting="same_kind")
        return result

    def _validate(self, X: Any, *, reset: bool) -> NDArray[Any]:
        if type(X).__module__ == "torch":
            X = np.asarray(X)  # so that every check below sees numpy's types
        n_dims = len(X.shape) if hasattr(X, "shape") else np.asarray(X).ndim
        if n_dims > 4:
            raise ValueError(
                f"X has {n_dims} dimensions; expected (n_samples, height, width), "
                "(n_samples, height, width, channels) or (n_samples, n_features)"
            )
        is_flat = n_dims <= 2  # fewer than 2 is for scikit-learn to refuse
        images: NDArray[Any] = validate_data(self, X, reset=reset, ensure_2d=is_flat, allow_nd=not is_flat)
        if reset and not is_flat and hasattr(self, "n_features_in_"):
            del self.n_features_in_  # of an earlier fit on flat images
        if 0 in images.shape[1:]:
            raise ValueError(f"X has images of shape {images.shape[1:]}, without pixels")
        return images

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _min_max_chunks(X: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield slices of X and their images, scaled to [0, 1] in float64."""
    axes = tuple(range(1, X.ndim))
    step = max(1, _CHUNK // math.prod(X.shape[1:]))
    for start in range(0, len(X), step):
        block = slice(start, start + step)
        # halved, which is exact, so that max - min cannot overflow
        chunk = np.multiply(X[block], 0.5, dtype=np.float64)
        low = chunk.min(axis=axes, keepdims=True)
        span = chunk.max(axis=axes, keepdims=True) - low
        span[span == 0] = 1
        chunk -= low
        chunk /= span
        yield block, chunk

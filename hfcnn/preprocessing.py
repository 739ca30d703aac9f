"""The paper's preparation of images: min-max scaling of each image, then centring by the training mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from hfcnn.datasets.arrays import as_images

__all__ = ["ImageScaler"]

#: Values scaled at a time: 2 MiB of float64, so that the passes over them stay in the cache.
_CHUNK = 1 << 18


def _is_flat(scaler: ImageScaler) -> bool:
    """Whether images have columns with names: those that were flat in `fit`."""
    if hasattr(scaler, "mean_") and scaler.mean_.ndim > 1:
        raise AttributeError(
            "images have no feature names, and are no data frame: ImageScaler was fitted on images of shape "
            f"{scaler.mean_.shape} and gives arrays"
        )
    return True


class ImageScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Scale each image to [0, 1] by its own extremes, then subtract the mean training image.

    ``(Z - min Z) / (max Z - min Z) - mean``, where min and max are over all pixels and channels of an
    image and the mean is over the training images, for each pixel and channel by itself.
    Wang, Tan & Lin (2020), Sec. 6.1.

    Images are arrays of shape (n_samples, height, width), (n_samples, height, width, channels) or, flat,
    (n_samples, n_features), of any integer or floating-point type; or what the classifiers take besides:
    torch tensors on any device, data frames of flat images, lists of images of pillow. Output set to pandas
    or polars makes a data frame of flat images; other images stay arrays.

    Attributes
    ----------
    mean_ : ndarray of the shape of an image, float64
        Mean of the scaled training images.
    n_samples_seen_ : int
        Number of training images.
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

    mean_: NDArray[np.float64]
    n_samples_seen_: int
    _total: NDArray[np.float64]

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
        return self._add(self._validate(X, reset=True), is_first=True)

    def partial_fit(self, X: Any, y: Any = None) -> ImageScaler:
        """Add images to the mean of those that were seen before, for sets larger than the memory.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width[, channels]) or (n_samples, n_features)
            Further training images.
        y : None
            Ignored.

        Returns
        -------
        self : ImageScaler
            The scaler, fitted on all images seen so far.

        Raises
        ------
        ValueError
            As `fit`; or if the images are of another shape than those before, or the scaler comes from a
            model file, which does not say of how many images its mean is.
        """
        is_first = not hasattr(self, "mean_")
        if not is_first and not hasattr(self, "_total"):
            raise ValueError(
                "this ImageScaler was loaded from a model file, which does not say of how many images its "
                "mean is: fit a new one"
            )
        X = self._validate(X, reset=is_first)
        if not is_first:
            self._check_shape(X)
        return self._add(X, is_first=is_first)

    def _add(self, X: NDArray[Any], *, is_first: bool) -> ImageScaler:
        total = np.zeros(X.shape[1:]) if is_first else self._total.copy()
        for _, scaled in _min_max_chunks(X):
            total += scaled.sum(axis=0)
        n_seen = len(X) if is_first else self.n_samples_seen_ + len(X)
        self._total, self.n_samples_seen_, self.mean_ = total, n_seen, total / n_seen
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
        self._check_shape(X)
        result = np.empty(X.shape, np.float64 if X.dtype == np.float64 else np.float32)
        for block, scaled in _min_max_chunks(X):
            np.subtract(scaled, self.mean_, out=result[block], casting="same_kind")
        return result

    @available_if(_is_flat)  # type: ignore[untyped-decorator]
    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Names of the output's columns, which are those of the input: of flat images alone.

        Parameters
        ----------
        input_features : array-like of str or None
            Names of the input's columns; None takes those of `fit`.

        Returns
        -------
        ndarray of str objects
        """
        names: NDArray[Any] = super().get_feature_names_out(input_features)
        return names

    def set_output(self, *, transform: Any = None) -> ImageScaler:
        """Choose what `transform` makes of flat images: "default" arrays, "pandas" or "polars" frames.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None
            None changes nothing. Images that are not flat stay arrays in any case.

        Returns
        -------
        self : ImageScaler
        """
        # scikit-learn offers this only where there are feature names, which the next fit decides
        mean = self.__dict__.pop("mean_", None)
        try:
            super().set_output(transform=transform)
        finally:
            if mean is not None:
                self.mean_ = mean
        return self

    def _check_shape(self, X: NDArray[Any]) -> None:
        if X.shape[1:] != self.mean_.shape:
            raise ValueError(
                f"X has images of shape {X.shape[1:]}, but ImageScaler was fitted on images of shape "
                f"{self.mean_.shape}"
            )

    def _validate(self, X: Any, *, reset: bool) -> NDArray[Any]:
        X = as_images(X)
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

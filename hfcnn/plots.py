"""Pictures of a fit and of what it learned; each function returns matplotlib axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted

from hfcnn.datasets.arrays import as_images

__all__ = ["compare", "confusion", "filters", "learning_curve", "misclassified"]

#: Columns of `history_` that hold shares of images.
ACCURACIES = {"training_accuracy": "training", "validation_accuracy": "validation"}

#: What `compare` can have on its horizontal axis.
HORIZONTAL = {"seconds": "seconds", "passes": "passes over the training images", "iteration": "iteration"}


def learning_curve(classifier: Any, *, ax: Any = None) -> Any:
    """Draw the objective, on a logarithmic scale, and the accuracies against the iteration.

    Parameters
    ----------
    classifier : NewtonCNNClassifier or SGDCNNClassifier
        Fitted.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes
        Of the objective; those of the accuracies share its horizontal axis.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    check_is_fitted(classifier)
    ax = _axes(ax)
    history = classifier.history_
    (line,) = ax.semilogy(history["iteration"], history["f"], color="black", label="objective")
    ax.set(xlabel="iteration", ylabel="objective f")
    ax.xaxis.get_major_locator().set_params(integer=True)
    right = ax.twinx()
    right.set(ylabel="accuracy", ylim=(0, 1))
    shares = [
        right.plot(history["iteration"], history[name], label=label)[0]
        for name, label in ACCURACIES.items()
        if name in history
    ]
    ax.legend(handles=[line, *shares], loc="center right")
    return ax


def compare(
    classifiers: Mapping[str, Any],
    *,
    by: str = "seconds",
    column: str = "validation_accuracy",
    ax: Any = None,
) -> Any:
    """Draw a column of several histories against time or work, for instance Newton's against SG's.

    Parameters
    ----------
    classifiers : mapping of str to classifier
        Fitted classifiers by the names they are to have.
    by : {"seconds", "passes", "iteration"}, default="seconds"
        Horizontal axis. Passes count images that went through the network, as multiples of their number.
    column : str, default="validation_accuracy"
        Column of `history_`.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `by` is unknown or a history has no such column.
    """
    if by not in HORIZONTAL:
        raise ValueError(f"by must be one of {', '.join(HORIZONTAL)}; got {by!r}")
    ax = _axes(ax)
    for name, classifier in classifiers.items():
        check_is_fitted(classifier)
        history = classifier.history_
        if column not in history:
            raise ValueError(f"the history of {name!r} has no {column!r}; it has {', '.join(history)}")
        ax.plot(history[by], history[column], marker=".", label=name)
    ax.set(xlabel=HORIZONTAL[by], ylabel=column.replace("_", " "))
    ax.legend()
    return ax


def confusion(classifier: Any, X: Any, y: Any, *, normalize: str | None = "true", ax: Any = None) -> Any:
    """Draw how the images of each class are classified.

    Parameters
    ----------
    classifier : classifier
        Fitted.
    X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
        Images.
    y : array-like of shape (l,)
        Their labels.
    normalize : {"true", "pred", "all"} or None, default="true"
        Show shares of each true class, of each predicted one or of all images, or numbers of images.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    ax = _axes(ax)
    form = "d" if normalize is None else ".2f"
    ConfusionMatrixDisplay.from_estimator(
        classifier, X, y, normalize=normalize, values_format=form, cmap="Blues", ax=ax, colorbar=False
    )
    return ax


def misclassified(classifier: Any, X: Any, y: Any, *, n_images: int = 16, ax: Any = None) -> Any:
    """Draw the images that are classified wrongly with the most confidence, in a grid.

    Above each stand its label, the predicted one and the predicted one's probability. Each image is
    stretched from black to white by itself; images of three channels are drawn in colour, others as their
    mean over channels.

    Parameters
    ----------
    classifier : NewtonCNNClassifier, SGDCNNClassifier or Pipeline that ends in one
        Fitted.
    X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
        Images.
    y : array-like of shape (l,)
        Their labels.
    n_images : int, default=16
        Most images to draw.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `n_images` is less than 1, or `X` and `y` are not as many.
    """
    if n_images < 1:
        raise ValueError(f"n_images must be an integer from 1 on; got {n_images!r}")
    probabilities, y = classifier.predict_proba(X), column_or_1d(y)
    check_consistent_length(probabilities, y)
    predicted, confidence = classifier.classes_[probabilities.argmax(1)], probabilities.max(1)
    wrong = np.flatnonzero(predicted != y)
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:n_images]
    ax = _axes(ax)
    last = classifier[-1] if isinstance(classifier, Pipeline) else classifier
    images = _stretched(as_images(X, "X"), shown, last.image_shape_)
    across = max(1, math.ceil(math.sqrt(len(shown))))
    down = max(1, math.ceil(len(shown) / across))
    for place, (row, image) in enumerate(zip(shown, images, strict=True)):
        top, left = 1.3 * (place // across), place % across
        ax.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(left, left + 0.95, top + 0.95, top))
        text = f"{y[row]} → {predicted[row]}  {confidence[row]:.0%}"
        ax.text(left + 0.475, top - 0.04, text, ha="center", va="bottom", fontsize="small")
    ax.set(xlim=(-0.05, across), ylim=(1.3 * down - 0.3, -0.3))
    ax.set_title(f"{len(wrong):,} of {len(y):,} wrong: label → prediction, most confident first")
    ax.set_axis_off()
    return ax


def filters(classifier: Any, *, layer: int = 0, ax: Any = None) -> Any:
    """Draw the filters of a convolutional layer, each scaled by itself, in a grid.

    Parameters
    ----------
    classifier : NewtonCNNClassifier or SGDCNNClassifier
        Fitted.
    layer : int, default=0
        Which layer. Filters of three channels are drawn in colour, others as their mean over channels.
    ax : matplotlib Axes or None, default=None
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the layer is not convolutional.
    """
    check_is_fitted(classifier)
    layers = classifier.network_.layers
    if not 0 <= layer < len(layers) or len(layers[layer].weight_shape) != 4:
        raise ValueError(f"layer {layer} is not one of the network's convolutional layers: {layers}")
    weights = classifier.network_.parameters(torch.from_numpy(classifier.theta_.copy()))[layer].weight.numpy()
    ax = _axes(ax)
    ax.imshow(_grid(_visible(weights)), cmap="gray")
    ax.set_axis_off()
    return ax


def _stretched(images: Any, rows: Any, shape: tuple[int, int, int]) -> Any:
    """Some images of a shape, visible; those of one channel as (l, H, W)."""
    chosen = images.iloc[rows] if hasattr(images, "iloc") else images[rows]
    visible = _visible(np.asarray(chosen, np.float64).reshape(len(rows), *shape))
    return visible.squeeze(3) if visible.shape[3] == 1 else visible


def _visible(images: Any) -> Any:
    """Images (l, H, W, C), each stretched to [0, 1]: three channels as colours, others as their mean."""
    if images.shape[3] != 3:
        images = images.mean(axis=3, keepdims=True)
    low = images.min(axis=(1, 2, 3), keepdims=True)
    span = images.max(axis=(1, 2, 3), keepdims=True) - low
    return (images - low) / np.where(span > 0, span, 1)


def _grid(scaled: Any) -> Any:
    """Lay filters (O, KH, KW, C) out in a near-square with white lines between."""
    n_filters, height, width, channels = scaled.shape
    across = math.ceil(math.sqrt(n_filters))
    down = math.ceil(n_filters / across)
    grid = np.ones((down * (height + 1) - 1, across * (width + 1) - 1, channels), scaled.dtype)
    for index, image in enumerate(scaled):
        top, left = index // across * (height + 1), index % across * (width + 1)
        grid[top : top + height, left : left + width] = image
    return grid.squeeze(2) if channels == 1 else grid


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('plots need matplotlib; install it with: pip install "hfcnn[plots]"') from error
    return plt.subplots(layout="constrained")[1]

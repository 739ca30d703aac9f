"""Pictures of a fit and of what it learned; each function returns matplotlib axes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.utils.validation import check_is_fitted

__all__ = ["compare", "confusion", "filters", "learning_curve"]

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
    if weights.shape[3] != 3:
        weights = weights.mean(axis=3, keepdims=True)
    ax = _axes(ax)
    ax.imshow(_grid(weights), cmap="gray")
    ax.set_axis_off()
    return ax


def _grid(weights: Any) -> Any:
    """Lay filters (O, KH, KW, C), each scaled to [0, 1], out in a near-square with white lines between."""
    low = weights.min(axis=(1, 2, 3), keepdims=True)
    span = weights.max(axis=(1, 2, 3), keepdims=True) - low
    scaled = (weights - low) / np.where(span > 0, span, 1)
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

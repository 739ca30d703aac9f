"""Images held in Python in other ways than as one array: tensors, lists of pictures, data sets of torch."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.decode import check_color, check_size, decode_image, to_pixels
from hfcnn.datasets.files import Color

__all__ = ["as_images", "to_arrays"]

#: Most channels that the first axis of a tensor is taken for.
MOST_CHANNELS = 4

#: Names of the fields of images and of labels, where the items of a data set are dicts.
IMAGE_FIELDS = ("image", "img", "images", "pixel_values", "X", "x")
LABEL_FIELDS = ("label", "labels", "fine_label", "target", "y")


def as_images(X: Any, name: str = "X") -> Any:
    """Turn images into an array; leave arrays and data frames of numbers as they are.

    Parameters
    ----------
    X : array-like, DataFrame, Tensor, or sequence of images
        A sequence may hold arrays, tensors or images of pillow, all of one size. A frame of one column, or a
        column, may hold such images too.
    name : str, default="X"
        What the user calls it.

    Returns
    -------
    ndarray or what scikit-learn makes one of
        uint8 of shape (n, height, width, channels) if the images were of pillow.

    Raises
    ------
    TypeError
        If it is a data set of images with their labels, or a loader of batches.
    ValueError
        If the images are of different shapes.
    """
    if is_tensor(X):
        return from_tensor(X)
    if is_paired(X):
        raise TypeError(
            f"{name} is a {type(X).__name__}, which holds images with their labels; make two arrays of it: "
            "X, y = hfcnn.datasets.to_arrays(dataset)"
        )
    if _is_loader(X):
        raise TypeError(
            f"{name} is a {type(X).__name__}, which gives batches; expected all images: "
            "X, y = hfcnn.datasets.to_arrays(loader.dataset)"
        )
    items = _items(X)
    if items is None:
        return X if hasattr(X, "shape") else np.asarray(X)
    return _stack([_pixels(item, f"{name}[{i}]", None, None) for i, item in enumerate(items)], name)


def to_arrays(
    dataset: Any, *, size: tuple[int, int] | None = None, color: Color | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Make images and labels of a data set of torch or of Hugging Face, all of it.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset, datasets.Dataset, or sequence
        Its items are pairs (image, label) or dicts with a field such as ``image`` and one such as ``label``.
        An image is one of pillow, an array (height, width[, channels]), or a tensor, whose channels come
        first.
    size : (height, width), default=None
        Size to bring images of pillow to: resized until they cover it, and cut at the centre. None keeps
        theirs, which must then be one.
    color : {"gray", "rgb"}, default=None
        Colour to bring images of pillow to. None keeps theirs.

    Returns
    -------
    X : ndarray of shape (n, height, width, channels)
        Images, channels last; uint8 if they were of pillow.
    y : ndarray of shape (n,)
        Labels.

    Raises
    ------
    TypeError
        If the items are neither pairs nor dicts with images and labels, or have no number.
    ValueError
        If there are none, or their shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from hfcnn.datasets import to_arrays
    >>> X, y = to_arrays([(np.zeros((8, 8)), "zero"), (np.ones((8, 8)), "one")])
    >>> X.shape, y.tolist()
    ((2, 8, 8, 1), ['zero', 'one'])
    """
    size, color = check_size(size), check_color(color)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"{type(dataset).__name__} has no number of items; expected a data set whose items are numbered"
        )
    if len(dataset) == 0:
        raise ValueError("the data set is empty; expected images with labels")
    images, labels = [], []
    for i in range(len(dataset)):
        image, label = _pair(dataset[i], i)
        images.append(_pixels(image, f"image {i}", size, color))
        labels.append(label.item() if hasattr(label, "item") else label)
    return _stack(images, "the data set"), np.asarray(labels)


def is_tensor(X: Any) -> bool:
    """Whether this is a tensor of torch, which is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(X, torch.Tensor)


def from_tensor(X: Any) -> NDArray[Any]:
    """Take a tensor's numbers, from whatever device; of numpy's types, which bfloat16 is none of."""
    import torch

    X = X.detach().cpu().resolve_conj().resolve_neg()
    numbers: NDArray[Any] = (X.float() if X.dtype == torch.bfloat16 else X).numpy()
    return numbers


def is_paired(X: Any) -> bool:
    """Whether this is a data set of torch, or of Hugging Face, which holds labels besides images."""
    torch = sys.modules.get("torch.utils.data")
    is_hugging_face = type(X).__module__.startswith("datasets.") and hasattr(X, "column_names")
    return is_hugging_face or (torch is not None and isinstance(X, torch.Dataset))


def _is_loader(X: Any) -> bool:
    torch = sys.modules.get("torch.utils.data")
    return torch is not None and isinstance(X, torch.DataLoader)


def is_picture(item: Any) -> bool:
    """Whether this is an image of pillow, or an encoded one as Hugging Face's tables hold it."""
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(item, pil.Image):
        return True
    return isinstance(item, dict) and isinstance(item.get("bytes"), bytes)


def _items(X: Any) -> Sequence[Any] | None:
    """Take the images out of a sequence, column or frame of one column; None if it is of numbers."""
    if hasattr(X, "columns") and hasattr(X, "shape"):  # a frame of pandas or polars
        if X.shape[1] != 1 or not X.shape[0]:
            return None
        X = X[X.columns[0]]
    if hasattr(X, "shape") and (len(X.shape) != 1 or isinstance(X, np.ndarray) and X.dtype != object):
        return None
    if isinstance(X, str | bytes | dict) or not hasattr(X, "__len__") or not len(X):
        return None
    items = list(X) if isinstance(X, Iterable) else [X[i] for i in range(len(X))]
    first = items[0]
    if is_picture(first) or is_tensor(first) or isinstance(first, np.ndarray):
        return items
    return None


def _pixels(item: Any, source: str, size: tuple[int, int] | None, color: Color | None) -> NDArray[Any]:
    if isinstance(item, dict) and isinstance(item.get("bytes"), bytes):
        return decode_image(io.BytesIO(item["bytes"]), source, size, color)
    if is_picture(item):
        return to_pixels(item, source, size, color)
    if is_tensor(item):
        array = from_tensor(item)
        if array.ndim == 3 and array.shape[0] <= MOST_CHANNELS < array.shape[2]:
            array = array.transpose(1, 2, 0)
    else:
        array = np.asarray(item)
    return array


def _stack(images: list[NDArray[Any]], name: str) -> NDArray[Any]:
    for i, image in enumerate(images):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{name} holds images of different shapes: the first {images[0].shape}, number {i} "
                f"{image.shape}; bring them to one, such as PIL.ImageOps.fit(image, (width, height)) and "
                "image.convert('RGB') do"
            )
    stacked = np.stack(images)
    return stacked[..., np.newaxis] if stacked.ndim == 3 else stacked


def _pair(item: Any, i: int) -> tuple[Any, Any]:
    if isinstance(item, dict):
        image = next((item[name] for name in IMAGE_FIELDS if name in item), None)
        label = next((item[name] for name in LABEL_FIELDS if name in item), None)
        if image is not None and label is not None:
            return image, label
        raise TypeError(
            f"item {i} has the fields {', '.join(map(str, item))}; expected an image in one of "
            f"{', '.join(IMAGE_FIELDS)} and a label in one of {', '.join(LABEL_FIELDS)}"
        )
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    raise TypeError(f"item {i} is a {type(item).__name__}; expected a pair (image, label) or a dict of them")

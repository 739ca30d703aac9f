"""Images for the commands: which part of a data set, and with what model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

__all__ = ["load_like", "load_part", "load_scaled", "load_test_part", "load_trained", "scaled"]


def load_part(
    path: Path,
    split: str | None,
    image_shape: tuple[int, ...] | None,
    size: tuple[int, ...] | None = None,
    color: str | None = None,
    max_bytes: int | None = None,
) -> tuple[Any, Any, str]:
    """Load a part of a data set, and name it: by default its test part, or all where it has none.

    A test part that is there and damaged is an error; other images never stand in for it.
    """
    from hfcnn.datasets import MissingPartError, load

    asked: dict[str, Any] = {"image_shape": image_shape, "size": size, "color": color, "max_bytes": max_bytes}
    if split is not None:
        part = {"train": "training part"}.get(split, f"{split} part")
        return *load(path, split=cast(Any, split), **asked), part
    try:
        return *load(path, split="test", **asked), "test part"
    except MissingPartError:
        return *load(path, **asked), "training part, there is no other"


def load_like(
    path: Path, split: str | None, shape: tuple[int, int, int], max_bytes: int | None
) -> tuple[Any, Any, str]:
    """Load a part as `load_part` does, with image files brought to a shape: the one that a model takes."""
    from hfcnn.datasets.decode import size_and_color

    return load_part(path, split, shape, *size_and_color(shape), max_bytes)


def load_test_part(
    data: Path, test: Path | None, image_shape: tuple[int, int, int], max_bytes: int | None
) -> tuple[Any, Any]:
    """Load the images to test on while training: (None, None) if there are none."""
    from hfcnn.datasets import MissingPartError

    try:
        path, split = (data, "test") if test is None else (test, None)
        return load_like(path, split, image_shape, max_bytes)[:2]
    except MissingPartError:
        if test is not None:
            raise
        return None, None


def load_trained(path: Path, device: str) -> tuple[Any, Any]:
    """Load a classifier of any solver, and the scaler of its images, None where it has its own or none."""
    import hfcnn.estimator
    from hfcnn.persistence import SCALER_MEAN, load_scaler, read_model_file

    arrays, header = read_model_file(path)
    if header.get("class") not in hfcnn.estimator.__all__:
        raise ValueError(f"{path} holds a {header.get('class')}, which hfcnn does not have")
    classifier = getattr(hfcnn.estimator, header["class"]).load(path, device=device)
    is_apart = classifier.scaler_ is None and SCALER_MEAN in arrays
    return classifier, load_scaler(path) if is_apart else None


def load_scaled(
    model: Path, data: Path, split: str | None, device: str, max_bytes: int | None
) -> tuple[Any, Any, Any, str]:
    """Load a classifier, and images, scaled for it, with their labels and the name of the part they are."""
    classifier, scaler = load_trained(model, device)
    X, y, part = load_like(data, split, classifier.image_shape_, max_bytes)
    return classifier, scaled(X, scaler), y, part


def scaled(X: Any, scaler: Any) -> Any:
    """Scale images, where the model's file has a scaler for them."""
    return X if scaler is None else scaler.transform(X)

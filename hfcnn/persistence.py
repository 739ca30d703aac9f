"""Model files: one safetensors file with a JSON header, no pickle, and nothing in it is taken on trust."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from hfcnn._version import __version__
from hfcnn.file_values import decode_value, encode_value
from hfcnn.files import write_atomically
from hfcnn.loss import LOSSES
from hfcnn.network import Network
from hfcnn.preprocessing import ImageScaler

__all__ = [
    "ATTRIBUTES",
    "FITTED",
    "ModelFileError",
    "check_class",
    "is_model_file",
    "load_model",
    "load_scaler",
    "model_contents",
    "read_model_file",
    "refuse_damaged",
    "save_model",
    "saved_parameters",
    "write_model_file",
]

#: Layout of the file; raised when an older reader could not read a newer one.
FORMAT = 1

#: Name of the mean image of a scaler that is kept with a model.
SCALER_MEAN = "scaler/mean"

#: Parameters that name what is outside the file: another file, or code. They are neither kept nor restored.
OUTSIDE = ("callbacks", "checkpoint")


class ModelFileError(ValueError):
    """A file is no model file, is damaged, or holds what this version cannot read."""


def _is_count(value: Any, model: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any, model: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def _is_strength(value: Any, model: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value > 0


def _is_vector(value: Any, model: Any) -> bool:
    shape = (model.network_.n_parameters,)
    return isinstance(value, np.ndarray) and value.shape == shape and bool(np.isfinite(value).all())


def _is_classes(value: Any, model: Any) -> bool:
    is_array = isinstance(value, np.ndarray) and value.shape == (model.network_.n_outputs,)
    return is_array and len(value) > 1 and np.array_equal(np.unique(value), value)


def _is_names(value: Any, model: Any) -> bool:
    is_array = isinstance(value, np.ndarray) and value.shape == (math.prod(model.network_.input_shape),)
    return is_array and all(isinstance(name, str) for name in value.tolist())


def _is_scaler(value: Any, model: Any) -> bool:
    shapes = (model.network_.input_shape, (math.prod(model.network_.input_shape),))
    return value is None or (value.mean_.shape in shapes and bool(np.isfinite(value.mean_).all()))


def _is_history(value: Any, model: Any) -> bool:
    columns = list(value.values())
    return all(c.ndim == 1 and c.dtype.kind in "iuf" and len(c) == len(columns[0]) for c in columns)


#: Fitted attributes that a classifier may have, and a model file may hold: all solvers' together. Each with
#: what must hold of it, given the others.
ATTRIBUTES: dict[str, Callable[[Any, Any], bool]] = {
    "network_": lambda value, model: isinstance(value, Network),
    "classes_": _is_classes,
    "image_shape_": lambda value, model: value == model.network_.input_shape,
    "n_features_in_": lambda value, model: value == math.prod(model.network_.input_shape),
    "feature_names_in_": _is_names,
    "solver_": lambda value, model: value in ("newton-cg", "kfac"),
    "loss_": lambda value, model: value in LOSSES,
    "C_": _is_strength,
    "scaler_": _is_scaler,
    "theta_": lambda value, model: _is_vector(value, model) and value.dtype in (np.float32, np.float64),
    "n_iter_": _is_count,
    "history_": _is_history,
    "best_iteration_": _is_count,
    "best_score_": _is_number,
    "damping_": lambda value, model: _is_number(value, model) and value >= 0,
    "velocity_": _is_vector,
    "n_steps_": _is_count,
}

#: What a fit sets: these, and what the stochastic solver goes on from in memory but no file holds.
FITTED = frozenset(ATTRIBUTES) | {"_training"}

#: Those without which there is no model.
NEEDED = ("network_", "classes_", "image_shape_", "n_features_in_", "theta_", "n_iter_")


def save_model(estimator: Any, path: Any, scaler: ImageScaler | None = None) -> None:
    """Write a fitted estimator to a file; a file that is there is replaced at once or not at all.

    Parameters
    ----------
    estimator : NewtonCNNClassifier or SGDCNNClassifier
        The estimator.
    path : str or path
        The file.
    scaler : ImageScaler or None, default=None
        Scaler of the estimator's images where that is not part of it, to be kept with it; `load_scaler`
        reads it.

    Raises
    ------
    TypeError
        If the labels of the classes are not numbers, booleans or strings.
    """
    arrays, header = model_contents(estimator)
    if scaler is not None:
        arrays[SCALER_MEAN] = scaler.mean_
        header["scales_itself"] = False
    write_model_file(path, arrays, header)


def load_model(kind: type[Any], path: Any, parameters: dict[str, Any]) -> Any:
    """Read an estimator of class `kind` from a model file or a checkpoint.

    Parameters
    ----------
    kind : type
        Class that the file must hold.
    path : str or path
        The file. Paths and functions in it are not restored.
    parameters : dict
        Parameters to change, for instance the device.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        A ValueError: if the file is damaged, of another program, of a newer version, or of another class.
    """
    arrays, header = read_model_file(path)
    with refuse_damaged(path):
        check_class(kind, header, path)
        saved = {name: decode_value(value) for name, value in header["parameters"].items()}
        unknown = saved.keys() - set(kind._get_param_names())
        if unknown:
            raise ModelFileError(
                f"{path} was written by hfcnn {header['version']} and has parameters that {__version__} does "
                f"not know: {', '.join(sorted(unknown))}"
            )
        estimator = kind(**(saved | dict.fromkeys(saved.keys() & set(OUTSIDE))))
        for name in saved:
            if name not in OUTSIDE:
                kind._checks[name](name, getattr(estimator, name))
        _set_fitted(estimator, arrays, header)
    return estimator.set_params(**parameters)


def load_scaler(path: Any) -> ImageScaler:
    """Read the scaler that `save_model` was given.

    Raises
    ------
    ModelFileError
        A ValueError: if the file is damaged, is no model file, or holds no scaler.
    """
    arrays, header = read_model_file(path)
    if SCALER_MEAN not in arrays or header.get("scales_itself"):
        raise ModelFileError(f"{path} holds a classifier without the scaler of its images")
    with refuse_damaged(path):
        scaler = _scaler(arrays[SCALER_MEAN])
        if not np.isfinite(scaler.mean_).all():
            raise ValueError("the scaler's mean is not finite")
        return scaler


def model_contents(estimator: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Split a fitted estimator into arrays and a header of plain values."""
    arrays: dict[str, NDArray[Any]] = {}
    fitted: dict[str, Any] = {}
    for name, value in vars(estimator).items():
        if name not in ATTRIBUTES or name in ("history_", "scaler_"):
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and name != "classes_":
            arrays[name] = value
        else:
            fitted[name] = encode_value(value)
    arrays |= {f"history/{name}": column for name, column in estimator.history_.items()}
    scaler = getattr(estimator, "scaler_", None)
    if scaler is not None:
        arrays[SCALER_MEAN] = scaler.mean_
    header = {
        "class": type(estimator).__name__,
        "version": __version__,
        "parameters": {name: encode_value(value) for name, value in saved_parameters(estimator).items()},
        "fitted": fitted,
        "history": list(estimator.history_),
        "scales_itself": scaler is not None,
    }
    return arrays, header


def saved_parameters(estimator: Any) -> dict[str, Any]:
    """Parameters that a file can hold: no functions or paths, and of random states only seeds."""
    parameters: dict[str, Any] = estimator.get_params(deep=False)
    parameters |= dict.fromkeys(set(OUTSIDE) & parameters.keys())
    if callable(parameters.get("scoring")):
        parameters["scoring"] = None
    if not isinstance(parameters.get("random_state", 0), int | np.integer):
        parameters["random_state"] = None
    return parameters


def check_class(kind: type[Any], header: dict[str, Any], path: Any) -> None:
    """Check that a file holds an estimator of class `kind`: ModelFileError if not."""
    if header["class"] != kind.__name__:
        raise ModelFileError(f"{path} holds a {header['class']}, not a {kind.__name__}")


@contextlib.contextmanager
def refuse_damaged(path: Any) -> Iterator[None]:
    """Turn whatever a crafted or damaged header leads to into the one documented error."""
    try:
        yield
    except ModelFileError:
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        raise ModelFileError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error


def write_model_file(path: Any, arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
    """Write arrays and header, as a whole or not at all."""
    text = json.dumps({"format": FORMAT, **header})
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = to_bytes(arrays, {"hfcnn": text, "checksum": _checksum(text, arrays)})
    write_atomically(path, content)


def is_model_file(path: Any) -> bool:
    """Whether there is an ordinary file that is a whole model file or checkpoint."""
    try:
        read_model_file(path)
    except (OSError, ModelFileError):
        return False
    return True


def read_model_file(path: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read arrays and header.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If it is damaged, of another program, of a newer version, or no file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not Path(path).is_file():
        raise ModelFileError(f"{path} is no ordinary file")
    with refuse_damaged(path):
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ModelFileError(f"{path} is damaged or not a model file of hfcnn: {error}") from error
        if "hfcnn" not in metadata:
            raise ModelFileError(f"{path} is a safetensors file, but not a model file of hfcnn")
        text = metadata["hfcnn"]
        if metadata.get("checksum") != _checksum(text, arrays):
            raise ModelFileError(f"{path} is damaged: its content does not match its checksum")
        header: dict[str, Any] = json.loads(text)
        if header["format"] > FORMAT:
            raise ModelFileError(
                f"{path} was written by hfcnn {header['version']}, which is newer than {__version__}"
            )
    return arrays, header


def _set_fitted(estimator: Any, arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
    """Set fitted attributes that are allowed, and check each of them."""
    fitted = {name: decode_value(value) for name, value in header["fitted"].items()}
    fitted |= {name: array for name, array in arrays.items() if name.endswith("_")}
    fitted["history_"] = {str(name): arrays[f"history/{name}"] for name in header["history"]}
    fitted["scaler_"] = _scaler(arrays[SCALER_MEAN]) if header.get("scales_itself") else None
    fitted.setdefault("C_", getattr(estimator, "C", 1.0))  # written before there was an "auto"
    refused = sorted(fitted.keys() - ATTRIBUTES.keys()) + sorted(set(NEEDED) - fitted.keys())
    if refused:
        raise ValueError(f"not what a model has, or missing: {', '.join(refused)}")
    for name, is_valid in ATTRIBUTES.items():
        if name in fitted:
            setattr(estimator, name, fitted[name])
            if not is_valid(fitted[name], estimator):
                raise ValueError(f"{name} is not what it must be, given the network")


def _scaler(mean: NDArray[Any]) -> ImageScaler:
    scaler = ImageScaler()
    scaler.mean_ = mean
    if mean.ndim == 1:  # fitted on flat images
        scaler.n_features_in_ = len(mean)
    return scaler


def _checksum(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

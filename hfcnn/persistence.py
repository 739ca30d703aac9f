"""Model files: one safetensors file with a JSON header, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from hfcnn._version import __version__
from hfcnn.files import write_atomically
from hfcnn.layers import LAYER_KINDS, LayerDescription
from hfcnn.network import Network
from hfcnn.preprocessing import ImageScaler

__all__ = [
    "check_class",
    "decode_value",
    "encode_value",
    "load_model",
    "load_scaler",
    "model_contents",
    "read_model_file",
    "save_model",
    "saved_parameters",
    "write_model_file",
]

#: Fitted attributes that a classifier may have, and a model file may hold: all solvers' together.
ATTRIBUTES = frozenset(
    {
        *("classes_", "image_shape_", "network_", "theta_", "history_", "n_iter_"),
        *("n_features_in_", "feature_names_in_", "damping_", "velocity_", "n_steps_"),
        *("solver_", "_training"),
    }
)

#: Layout of the file; raised when an older reader could not read a newer one.
FORMAT = 1

#: Name of the mean image of a scaler that is kept with a model.
SCALER_MEAN = "scaler/mean"


def save_model(estimator: Any, path: Any, scaler: ImageScaler | None = None) -> None:
    """Write a fitted estimator to a file; a file that is there is replaced at once or not at all.

    Parameters
    ----------
    estimator : NewtonCNNClassifier or SGDCNNClassifier
        The estimator.
    path : str or path
        The file.
    scaler : ImageScaler or None, default=None
        Scaler of the estimator's images, to be kept with it; `load_scaler` reads it.

    Raises
    ------
    TypeError
        If the labels of the classes are not numbers, booleans or strings.
    """
    arrays, header = model_contents(estimator)
    if scaler is not None:
        arrays[SCALER_MEAN] = scaler.mean_
    write_model_file(path, arrays, header)


def load_model(kind: type[Any], path: Any, parameters: dict[str, Any]) -> Any:
    """Read an estimator of class `kind` from a model file or a checkpoint.

    Parameters
    ----------
    kind : type
        Class that the file must hold.
    path : str or path
        The file.
    parameters : dict
        Parameters to change, for instance the device.

    Raises
    ------
    ValueError
        If the file is damaged, of another program, of a newer version, or of another class.
    """
    arrays, header = read_model_file(path)
    check_class(kind, header, path)
    saved = {name: decode_value(value) for name, value in header["parameters"].items()}
    estimator = kind(**(saved | parameters))
    for name, value in header["fitted"].items():
        setattr(estimator, name, decode_value(value))
    for name, array in arrays.items():
        if name.endswith("_"):
            setattr(estimator, name, array)
    estimator.history_ = {name: arrays[f"history/{name}"] for name in header["history"]}
    return estimator


def load_scaler(path: Any) -> ImageScaler:
    """Read the scaler that `save_model` was given.

    Raises
    ------
    ValueError
        If the file is damaged, is no model file, or holds no scaler.
    """
    arrays, _ = read_model_file(path)
    if SCALER_MEAN not in arrays:
        raise ValueError(f"{path} holds a classifier without the scaler of its images")
    scaler = ImageScaler()
    scaler.mean_ = arrays[SCALER_MEAN]
    if scaler.mean_.ndim == 1:  # fitted on flat images
        scaler.n_features_in_ = len(scaler.mean_)
    return scaler


def model_contents(estimator: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Split a fitted estimator into arrays and a header of plain values."""
    arrays: dict[str, NDArray[Any]] = {}
    fitted: dict[str, Any] = {}
    for name, value in vars(estimator).items():
        if not name.endswith("_") or name.startswith("_") or name == "history_":
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and name != "classes_":
            arrays[name] = value
        else:
            fitted[name] = encode_value(value)
    arrays |= {f"history/{name}": column for name, column in estimator.history_.items()}
    header = {
        "class": type(estimator).__name__,
        "version": __version__,
        "parameters": {name: encode_value(value) for name, value in saved_parameters(estimator).items()},
        "fitted": fitted,
        "history": list(estimator.history_),
    }
    return arrays, header


def saved_parameters(estimator: Any) -> dict[str, Any]:
    """Parameters that a file can hold: no functions, and of random states only seeds."""
    parameters = {name: value for name, value in estimator.get_params(deep=False).items()}
    parameters["callbacks"] = None
    if not isinstance(parameters["random_state"], int | np.integer):
        parameters["random_state"] = None
    return parameters


def encode_value(value: Any) -> Any:
    """Turn a value into what JSON can hold, so that `decode_value` gives it back with its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, LayerDescription):
        return {
            "layer": type(value).__name__,
            "values": {k: encode_value(v) for k, v in asdict(value).items()},
        }
    if isinstance(value, Network):
        return {
            "network": [encode_value(spec) for spec in value.specs],
            "input_shape": list(value.input_shape),
            "n_outputs": value.n_outputs,
        }
    if isinstance(value, tuple):
        return {"tuple": [encode_value(item) for item in value]}
    if isinstance(value, list):
        return [encode_value(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode_value(k), encode_value(v)] for k, v in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        return {"array": [encode_value(item) for item in value.tolist()], "dtype": value.dtype.str}
    raise TypeError(f"a model file cannot hold {value!r} of type {type(value).__name__}")


def decode_value(value: Any) -> Any:
    """Turn back what `encode_value` made."""
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "layer" in value:
        kind = LAYER_KINDS[value["layer"]]
        return kind(**{name: decode_value(item) for name, item in value["values"].items()})
    if "network" in value:
        specs = [decode_value(spec) for spec in value["network"]]
        return Network(specs, tuple(value["input_shape"]), value["n_outputs"])
    if "tuple" in value:
        return tuple(decode_value(item) for item in value["tuple"])
    if "dict" in value:
        return {decode_value(key): decode_value(item) for key, item in value["dict"]}
    return np.array([decode_value(item) for item in value["array"]], dtype=np.dtype(value["dtype"]))


def check_class(kind: type[Any], header: dict[str, Any], path: Any) -> None:
    """Check that a file holds an estimator of class `kind`: ValueError if not."""
    if header["class"] != kind.__name__:
        raise ValueError(f"{path} holds a {header['class']}, not a {kind.__name__}")


def write_model_file(path: Any, arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
    """Write arrays and header, as a whole or not at all."""
    text = json.dumps({"format": FORMAT, **header})
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = to_bytes(arrays, {"hfcnn": text, "checksum": _checksum(text, arrays)})
    write_atomically(path, content)


def read_model_file(path: Any) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read arrays and header: ValueError if the file is damaged or of another program."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a model file of hfcnn: {error}") from error
    if "hfcnn" not in metadata:
        raise ValueError(f"{path} is a safetensors file, but not a model file of hfcnn")
    text = metadata["hfcnn"]
    if metadata.get("checksum") != _checksum(text, arrays):
        raise ValueError(f"{path} is damaged: its content does not match its checksum")
    header: dict[str, Any] = json.loads(text)
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} was written by hfcnn {header['version']}, which is newer than {__version__}"
        )
    return arrays, header


def _checksum(text: str, arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

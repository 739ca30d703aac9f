"""Model files: one safetensors file with a JSON header, no pickle; a checkpoint is a model and its run."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from hfcnn._version import __version__
from hfcnn.files import write_atomically
from hfcnn.layers import LAYER_KINDS, LayerDescription
from hfcnn.network import Network
from hfcnn.preprocessing import ImageScaler

if TYPE_CHECKING:
    from hfcnn.estimator.images import Array, ImageSet

__all__ = [
    "CheckpointRun",
    "fingerprint",
    "load_model",
    "load_scaler",
    "read_checkpoint",
    "save_checkpoint",
    "save_model",
    "state_fields",
    "state_from_fields",
]

State = TypeVar("State")

#: Layout of the file; raised when an older reader could not read a newer one.
FORMAT = 1

#: Parameters that a resumed fit may change: they do not change what an iteration computes.
FREE_PARAMETERS = frozenset(
    {
        "callbacks",
        "checkpoint",
        "checkpoint_every",
        "device",
        "max_iter",
        "memory",
        "n_jobs",
        "verbose",
        "warm_start",
    }
)

#: Name of the mean image of a scaler that is kept with a model.
SCALER_MEAN = "scaler/mean"

#: Images whose values go into a fingerprint; all labels and weights do.
FINGERPRINT_IMAGES = 256


@dataclass(frozen=True)
class CheckpointRun:
    """What a checkpoint holds beside the model.

    Attributes
    ----------
    state : dict
        Fields of the algorithm's state: arrays and plain Python values.
    history : list of dict
        All records.
    n_earlier : int
        Records of earlier fits.
    best_theta : ndarray of shape (n,) or None
        Best parameters so far, under early stopping.
    seeds : dict
        Seeds of the fit.
    data : str
        Fingerprint of the training and validation data.
    """

    state: dict[str, Any]
    history: list[dict[str, float]]
    n_earlier: int
    best_theta: Array | None
    seeds: dict[str, int]
    data: str

    def check_data(self, *sets: ImageSet | None) -> None:
        """Check that the training and validation data are those of the checkpoint.

        Raises
        ------
        ValueError
            If they are not.
        """
        if fingerprint(*sets) != self.data:
            raise ValueError("the checkpoint is of a fit to other images, labels or weights")


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
    arrays, header = _model_contents(estimator)
    if scaler is not None:
        arrays[SCALER_MEAN] = scaler.mean_
    _write(path, arrays, header)


def save_checkpoint(estimator: Any, run: CheckpointRun, path: Any) -> None:
    """Write an estimator, fitted as far as it is, and its run."""
    arrays, header = _model_contents(estimator)
    state = {}
    for name, value in run.state.items():
        if isinstance(value, np.ndarray):
            arrays[f"state/{name}"] = value
        else:
            state[name] = value
    if run.best_theta is not None:
        arrays["best_theta"] = run.best_theta
    header["run"] = {
        "state": state,
        "history": run.history,
        "n_earlier": run.n_earlier,
        "seeds": run.seeds,
        "data": run.data,
    }
    _write(path, arrays, header)


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
    arrays, header = _read(path)
    _check_class(kind, header, path)
    saved = {name: _decode(value) for name, value in header["parameters"].items()}
    estimator = kind(**(saved | parameters))
    for name, value in header["fitted"].items():
        setattr(estimator, name, _decode(value))
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
    arrays, _ = _read(path)
    if SCALER_MEAN not in arrays:
        raise ValueError(f"{path} holds a classifier without the scaler of its images")
    scaler = ImageScaler()
    scaler.mean_ = arrays[SCALER_MEAN]
    if scaler.mean_.ndim == 1:  # fitted on flat images
        scaler.n_features_in_ = len(scaler.mean_)
    return scaler


def read_checkpoint(estimator: Any, path: Any) -> CheckpointRun:
    """Read the run that a checkpoint of the same estimator holds.

    Raises
    ------
    ValueError
        As `load_model`, or if the file is no checkpoint or its parameters are not the estimator's.
    """
    arrays, header = _read(path)
    _check_class(type(estimator), header, path)
    if "run" not in header:
        raise ValueError(f"{path} is a model, not a checkpoint: it does not say how its fit was to go on")
    ours = {name: _encode(value) for name, value in _saved_parameters(estimator).items()}
    theirs = header["parameters"]
    differing = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in FREE_PARAMETERS and ours.get(name) != theirs.get(name)
    ]
    if differing:
        listed = ", ".join(f"{name}={_decode(theirs.get(name))!r}" for name in differing)
        raise ValueError(f"{path} is a checkpoint of a fit with other parameters: {listed}")
    run = header["run"]
    state = run["state"] | {
        name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")
    }
    return CheckpointRun(
        state, run["history"], run["n_earlier"], arrays.get("best_theta"), run["seeds"], run["data"]
    )


def fingerprint(*sets: ImageSet | None) -> str:
    """Digest of image sets: shapes, types, all labels and weights, and a sample of the images."""
    digest = hashlib.blake2b(digest_size=16)
    for images in sets:
        if images is None:
            digest.update(b"none")
            continue
        rows = np.unique(np.linspace(0, len(images) - 1, FINGERPRINT_IMAGES).astype(np.int64))
        sample = np.ascontiguousarray(images.images[rows])
        for part in (sample, images.labels, images.weight):
            if part is not None:
                digest.update(f"{part.shape}{part.dtype.str}{len(images)}".encode())
                digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def state_fields(state: Any) -> dict[str, Any]:
    """Fields of a state, tensors as arrays."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {
        name: value.cpu().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


def state_from_fields(kind: type[State], values: dict[str, Any], device: torch.device) -> State:
    """State whose tensors are on a device."""
    return kind(
        **{
            name: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
    )


def _model_contents(estimator: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Split a fitted estimator into arrays and a header of plain values."""
    arrays: dict[str, Array] = {}
    fitted: dict[str, Any] = {}
    for name, value in vars(estimator).items():
        if not name.endswith("_") or name.startswith("_") or name == "history_":
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and name != "classes_":
            arrays[name] = value
        else:
            fitted[name] = _encode(value)
    arrays |= {f"history/{name}": column for name, column in estimator.history_.items()}
    header = {
        "class": type(estimator).__name__,
        "version": __version__,
        "parameters": {name: _encode(value) for name, value in _saved_parameters(estimator).items()},
        "fitted": fitted,
        "history": list(estimator.history_),
    }
    return arrays, header


def _saved_parameters(estimator: Any) -> dict[str, Any]:
    """Parameters that a file can hold: no functions, and of random states only seeds."""
    parameters = {name: value for name, value in estimator.get_params(deep=False).items()}
    parameters["callbacks"] = None
    if not isinstance(parameters["random_state"], int | np.integer):
        parameters["random_state"] = None
    return parameters


def _encode(value: Any) -> Any:
    """Turn a value into what JSON can hold, so that `_decode` gives it back with its type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, LayerDescription):
        return {"layer": type(value).__name__, "values": {k: _encode(v) for k, v in asdict(value).items()}}
    if isinstance(value, Network):
        return {
            "network": [_encode(spec) for spec in value.specs],
            "input_shape": list(value.input_shape),
            "n_outputs": value.n_outputs,
        }
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[_encode(k), _encode(v)] for k, v in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        return {"array": [_encode(item) for item in value.tolist()], "dtype": value.dtype.str}
    raise TypeError(f"a model file cannot hold {value!r} of type {type(value).__name__}")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "layer" in value:
        kind = LAYER_KINDS[value["layer"]]
        return kind(**{name: _decode(item) for name, item in value["values"].items()})
    if "network" in value:
        specs = [_decode(spec) for spec in value["network"]]
        return Network(specs, tuple(value["input_shape"]), value["n_outputs"])
    if "tuple" in value:
        return tuple(_decode(item) for item in value["tuple"])
    if "dict" in value:
        return {_decode(key): _decode(item) for key, item in value["dict"]}
    return np.array([_decode(item) for item in value["array"]], dtype=np.dtype(value["dtype"]))


def _check_class(kind: type[Any], header: dict[str, Any], path: Any) -> None:
    if header["class"] != kind.__name__:
        raise ValueError(f"{path} holds a {header['class']}, not a {kind.__name__}")


def _write(path: Any, arrays: dict[str, Array], header: dict[str, Any]) -> None:
    """Write arrays and header, as a whole or not at all."""
    text = json.dumps({"format": FORMAT, **header})
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = to_bytes(arrays, {"hfcnn": text, "checksum": _checksum(text, arrays)})
    write_atomically(path, content)


def _read(path: Any) -> tuple[dict[str, Array], dict[str, Any]]:
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

"""Checkpoints: a model file that also says how its fit was to go on."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch

from hfcnn.estimator.images import ImageSet, chunks
from hfcnn.estimator.labels import Array
from hfcnn.file_values import decode_value, encode_value
from hfcnn.files import check_output_path
from hfcnn.network import Network
from hfcnn.persistence import (
    ModelFileError,
    check_class,
    model_contents,
    read_model_file,
    refuse_damaged,
    saved_parameters,
    write_model_file,
)

__all__ = [
    "SavedRun",
    "check_unused",
    "claim",
    "own_path",
    "circumstances",
    "fingerprint",
    "read_checkpoint",
    "save_checkpoint",
    "state_fields",
    "state_from_fields",
]

_State = TypeVar("_State")

#: Parameters that a resumed fit may change: they do not change what an iteration computes, or, device, memory
#: and n_jobs, change it by rounding only.
FREE_PARAMETERS = frozenset(
    {
        "callbacks",
        "checkpoint",
        "checkpoint_every",
        "device",
        "epochs",
        "max_iter",
        "memory",
        "n_jobs",
        "verbose",
        "warm_start",
    }
)

#: What the fields of a state may be in a file, by their annotations.
FIELD_TYPES: dict[str, Any] = {"Tensor": np.ndarray, "int": int, "float": (float, int), "str": str}


@dataclass(frozen=True)
class SavedRun:
    """What a checkpoint holds beside the model.

    Attributes
    ----------
    state : dict
        Fields of the solver's state: arrays and plain Python values.
    history : list of dict
        All rows.
    n_earlier : int
        Rows of earlier fits.
    best_theta : ndarray of shape (n,) or None
        Best parameters so far, under early stopping.
    seeds : dict
        Seeds of the fit.
    data : str
        Fingerprint of the training and validation data.
    circumstances : dict
        What changes rounding: number of threads, device, memory and version of torch.
    """

    state: dict[str, Any]
    history: list[dict[str, float]]
    n_earlier: int
    best_theta: Array | None
    seeds: dict[str, int]
    data: str
    circumstances: dict[str, Any]

    def check_data(self, *sets: ImageSet | None) -> None:
        """Check that the training and validation data are those of the checkpoint.

        Raises
        ------
        ValueError
            If they are not.
        """
        if fingerprint(*sets) != self.data:
            raise ValueError("the checkpoint is of a fit to other images, labels or weights")

    def state_of(self, kind: type[_State], network: Network, device: torch.device) -> _State:
        """State of a class, its tensors on a device.

        Raises
        ------
        ValueError
            If what is saved is no such state, or one of another network.
        """
        with refuse_damaged("resume_from: the checkpoint"):
            if not _is_state(kind, self) or len(self.state["theta"]) != network.n_parameters:
                raise ValueError("the state of its solver is not what it must be")
            return state_from_fields(kind, self.state, device)


_written_now: set[Path] = set()
_lock = threading.Lock()


def check_unused(path: Any) -> None:
    """Check that no other fit of this process is writing a checkpoint: ValueError if one is."""
    with _lock:
        if Path(path).resolve() in _written_now:
            raise ValueError(f"checkpoint={str(path)!r} is being written by another fit; give each its own")


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Have a checkpoint to oneself, among the fits of this process."""
    check_unused(path)
    place = path.resolve()
    with _lock:
        _written_now.add(place)
    try:
        yield
    finally:
        with _lock:
            _written_now.discard(place)


def own_path(estimator: Any, data: str) -> Path:
    """Checkpoint of a fit: `checkpoint`, or for a clone a file beside it, named by parameters and images.

    Searches and cross-validation fit clones, and each of those fits gets a file of its own.
    """
    path = Path(estimator.checkpoint)
    if not getattr(estimator, "_is_clone", False):
        return path
    parameters = {
        name: encode_value(value)
        for name, value in saved_parameters(estimator).items()
        if name not in FREE_PARAMETERS
    }
    text = json.dumps([parameters, data], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return check_output_path(path.with_name(f"{path.stem}-{digest}{path.suffix}"), "checkpoint")


def save_checkpoint(estimator: Any, run: SavedRun, path: Any) -> None:
    """Write an estimator, fitted as far as it is, and its run."""
    arrays, header = model_contents(estimator)
    state = {}
    for name, value in run.state.items():
        if isinstance(value, np.ndarray):
            arrays[f"state/{name}"] = value
        else:
            state[name] = value
    if run.best_theta is not None:
        arrays["best_theta"] = run.best_theta
    parts = {field.name: getattr(run, field.name) for field in fields(run)}
    header["run"] = {name: value for name, value in parts.items() if name != "best_theta"} | {"state": state}
    write_model_file(path, arrays, header)


def circumstances(estimator: Any) -> dict[str, Any]:
    """What changes the rounding of a fit, as it is now."""
    return {
        "threads": torch.get_num_threads(),
        "device": str(estimator._get_backend().device),
        "memory": getattr(estimator, "memory", None),
        "torch": str(torch.__version__),
    }


def read_checkpoint(estimator: Any, path: Any) -> SavedRun:
    """Read the run that a checkpoint of the same estimator holds.

    Parameters
    ----------
    estimator : CNNClassifier
        The estimator, with checked parameters.
    path : str or path
        The checkpoint.

    Raises
    ------
    ValueError
        As `load_model`, or if the file is no checkpoint or its parameters are not the estimator's.

    Warns
    -----
    UserWarning
        If what is different now changes the rounding of the iterations to come.
    """
    arrays, header = read_model_file(path)
    with refuse_damaged(path):
        check_class(type(estimator), header, path)
        if "run" not in header:
            raise ModelFileError(
                f"{path} is a model, not a checkpoint: it does not say how its fit was to go on"
            )
        ours = {name: encode_value(value) for name, value in saved_parameters(estimator).items()}
        theirs = _defaults(estimator) | header["parameters"]  # which may be older than a parameter
        differing = [
            name
            for name in sorted(ours.keys() | theirs.keys())
            if name not in FREE_PARAMETERS and not _same(ours.get(name), theirs.get(name))
        ]
        if differing:
            listed = ", ".join(f"{name}={decode_value(theirs.get(name))!r}" for name in differing)
            raise ModelFileError(f"{path} is a checkpoint of a fit with other parameters: {listed}")
        run = _saved_run(header["run"], arrays)
    now = circumstances(estimator)
    changed = [f"{name} {run.circumstances.get(name)} -> {value}" for name, value in now.items()]
    changed = [
        text for text, name in zip(changed, now, strict=True) if run.circumstances.get(name) != now[name]
    ]
    if changed:
        warnings.warn(
            f"{path} is resumed with other circumstances ({', '.join(changed)}): the iterations to come "
            "agree with those of an uninterrupted fit to rounding, not bit for bit",
            UserWarning,
            stacklevel=7,
        )
    return run


def _defaults(estimator: Any) -> dict[str, Any]:
    """Parameters that the estimator has, at their defaults."""
    kept = saved_parameters(estimator)
    signature = inspect.signature(type(estimator).__init__).parameters
    return {name: encode_value(signature[name].default) for name in kept if name in signature}


def _same(ours: Any, theirs: Any) -> bool:
    return bool(ours == theirs) and isinstance(ours, bool) == isinstance(theirs, bool)


def _saved_run(run: dict[str, Any], arrays: dict[str, Array]) -> SavedRun:
    """Take a run out of a file: ValueError, or another error, if it is not one."""
    state = run["state"] | {
        name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")
    }
    best = arrays.get("best_theta")
    history = [{str(k): v for k, v in row.items()} for row in run["history"]]
    if not all(_is_real(value) for row in history for value in row.values()):
        raise ValueError("a row of its history holds what is no number")
    if any(row.keys() != history[0].keys() for row in history[run["n_earlier"] :]):
        raise ValueError("rows of its history are not alike")
    seeds = {name: int(run["seeds"][name]) for name in ("theta", "sampling", "split")}
    earlier, iteration = run["n_earlier"], state["iteration"]
    if not 0 <= earlier <= len(history) or iteration < len(history) - earlier or min(seeds.values()) < 0:
        raise ValueError("its counts contradict one another")
    if best is not None and (best.shape != state["theta"].shape or not np.isfinite(best).all()):
        raise ValueError("its best parameters are not what they must be")
    return SavedRun(
        state, history, earlier, best, seeds, str(run["data"]), dict(run.get("circumstances", {}))
    )


def _is_state(kind: type[Any], run: SavedRun) -> bool:
    """Whether the saved fields are those of a class of states, each of its type and its numbers finite."""
    wanted = {field.name: str(field.type) for field in fields(cast("Any", kind))}
    if run.state.keys() != wanted.keys():
        return False
    for name, annotation in wanted.items():
        value = run.state[name]
        if not isinstance(value, FIELD_TYPES.get(annotation, dict)) or isinstance(value, bool):
            return False
        if isinstance(value, np.ndarray) and (value.dtype.kind != "f" or not np.isfinite(value).all()):
            return False
    theta = run.state["theta"]
    return theta.ndim == 1 and theta.dtype in (np.float32, np.float64)


def _is_real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isinf(float(value))


def fingerprint(*sets: ImageSet | None) -> str:
    """Digest of image sets: shapes, types, and every image, label and weight."""
    digest = hashlib.blake2b(digest_size=16)
    for images in sets:
        if images is None:
            digest.update(b"none")
            continue
        for part in (images.labels, images.weight):
            if part is not None:
                digest.update(f"{part.shape}{part.dtype.str}".encode())
                digest.update(np.ascontiguousarray(part).tobytes())
        digest.update(f"{images.images.shape}{images.images.dtype.str}".encode())
        for part in chunks(images.images):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def state_fields(state: Any) -> dict[str, Any]:
    """Fields of a state, tensors as arrays."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {
        name: value.detach().cpu().numpy().copy() if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


def state_from_fields(kind: type[_State], values: dict[str, Any], device: torch.device) -> _State:
    """State whose tensors are on a device."""
    return kind(
        **{
            name: torch.from_numpy(value).to(device) if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }
    )

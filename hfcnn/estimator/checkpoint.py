"""Checkpoints: a model file that also says how its fit was to go on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch

from hfcnn.estimator.images import ImageSet
from hfcnn.estimator.labels import Array
from hfcnn.persistence import (
    check_class,
    decode_value,
    encode_value,
    model_contents,
    read_model_file,
    saved_parameters,
    write_model_file,
)

__all__ = [
    "SavedRun",
    "fingerprint",
    "read_checkpoint",
    "save_checkpoint",
    "state_fields",
    "state_from_fields",
]

_State = TypeVar("_State")

#: Parameters that a resumed fit may change: they do not change what an iteration computes.
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

#: Images whose values go into a fingerprint; all labels and weights do.
FINGERPRINT_IMAGES = 256


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
    header["run"] = {
        "state": state,
        "history": run.history,
        "n_earlier": run.n_earlier,
        "seeds": run.seeds,
        "data": run.data,
    }
    write_model_file(path, arrays, header)


def read_checkpoint(estimator: Any, path: Any) -> SavedRun:
    """Read the run that a checkpoint of the same estimator holds.

    Raises
    ------
    ValueError
        As `load_model`, or if the file is no checkpoint or its parameters are not the estimator's.
    """
    arrays, header = read_model_file(path)
    check_class(type(estimator), header, path)
    if "run" not in header:
        raise ValueError(f"{path} is a model, not a checkpoint: it does not say how its fit was to go on")
    ours = {name: encode_value(value) for name, value in saved_parameters(estimator).items()}
    theirs = header["parameters"]
    differing = [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in FREE_PARAMETERS and ours.get(name) != theirs.get(name)
    ]
    if differing:
        listed = ", ".join(f"{name}={decode_value(theirs.get(name))!r}" for name in differing)
        raise ValueError(f"{path} is a checkpoint of a fit with other parameters: {listed}")
    run = header["run"]
    state = run["state"] | {
        name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")
    }
    return SavedRun(
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

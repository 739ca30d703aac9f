"""A cell on disk: a JSON record for people, and beside it, until it is done, the state to go on from."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from hfcnn.experiments.settings import CellSettings, CellState
from hfcnn.files import write_atomically
from hfcnn.report import describe_device, machine

__all__ = [
    "CellRecord",
    "find_record",
    "load_state",
    "read_records",
    "save_state",
    "state_path",
]

#: Digits of a float in a record; a state keeps all of them.
DIGITS = 6

StateT = TypeVar("StateT")


@dataclass
class CellRecord:
    """What is known of a cell.

    Attributes
    ----------
    settings : CellSettings
        What it is.
    status : {"running", "finished", "diverged"}
        "running" is also a cell that was stopped; "diverged" ended early because f is not finite.
    n_train, n_test, n_classes, n_parameters : int
        Sizes.
    versions, machine : dict
        What it was run with and on.
    history : dict of list
        One list a column, one entry an iteration.
    """

    settings: CellSettings
    status: str = "running"
    n_train: int = 0
    n_test: int = 0
    n_classes: int = 0
    n_parameters: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return self.status != "running"

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self.history["iteration"][-1]) if self.history else 0

    def last(self, column: str) -> float:
        """Last entry of a column; NaN before the first iteration."""
        return self.history[column][-1] if self.history.get(column) else math.nan

    def append(self, row: dict[str, float]) -> None:
        """Add an iteration to the history, rounded."""
        for column, value in row.items():
            rounded = value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
            self.history.setdefault(column, []).append(rounded)

    def truncate(self, iteration: int) -> None:
        """Drop what came after an iteration: a state may be one older than the record beside it."""
        n_rows = sum(done <= iteration for done in self.history.get("iteration", []))
        self.history = {column: values[:n_rows] for column, values in self.history.items() if n_rows}

    def save(self, path: Path) -> None:
        """Write the record, one line an entry, numbers that are not finite as null."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (_to_json(asdict(self)) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> CellRecord:
        """Read a record.

        Raises
        ------
        ValueError
            If the file is not a record.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["settings"] = CellSettings(**content["settings"])
            record = cls(**content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a record of a cell ({error})") from error
        record.history = {
            name: [math.nan if value is None else value for value in column]
            for name, column in record.history.items()
        }
        return record

    def set_environment(self, device: torch.device) -> None:
        """Note the versions and the machine in use."""
        about = {**machine(), "device": describe_device(device)}
        self.versions = {name: str(about[name]) for name in ("hfcnn", "torch", "numpy", "python")}
        self.machine = {name: about[name] for name in ("processor", "cores", "threads", "device")}


def _to_json(value: Any, indent: str = "") -> str:
    if isinstance(value, dict):
        deeper = indent + " "
        entries = [f"{deeper}{json.dumps(key)}: {_to_json(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}" if entries else "{}"
    if isinstance(value, list):
        value = [None if isinstance(item, float) and not math.isfinite(item) else item for item in value]
    return json.dumps(value, allow_nan=False)


def find_record(results: Path, settings: CellSettings) -> Path | None:
    """Find a cell in any experiment's folder: a run serves every table that it belongs to."""
    return next(iter(sorted(results.glob(f"*/{settings.name}.json"))), None)


def read_records(results: Path) -> list[CellRecord]:
    """Read all cells with at least one iteration, of all experiments, in the order of their paths."""
    found = {path.name: path for path in sorted(results.glob("*/*-it*-seed*.json"), reverse=True)}
    records = [CellRecord.load(path) for path in sorted(found.values())]
    return [record for record in records if record.history]


def state_path(path: Path) -> Path:
    """Where the state of the cell recorded at `path` is."""
    return path.with_suffix(".state")


def save_state(state: CellState, path: Path) -> None:
    """Write all that a method needs to go on: tensors as they are, the rest as JSON in the file's header."""
    content = {item.name: getattr(state, item.name) for item in fields(state)}
    # copied, as a state may name one tensor twice
    tensors = {name: value.cpu().clone() for name, value in content.items() if isinstance(value, Tensor)}
    rest = {name: value for name, value in content.items() if name not in tensors}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, {"state": json.dumps(rest)}))


def load_state(kind: type[StateT], path: Path, device: torch.device) -> StateT:
    """Read a state of type `kind` that `save_state` wrote."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return kind(**tensors, **json.loads(file.metadata()["state"]))

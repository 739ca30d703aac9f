"""Run cells: go on where they stopped, keep what they do on disk, show how far they are."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from hfcnn.backend import Backend, get_backend
from hfcnn.experiments.data import ExperimentData, load_data
from hfcnn.experiments.record import CellRecord, find_record, load_state, save_state, state_path
from hfcnn.experiments.settings import CellSettings, CellState, solve, state_type
from hfcnn.network import Network
from hfcnn.objective import Objective, outputs

__all__ = ["Runner", "Stopped", "build_problem", "test_accuracy"]

#: Entries of a state that go into the history, of either method.
HISTORY_COLUMNS = (
    "iteration",
    "f",
    "gradient_norm",
    "training_accuracy",
    "damping",
    "rho",
    "step",
    "cg_iterations",
    "n_trials",
    "learning_rate",
    "seconds",
    "passes",
)


class Stopped(Exception):
    """The time is up; what was done is on disk."""


def build_problem(settings: CellSettings, data: ExperimentData, backend: Backend) -> tuple[Objective, Tensor]:
    """Build the objective and the first parameters, which are the same for every method (Sec. 6.2)."""
    network = Network.preset(settings.network, data.X_train.shape[1:], data.n_classes)
    objective = Objective(
        network,
        torch.from_numpy(data.X_train).to(backend.device),
        torch.from_numpy(data.y_train),
        loss=settings.loss,
        C=settings.C * len(data.y_train),
        backend=backend,
    )
    return objective, network.init(settings.seed).to(backend.device)


def test_accuracy(theta: Tensor, data: ExperimentData, objective: Objective) -> float:
    """Share of the test images that theta classifies rightly; outputs that are all NaN count as class 0."""
    logits = outputs(objective.network, theta, data.X_test, objective.backend)
    return float((logits.argmax(1) == data.y_test).mean())


@dataclass
class Runner:
    """Runs cells, one after the other, until they are done or the time is up.

    Parameters
    ----------
    data : Path
        Folder of the data sets.
    results : Path
        Folder of the cells: one folder an experiment, one JSON file a cell.
    experiment : str
        Name of the folder for new cells.
    time_limit : float
        Seconds from now after which the iteration in progress is the last.
    device : str
        "auto", "cpu" or "cuda".
    console : Console
        Where progress is shown.
    """

    data: Path
    results: Path
    experiment: str
    time_limit: float = math.inf
    device: str = "auto"
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.time_limit
        self._backend = get_backend(device=self.device)

    def run(self, cells: Sequence[CellSettings]) -> list[CellRecord]:
        """Run the cells that are not done yet.

        Returns
        -------
        list of CellRecord
            All of them, done.

        Raises
        ------
        Stopped
            If the time limit ended it.
        """
        records = []
        with _Display(self.console, len(cells)) as display:
            for settings in cells:
                records.append(self.run_cell(settings, display.update))
                display.next_cell()
        return records

    def run_cell(
        self, settings: CellSettings, on_iteration: Callable[[CellRecord], None] | None = None
    ) -> CellRecord:
        """Run one cell, from where it stopped, unless it is done.

        Parameters
        ----------
        settings : CellSettings
            The cell.
        on_iteration : callable or None
            Is given the record at the start and after each iteration.

        Raises
        ------
        Stopped
            If the time limit ended it.
        """
        path = find_record(self.results, settings) or self._path(settings)
        record = CellRecord.load(path) if path.exists() else CellRecord(settings)
        if record.is_done:
            return record
        data = load_data(self.data, settings)
        objective, theta0 = build_problem(settings, data, self._backend)
        state = self._resume(record, path)
        _describe(record, data, objective)
        if on_iteration:
            on_iteration(record)
        for new in solve(settings, objective, theta0, state):
            state = new
            record.append(_row(state, test_accuracy(state.theta, data, objective)))
            # in this order: a record may be ahead of its state, which `truncate` mends, never behind it
            record.save(path)
            save_state(state, state_path(path))
            if on_iteration:
                on_iteration(record)
            if time.monotonic() > self._deadline and state.iteration < settings.iterations:
                raise Stopped
        is_finite = state is not None and math.isfinite(state.f)
        record.status = "finished" if is_finite else "diverged"
        record.save(path)
        state_path(path).unlink(missing_ok=True)
        return record

    def _resume(self, record: CellRecord, path: Path) -> CellState | None:
        """Read the state of a stopped cell, and cut its record to it."""
        state = None
        if state_path(path).exists():
            state = load_state(state_type(record.settings), state_path(path), self._backend.device)
        record.truncate(0 if state is None else state.iteration)
        return state

    def _path(self, settings: CellSettings) -> Path:
        return self.results / self.experiment / f"{settings.name}.json"


def _describe(record: CellRecord, data: ExperimentData, objective: Objective) -> None:
    record.n_train, record.n_test = len(data.y_train), len(data.y_test)
    record.n_classes, record.n_parameters = data.n_classes, objective.network.n_parameters
    record.set_environment(objective.backend.device)


def _row(state: CellState, accuracy: float) -> dict[str, Any]:
    row = {name: getattr(state, name) for name in HISTORY_COLUMNS if hasattr(state, name)}
    row["test_accuracy"] = accuracy
    if hasattr(os, "getloadavg"):  # how busy the machine was: seconds mean little without it
        row["load"] = os.getloadavg()[0]
    return row


class _Display:
    """Progress over cells and iterations: bars on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, n_cells: int) -> None:
        self._console = console
        self._n_cells = n_cells
        self._cell = 1
        self._start: tuple[str, int, float] = ("", 0, 0.0)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=3600,
            disable=not console.is_terminal,
        )
        self._cells = self._progress.add_task("cells", total=n_cells)
        self._iterations = self._progress.add_task("iterations")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def next_cell(self) -> None:
        """Say that a cell is done."""
        self._cell += 1
        self._progress.advance(self._cells)

    def update(self, record: CellRecord) -> None:
        """Show how far a cell is."""
        name, total, done = record.settings.name, record.settings.iterations, record.iteration
        if self._start[0] != name:
            self._start = (name, done, time.monotonic())
            self._progress.reset(self._iterations, total=total, description=name)
        self._progress.update(self._iterations, completed=done)
        if not self._console.is_terminal and done > self._start[1]:
            left = timedelta(seconds=round(self._seconds_left(total, done)))
            self._console.print(
                f"cell {self._cell}/{self._n_cells} {name}: {done}/{total}, f {record.last('f'):.4g}, "
                f"test {100 * record.last('test_accuracy'):.2f} %, {record.last('seconds'):.0f} s, "
                f"left {left}",
                soft_wrap=True,
                highlight=False,
            )

    def _seconds_left(self, total: int, done: int) -> float:
        _, first, start = self._start
        return (time.monotonic() - start) * (total - done) / (done - first)

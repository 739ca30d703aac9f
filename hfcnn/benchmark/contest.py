"""The contest: accuracy against seconds and passes of our solvers and of others, on the same ground.

Every contestant starts from the same weights, has the images in memory and the same threads, and averages its
parameters the same way. Looking at the test images takes no time of anybody's. A run is one file, written
after each look; runs that are done are not run again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfcnn.backend import get_backend
from hfcnn.benchmark.contest_rivals import CONTESTANTS, Start
from hfcnn.estimator.parameters import PAPER_C
from hfcnn.experiments.data import ExperimentData, load_dataset
from hfcnn.files import write_atomically
from hfcnn.memory import keep_heap
from hfcnn.network import Network
from hfcnn.objective import Objective, outputs
from hfcnn.report import machine

__all__ = ["ContestPlan", "ContestRun", "RunRecord", "best_rate", "read_runs", "run_contest", "run_one"]

#: Passes at which the test accuracy is looked at; above these, each whole one.
LOOKS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1, 1.25, 1.5, 1.75, 2, 2.5, 3)


@dataclass(frozen=True)
class ContestRun:
    """One run of one contestant.

    Attributes
    ----------
    dataset, network : str
        Data set by its name, and "cnn3" or "cnn5".
    contestant : str
        One of `CONTESTANTS`.
    loss : {"cross_entropy", "squared"}
        Loss.
    rate : float
        Learning rate; 0 where there is none.
    seed : int
        Seed of the first weights and of the order of the images.
    passes, seconds : float
        Where it ends, whichever is first.
    train_size : int or None
        Training images; None is all.
    threads : int
        Threads.
    C : float
        C over the number of images, for contestants that minimize the paper's objective; else 0.
    """

    dataset: str
    network: str
    contestant: str
    loss: str
    rate: float
    seed: int
    passes: float
    seconds: float
    train_size: int | None
    threads: int
    C: float

    @property
    def name(self) -> str:
        """A file name that tells runs apart."""
        parts = [self.dataset, self.network, self.contestant, self.loss]
        parts += [f"C{self.C:g}"] * bool(self.C) + [f"rate{self.rate:g}"] * bool(self.rate)
        parts += [f"seed{self.seed}", f"passes{self.passes:g}", f"seconds{self.seconds:g}"]
        parts += [f"train{self.train_size}"] * (self.train_size is not None)
        return "-".join([*parts, f"threads{self.threads}"])


@dataclass
class RunRecord:
    """What a run showed.

    Attributes
    ----------
    run : ContestRun
        What it is.
    is_done : bool
        Whether it came to its end.
    machine : dict
        What it ran on.
    history : dict of str to list of float
        One entry a look: "passes", "seconds" (of the clock), "cpu_seconds" (of all threads together),
        "averaged", the test accuracy of the averaged parameters, and the machine's "load".
    """

    run: ContestRun
    is_done: bool = False
    machine: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{self.run.name}.json", (json.dumps(asdict(self)) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read one.

        Raises
        ------
        ValueError
            If the file is not a run of the contest.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**content, "run": ContestRun(**content["run"])})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a run of the contest ({error})") from error

    def add(self, **values: float) -> None:
        """Append a look."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(round(value, 5))

    def final(self) -> float:
        """Last accuracy of the averaged parameters; 0 before the first look."""
        return self.history["averaged"][-1] if self.history else 0.0


class _Over(Exception):
    """The run is at its end."""


@dataclass
class _Referee:
    """Looks at the parameters when it is time to, with the clock stopped, and ends the run."""

    run: ContestRun
    record: RunRecord
    objective: Objective
    data: ExperimentData
    write: Callable[[], None]

    def __post_init__(self) -> None:
        self._looks = _looks(self.run.passes)
        self._seconds = self._cpu_seconds = 0.0

    def start(self) -> None:
        """Let the clock run."""
        self._since, self._cpu_since = time.perf_counter(), time.process_time()

    def __call__(
        self, passes: float, newest: Callable[[], Tensor], averaged: Callable[[], Tensor] | None = None
    ) -> None:
        """Look if a look is due; see `hfcnn.benchmark.contest_rivals.Show`."""
        seconds = self._seconds + time.perf_counter() - self._since
        is_over = passes >= self.run.passes or seconds >= self.run.seconds
        if passes < self._looks[0] and not is_over:
            return
        self._cpu_seconds += time.process_time() - self._cpu_since
        self._seconds = seconds
        self._looks = [look for look in self._looks if look > passes] or [float("inf")]
        theta = newest()
        self.record.add(
            passes=passes,
            seconds=self._seconds,
            cpu_seconds=self._cpu_seconds,
            averaged=self._accuracy(theta if averaged is None else averaged()),
            load=os.getloadavg()[0],
        )
        self.write()
        if is_over or not bool(theta.isfinite().all()):
            raise _Over
        self.start()

    def _accuracy(self, theta: Tensor) -> float:
        found = outputs(self.objective.network, theta, self.data.X_test, self.objective.backend)
        return float((found.argmax(1) == self.data.y_test).mean())


def _looks(passes: float) -> list[float]:
    whole = np.arange(LOOKS[-1] + 1, passes + 1).tolist()
    return [look for look in (*LOOKS, *whole) if look < passes] + [passes]


def run_one(run: ContestRun, data: Path, folder: Path) -> RunRecord:
    """Run one contestant once, unless its file says that it is done.

    Parameters
    ----------
    run : ContestRun
        What to run.
    data : Path
        Folder of the data sets.
    folder : Path
        Folder of the runs' files.
    """
    path = folder / f"{run.name}.json"
    if path.exists() and (found := RunRecord.load(path)).is_done:
        return found
    torch.set_num_threads(run.threads)
    images = load_dataset(data, run.dataset, run.train_size)
    network = Network.preset(run.network, images.X_train.shape[1:], images.n_classes)
    objective = Objective(
        network,
        torch.from_numpy(images.X_train),
        torch.from_numpy(images.y_train),
        loss=run.loss,
        C=(run.C or PAPER_C) * len(images.y_train),  # where it is not used, any will do
        backend=get_backend("torch", "cpu"),
    )
    record = RunRecord(run, machine=machine())
    referee = _Referee(run, record, objective, images, lambda: record.save(folder))
    keep_heap(torch.device("cpu"))  # for all: without it torch's own step takes longer, too
    referee.start()
    try:
        CONTESTANTS[run.contestant].train(
            Start(objective, network.init(run.seed), run.rate, run.seed), referee
        )
    except _Over:
        pass
    record.is_done = True
    record.save(folder)
    return record


@dataclass(frozen=True)
class ContestPlan:
    """What to run.

    Attributes
    ----------
    datasets, networks, contestants : sequence of str
        Which.
    seeds : int
        Seeds 0, 1, ... below this.
    passes, seconds : float
        Where a run ends, whichever is first.
    train_size : int or None
        Training images; None is all.
    threads : int
        Threads.
    rates : int
        How many of a contestant's learning rates are tried, from its first on.
    """

    datasets: Sequence[str]
    networks: Sequence[str]
    contestants: Sequence[str]
    seeds: int
    passes: float
    seconds: float
    train_size: int | None
    threads: int
    rates: int = 10

    def __post_init__(self) -> None:
        for what, given, known in (
            ("contestant", self.contestants, CONTESTANTS),
            ("network", self.networks, ("cnn3", "cnn5")),
        ):
            for name in given:
                if name not in known:
                    raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")

    def first(self, dataset: str, network: str, contestant: str) -> ContestRun:
        """Build the run of seed 0 at the first rate."""
        rival = CONTESTANTS[contestant]
        rate = next(iter(rival.rates), 0.0)
        limits = (self.passes, self.seconds, self.train_size, self.threads)
        return ContestRun(dataset, network, contestant, rival.loss, rate, 0, *limits, rival.C)


def run_contest(
    plan: ContestPlan, data: Path, folder: Path, on_run: Callable[[RunRecord], None]
) -> list[str]:
    """Run the first rate with every seed, then others with seed 0, then the best one with every seed.

    Parameters
    ----------
    plan : ContestPlan
        What to run.
    data, folder : Path
        Folders of the data sets and of the runs' files.
    on_run : callable
        Is given each run once it is done.

    Returns
    -------
    list of str
        Contestants that were left out because their package is not installed.
    """
    absent = [name for name in plan.contestants if not _is_installed(CONTESTANTS[name].package)]
    starts = [
        plan.first(dataset, network, name)
        for dataset in plan.datasets
        for network in plan.networks
        for name in plan.contestants
        if name not in absent
    ]

    def run(wanted: Iterator[ContestRun]) -> None:
        for one in wanted:
            on_run(run_one(one, data, folder))

    run(replace(one, seed=seed) for seed in range(plan.seeds) for one in starts)
    if plan.rates == 1:
        return absent
    others = slice(1, plan.rates)
    run(replace(one, rate=rate) for one in starts for rate in CONTESTANTS[one.contestant].rates[others])
    best = [replace(one, rate=best_rate(one, read_runs(folder))) for one in starts]
    run(replace(one, seed=seed) for seed in range(1, plan.seeds) for one in best)
    return absent


def _is_installed(package: str) -> bool:
    return not package or importlib.util.find_spec(package) is not None


def best_rate(run: ContestRun, records: Sequence[RunRecord]) -> float:
    """Rate of the best final accuracy among runs that differ from this one in their rate only."""
    found = [record for record in records if record.is_done and replace(record.run, rate=run.rate) == run]
    return max(found, key=RunRecord.final).run.rate if found else run.rate


def read_runs(folder: Path) -> list[RunRecord]:
    """Read every run that has a look, in the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    records = [RunRecord.load(path) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise FileNotFoundError(f"{folder}: no runs of the contest")
    return [record for record in records if record.history]

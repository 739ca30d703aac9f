"""Pieces of Markdown pages that all tables share: numbers, tables, and where the numbers come from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hfcnn.experiments.paper import DATASETS, OTHER_DATASETS, title
from hfcnn.experiments.record import CellRecord
from hfcnn.report import markdown_table

__all__ = [
    "METHOD_TITLES",
    "MISSING",
    "Cells",
    "Page",
    "SizedDataset",
    "accuracy",
    "by_problem",
    "images",
    "machine_words",
    "mean_accuracy",
    "pick",
    "provenance",
]

#: Where there is no number.
MISSING = "–"

METHOD_TITLES = {"newton": "Newton", "sg": "SG", "sg-plain": "SG, no momentum", "kfac": "K-FAC"}


@dataclass(frozen=True)
class Page:
    """A page of the results.

    Attributes
    ----------
    slug : str
        File name without ending.
    title : str
        Heading.
    body : str
        Markdown after the heading.
    """

    slug: str
    title: str
    body: str


@dataclass(frozen=True, order=True)
class SizedDataset:
    """A data set at a size: what can stand in one row."""

    dataset: str
    n_train: int
    n_test: int

    @property
    def slug(self) -> str:
        """Part of a file name."""
        return f"{self.dataset}-{self.n_train}-{self.n_test}"

    @property
    def is_part(self) -> bool:
        """Whether the data set is known, and these are not all of its images."""
        full = (DATASETS | OTHER_DATASETS).get(self.dataset)
        return full is not None and (full.n_train, full.n_test) != (self.n_train, self.n_test)


@dataclass
class Cells:
    """Records of one problem: those of the tables, and those of the cross validation."""

    runs: list[CellRecord] = field(default_factory=list)
    search: list[CellRecord] = field(default_factory=list)


def by_problem(records: Iterable[CellRecord]) -> dict[SizedDataset, Cells]:
    """Sort records by data set and size; a cross validation goes with every test set of its training set."""
    records = list(records)
    problems: dict[SizedDataset, Cells] = defaultdict(Cells)
    for record in records:
        if record.settings.fold is None:
            problems[SizedDataset(record.settings.dataset, record.n_train, record.n_test)].runs.append(record)
    for record in records:
        settings, n_images = record.settings, record.n_train + record.n_test
        for problem, cells in problems.items():
            if settings.fold is not None and (problem.dataset, problem.n_train) == (
                settings.dataset,
                n_images,
            ):
                cells.search.append(record)
    return dict(sorted(problems.items()))


def pick(records: Iterable[CellRecord], **criteria: Any) -> list[CellRecord]:
    """Take the records whose settings meet the criteria; of unlike lengths, the longest."""
    found = [
        record
        for record in records
        if all(getattr(record.settings, name) == value for name, value in criteria.items())
    ]
    longest = max((record.settings.iterations for record in found), default=0)
    return [record for record in found if record.settings.iterations == longest]


def mean_accuracy(records: Sequence[CellRecord]) -> float:
    """Mean test accuracy at the last iteration, in per cent; NaN of no records."""
    return 100 * float(np.mean([record.last("test_accuracy") for record in records])) if records else np.nan


def accuracy(records: Sequence[CellRecord], *notes: str) -> str:
    """Mean test accuracy in per cent, and in brackets of how many seeds, what is not done, and `notes`."""
    if not records:
        return MISSING
    marks = [f"{len(records)} seeds"] if len(records) > 1 else []
    marks += _diverged(records)
    running = [record.iteration for record in records if not record.is_done]
    marks += [f"after {_range(running)} of {records[0].settings.iterations}"] if running else []
    marks += notes
    return f"{mean_accuracy(records):.2f}" + (f" ({', '.join(marks)})" if marks else "")


def _diverged(records: Sequence[CellRecord]) -> list[str]:
    number = sum(record.status == "diverged" for record in records)
    return [f"{number} diverged"] if number else []


def images(problem: SizedDataset) -> str:
    """Sizes of the training and test set, marked where they are not the paper's."""
    size = f"{problem.n_train:,} / {problem.n_test:,}"
    return f"{size} (part)" if problem.is_part else size


def on_images(problem: SizedDataset, whose: str) -> str:
    """Say in a cell of how many training images a number is, where the paper's are others than ours.

    Parameters
    ----------
    problem : SizedDataset
        What we trained on.
    whose : {"paper", "ours"}
        Whose number it is.
    """
    if problem.dataset not in DATASETS or not problem.is_part:
        return ""
    size = DATASETS[problem.dataset].n_train if whose == "paper" else problem.n_train
    return f" on {size:,} images"


def provenance(records: Iterable[CellRecord]) -> str:
    """Say of each number what it was run on: a row for cells that differ in the seed only."""
    groups: dict[tuple[Any, ...], list[CellRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.settings.seed):
        groups[(*record.settings.group, machine_words(record))].append(record)
    header = ["Data set", "Images", "Network", "Method", "C", "Rate", "Iterations", "Seeds"]
    header += ["Test accuracy, mean (min–max) %", "Seconds", "Load", "Machine"]
    explanation = (
        "Load is the machine's mean: where it is above the cores, other work shared them, and the seconds "
        "are longer than the method's own, many times where a run was set aside for another.\n"
    )
    return markdown_table(header, [_provenance_row(group) for group in groups.values()]) + "\n" + explanation


def _provenance_row(group: list[CellRecord]) -> list[str]:
    first = group[0]
    settings = first.settings
    problem = SizedDataset(settings.dataset, first.n_train, first.n_test)
    rate = f"S {100 * (settings.sampling_rate or 0):g} %" if settings.sampling_rate else MISSING
    if settings.learning_rate is not None:
        rate = f"η₀ {settings.learning_rate:g}"
    values = [100 * record.last("test_accuracy") for record in group]
    span = f"{min(values):.2f}–{max(values):.2f}"
    return [
        title(settings.dataset),
        images(problem),
        settings.network,
        METHOD_TITLES[settings.method],
        f"{settings.C:g} l",
        rate,
        f"{_range([record.iteration for record in group])} of {settings.iterations}",
        ", ".join(str(record.settings.seed) for record in group),
        f"{mean_accuracy(group):.2f} ({', '.join([*_diverged(group), span])})",
        _range([round(record.last("seconds")) for record in group]),
        mean_load(group),
        machine_words(first),
    ]


def machine_words(record: CellRecord) -> str:
    """Processor, threads and versions in words."""
    about, versions = record.machine, record.versions
    where = about["processor"] if about["device"] == "cpu" else about["device"]
    return f"{where}, {about['threads']} of {about['cores']} cores, torch {versions['torch']}"


def mean_load(records: Iterable[CellRecord]) -> str:
    """Mean load of the machine: of more than its cores, the seconds are longer than need be."""
    loads = [value for record in records for value in record.history.get("load", [])]
    return f"{np.mean(loads):.1f}" if loads else MISSING


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"

"""The contest's page: accuracies, times to given accuracies, and a picture of each data set and network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hfcnn.benchmark.contest import ContestRun, RunRecord, best_rate
from hfcnn.benchmark.contest_rivals import CONTESTANTS
from hfcnn.experiments.paper import title
from hfcnn.files import write_atomically
from hfcnn.report import markdown_table

__all__ = ["Standing", "standings", "write_contest"]

#: Test accuracies, in per cent, to which times are given.
CONTEST_LEVELS = {
    "mnist": (97.0, 98.0, 98.5, 99.0, 99.2),
    "fashion-mnist": (85.0, 88.0, 90.0, 91.0),
    "cifar10": (55.0, 60.0, 65.0, 70.0, 75.0),
}

#: Passes at which accuracies are given.
PASSES = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Colours of Okabe and Ito, then dashes of the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Standing:
    """A contestant at one rate on one data set and network: its runs, one of each seed.

    Parameters
    ----------
    name : str
        What tables and legends say.
    records : sequence of RunRecord
        Its runs.
    clock : {"seconds", "cpu_seconds"}
        Which time counts.
    """

    def __init__(self, name: str, records: Sequence[RunRecord], clock: str) -> None:
        self.name, self.records, self.clock = name, list(records), clock

    def accuracies(self, passes: float) -> list[float]:
        """Accuracy in per cent of each run that got so far, at the last look up to so many passes."""
        found = []
        for record in self.records:
            history = record.history
            if history["passes"][-1] >= passes - 1e-9 or record.is_done:
                seen = [i for i, value in enumerate(history["passes"]) if value <= passes + 1e-9]
                if seen and history["passes"][seen[-1]] > 0.8 * passes:
                    found.append(100 * history["averaged"][seen[-1]])
        return found

    def times(self, level: float) -> list[float]:
        """Seconds until each run that reached a level in per cent did."""
        firsts = [
            next(
                (
                    seconds
                    for seconds, value in zip(
                        record.history[self.clock], record.history["averaged"], strict=True
                    )
                    if 100 * value >= level
                ),
                None,
            )
            for record in self.records
        ]
        return [first for first in firsts if first is not None]

    def curve(self, column: str) -> tuple[list[float], list[float]]:
        """Medians over the runs, look by look: time or passes, and accuracy in per cent."""
        length = min(len(record.history["passes"]) for record in self.records)
        across = np.median([record.history[column][:length] for record in self.records], axis=0)
        upward = np.median([record.history["averaged"][:length] for record in self.records], axis=0)
        return across.tolist(), (100 * upward).tolist()


def standings(records: Sequence[RunRecord], clock: str) -> dict[tuple[str, str], list[Standing]]:
    """Sort runs by data set and network, each contestant at its first rate and at its best."""
    groups: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[_without_seed(record.run)].append(record)
    found: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for name, contestant in CONTESTANTS.items():
        own = [g for g in groups.values() if g[0].run.contestant == name]
        for place in dict.fromkeys((g[0].run.dataset, g[0].run.network) for g in own):
            here = [g for g in own if (g[0].run.dataset, g[0].run.network) == place]
            first = min((g[0].run for g in here), key=lambda run: _order(run, contestant.rates))
            best = best_rate(replace(first, seed=0), records)
            for rate in dict.fromkeys((first.rate, best)):
                runs = [record for g in here if g[0].run.rate == rate for record in g]
                n_tried = len({g[0].run.rate for g in here})
                words = contestant.title + (f", rate {rate:g}" if contestant.rates else "")
                words += f" (best of {n_tried})" if n_tried > 1 and rate == best else ""
                found[place].append(Standing(words, runs, clock))
    return dict(found)


def _without_seed(run: ContestRun) -> tuple[Any, ...]:
    return tuple(value for name, value in vars(run).items() if name != "seed")


def _order(run: ContestRun, rates: Sequence[float]) -> int:
    return rates.index(run.rate) if run.rate in rates else len(rates)


def write_contest(records: Sequence[RunRecord], output: Path, clock: str = "seconds") -> Path:
    """Write the page and its pictures.

    Parameters
    ----------
    records : sequence of RunRecord
        Runs, done or not.
    output : Path
        Folder of the page and its pictures.
    clock : {"seconds", "cpu_seconds"}
        Time of the clock, or of all threads together: what else the machine does counts less in that.

    Returns
    -------
    Path
        The page.
    """
    if clock not in ("seconds", "cpu_seconds"):
        raise ValueError(f"clock must be seconds or cpu_seconds; got {clock!r}")
    output.mkdir(parents=True, exist_ok=True)
    parts = ["# The contest\n", _introduction(records, clock)]
    for (dataset, network), found in standings(records, clock).items():
        name = title(dataset)
        picture = f"contest-{dataset}-{network}.png"
        _draw(found, f"{name}, {network}", clock, output / picture)
        parts += [
            f"## {name}, {network}\n",
            f"![Test accuracy against time and against passes]({picture})\n",
            "Test accuracy in per cent, median (range) over seeds.\n",
            markdown_table(
                ["Contestant", "Runs", *(f"{passes:g} passes" for passes in PASSES)],
                [
                    [one.name, str(len(one.records)), *(_spread(one.accuracies(p), 2) for p in PASSES)]
                    for one in found
                ],
            ),
            "Seconds to a test accuracy, median (range); of how many runs, where not all reached it.\n",
            markdown_table(
                ["Contestant", *(f"{level:g} %" for level in CONTEST_LEVELS.get(dataset, ()))],
                [
                    [one.name, *(_reached(one, level) for level in CONTEST_LEVELS.get(dataset, ()))]
                    for one in found
                ],
            ),
        ]
    path = output / "contest.md"
    write_atomically(path, "\n".join(parts).encode())
    return path


def _introduction(records: Sequence[RunRecord], clock: str) -> str:
    first = records[0]
    threads = sorted({record.run.threads for record in records})
    load = np.mean([value for record in records for value in record.history["load"]])
    which = "of the clock" if clock == "seconds" else "of all threads together"
    return (
        f"Written by `hfcnn benchmark contest` from {len(records)} runs on {first.machine['processor']}, "
        f"{' or '.join(map(str, threads))} threads, torch {first.machine['torch']}, mean load {load:.1f}. "
        "All start from the same weights for a seed, have the images in memory, and are looked at through an "
        "average of their parameters, the same for all; evaluation is not counted. A pass is a forward and a "
        f"backward pass over all training images. Seconds are {which}. First-order methods take batches of "
        "128 and torch's channels-last layout; rates marked as best have the best final accuracy on the test "
        "set, which flatters them. `torch.compile` took twice as long as eager for a step of batch 128, and "
        "is not used.\n"
    )


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "–"
    low, middle, high = min(values), float(np.median(values)), max(values)
    if len(values) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _reached(one: Standing, level: float) -> str:
    times = one.times(level)
    runs = f", {len(times)} of {len(one.records)}" if len(times) < len(one.records) else ""
    return _spread(times, 1) + (runs if times else "")


def _draw(found: Sequence[Standing], heading: str, clock: str, path: Path) -> None:
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    figure.suptitle(heading)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, column, unit in zip(
        panels, (clock, "passes"), ("seconds", "passes over the training images"), strict=True
    ):
        for number, one in enumerate(found):
            across, upward = one.curve(column)
            style = "-" if number < len(COLOURS) else "--"
            colour = COLOURS[number % len(COLOURS)]
            panel.plot(across, upward, color=colour, linestyle=style, marker=".", label=one.name)
        panel.set_xscale("log")
        panel.set_xlabel(unit)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy (%)")
    best = max((max(one.curve("passes")[1]) for one in found), default=100.0)
    panels[0].set_ylim(max(0.0, best - 25), min(100.0, best + 1))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path)

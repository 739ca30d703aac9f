"""The contest's page: accuracies, times to given accuracies, and a picture of each data set and network."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.benchmark.contest import ContestRun, RunRecord, best_rate
from hfcnn.benchmark.contest_rivals import CONTESTANTS
from hfcnn.estimator.parameters import STOCHASTIC_C
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

#: Passes at which accuracies are given, and how far from them a look may be.
PASSES = (0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
TOLERANCE = 1.05

#: The contestant that others are compared with.
OURS = "kfac"

#: Colours of Okabe and Ito, one for each contestant.
COLOURS = dict(
    zip(
        CONTESTANTS,
        ("#0072B2", "#000000", "#D55E00", "#009E73", "#56B4E9", "#CC79A7", "#E69F00"),
        strict=True,
    )
)

#: Accuracies in per cent that a scale may show.
TICKS = (20, 30, 40, 50, 60, 65, 70, 75, 80, 85, 88, 90, 92, 95, 97, 98, 98.5, 99, 99.2, 99.4, 99.6)


class Standing:
    """A contestant at one rate on one data set and network: its runs, one of each seed.

    Parameters
    ----------
    records : sequence of RunRecord
        Its runs, whose passes to an accuracy count.
    longest : sequence of RunRecord
        Its longest run of each seed, whose accuracies count.
    fastest : RunRecord
        The contestant's fastest run, which says how long passes take: other work on the machine only adds.
    n_tried : int
        Learning rates that were tried.
    is_best : bool
        Whether this is the best of them.
    clock : {"seconds", "cpu_seconds"}
        Which time counts.
    """

    def __init__(
        self,
        records: Sequence[RunRecord],
        longest: Sequence[RunRecord],
        fastest: RunRecord,
        n_tried: int,
        is_best: bool,
        clock: str,
    ) -> None:
        self.records, self.longest, self.fastest, self.clock = list(records), list(longest), fastest, clock
        self.contestant, rate, C = records[0].run.contestant, records[0].run.rate, records[0].run.C
        title = CONTESTANTS[self.contestant].title
        if C not in (0, STOCHASTIC_C):
            title += f", C = {C:g} l"
        best = n_tried > 1 and is_best
        self.name = title + (f", rate {rate:g}" if rate else "") + (f" (best of {n_tried})" if best else "")
        self.legend = f"{title}, best of {n_tried} rates" if best else self.name
        self.style = {"color": COLOURS[self.contestant], "linestyle": "-" if is_best else "--"}

    def accuracies(self, passes: float) -> list[float]:
        """Accuracy in per cent of each run that was looked at near so many passes."""
        found = []
        for record in self.longest:
            looks = zip(record.history["passes"], record.history["averaged"], strict=True)
            near = [value for seen, value in looks if 1 / TOLERANCE < seen / passes < TOLERANCE]
            found += [100 * value for value in near[-1:]]
        return found

    def times(self, level: float) -> list[float]:
        """Seconds until each run that reached a level in per cent did."""
        found = []
        for record in self.records:
            reached = 100 * np.array(record.history["averaged"]) >= level
            found += self._times(record)[reached][:1].tolist()
        return found

    def curve(self, column: str) -> tuple[list[float], list[float]]:
        """Medians over the runs, look by look: time or passes, and accuracy in per cent."""
        length = min(len(record.history["passes"]) for record in self.records)
        rows = [self._times(r) if column == self.clock else r.history[column] for r in self.records]
        across = np.median([row[:length] for row in rows], axis=0)
        upward = np.median([record.history["averaged"][:length] for record in self.records], axis=0)
        return across.tolist(), (100 * upward).tolist()

    def _times(self, record: RunRecord) -> NDArray[np.float64]:
        """When the looks of a run would have been, had it been as fast as the fastest."""
        passes, times = self.fastest.history["passes"], self.fastest.history[self.clock]
        return np.interp(record.history["passes"], passes, times)


def standings(records: Sequence[RunRecord], clock: str) -> dict[tuple[str, str], list[Standing]]:
    """Sort runs by data set and network, each contestant at its first rate and at its best."""
    groups: dict[tuple[Any, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        groups[_without_seed(record.run)].append(record)
    found: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for name, contestant in CONTESTANTS.items():
        own = [g for g in groups.values() if g[0].run.contestant == name]
        for place, C in dict.fromkeys((_place(g[0].run), g[0].run.C) for g in own):
            here = [g for g in own if (_place(g[0].run), g[0].run.C) == (place, C)]
            first = min((g[0].run for g in here), key=lambda run: (_order(run, contestant.rates), run.passes))
            best = best_rate(replace(first, seed=0), records)
            rising = sorted((record for g in here for record in g), key=lambda record: record.run.passes)
            n_tried = len({record.run.rate for record in rising})
            for rate in dict.fromkeys((first.rate, best)):
                of_rate = [record for record in rising if record.run.rate == rate]
                longest = {record.run.seed: record for record in of_rate}.values()
                # runs of other lengths may be of another day, on which the machine was faster
                alike = [record for record in rising if record.run.passes == of_rate[0].run.passes]
                timed = [record for record in alike if record.run.rate == rate]
                fastest = _fastest(alike, clock)
                found[place].append(Standing(timed, list(longest), fastest, n_tried, rate == best, clock))
    known = list(CONTEST_LEVELS)
    order = sorted(
        found, key=lambda place: (known.index(place[0]) if place[0] in known else len(known), place)
    )
    return {place: found[place] for place in order}


def _fastest(records: Sequence[RunRecord], clock: str) -> RunRecord:
    """Of the runs that came furthest, the one that took least time."""
    furthest = max(record.history["passes"][-1] for record in records)
    far = [record for record in records if record.history["passes"][-1] > furthest / TOLERANCE]
    return min(far, key=lambda record: record.history[clock][-1])


def _place(run: ContestRun) -> tuple[str, str]:
    return run.dataset, run.network


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
    places = standings(records, clock)
    headings = {f"{title(dataset)}, {network}": found for (dataset, network), found in places.items()}
    _draw_overview(headings, clock, output / "contest.png")
    parts = ["# The contest\n", _introduction(records, clock)]
    for (dataset, network), found in places.items():
        name = title(dataset)
        picture = f"contest-{dataset}-{network}.png"
        _draw(found, f"{name}, {network}", clock, output / picture)
        parts += [
            f"## {name}, {network}\n",
            _machines([record for record in records if _place(record.run) == (dataset, network)]),
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
            _by_level(dataset, found, _reached),
        ]
        for ours in (one for one in found if one.contestant == OURS):
            others = [one for one in found if one is not ours]
            parts += [f"Times as long as {ours.name}, median over median.\n"]
            parts += [_by_level(dataset, others, partial(_quotient, ours))]
    path = output / "contest.md"
    write_atomically(path, "\n".join(parts).encode())
    return path


def _introduction(records: Sequence[RunRecord], clock: str) -> str:
    which = "of the clock" if clock == "seconds" else "of all threads together"
    return (
        f"Written by `hfcnn benchmark contest` from {len(records)} runs. "
        "All start from the same weights for a seed, have the images in memory, and are looked at through an "
        "average of their parameters, the same for all; evaluation is not counted. A pass is a forward and a "
        f"backward pass over all training images. Seconds are {which}. A contestant's passes take what they "
        "took in the fastest of its runs of the fewest passes, as other work on the machine only adds. "
        "Compare seconds within a data set, as machines differ from day to day. "
        f'C is {STOCHASTIC_C:g} l, the default of solver="kfac", where the '
        "paper's objective is minimized and no other C is named. First-order methods take batches of "
        "128 and torch's channels-last layout; rates marked as best have the best final accuracy on the test "
        "set, which flatters them. `torch.compile` took twice as long as eager for a step of batch 128, and "
        "is not used.\n"
    )


def _machines(records: Sequence[RunRecord]) -> str:
    """Say where runs were made, those of each length."""
    threads = sorted({record.run.threads for record in records})
    runs = Counter(
        f"of {one.run.passes:g} passes on {one.machine['processor']}, torch {one.machine['torch']}"
        for one in records
    )
    load = np.mean([value for record in records for value in record.history["load"]])
    return (
        f"Runs: {'; '.join(f'{count} {what}' for what, count in runs.most_common())}; "
        f"{' or '.join(map(str, threads))} thread{'s' * (threads != [1])}, mean load {load:.1f}.\n"
    )


def _by_level(dataset: str, found: Sequence[Standing], cell: Callable[[Standing, float], str]) -> str:
    """Tabulate something of each contestant and level of accuracy."""
    levels = CONTEST_LEVELS.get(dataset, ())
    rows = [[one.name, *(cell(one, level) for level in levels)] for one in found]
    return markdown_table(["Contestant", *(f"{level:g} %" for level in levels)], rows)


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


def _quotient(ours: Standing, one: Standing, level: float) -> str:
    """Median time over our median time, if all runs of both reached the level."""
    if any(len(each.times(level)) < len(each.records) for each in (one, ours)):
        return "–"
    return f"{np.median(one.times(level)) / np.median(ours.times(level)):.1f}"


def _draw(found: Sequence[Standing], heading: str, clock: str, path: Path) -> None:
    """Draw a data set and network: accuracy against time, and against passes."""
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(11, 5), dpi=120, layout="constrained")
    figure.suptitle(heading)
    panels = figure.subplots(1, 2, sharey=True)
    _draw_panel(panels[0], found, clock, "seconds")
    _draw_panel(panels[1], found, "passes", "passes over the training images")
    panels[0].set_ylabel("test accuracy (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path)


def _draw_overview(places: dict[str, list[Standing]], clock: str, path: Path) -> None:
    """Draw accuracy against time, a panel for each heading."""
    from matplotlib.figure import Figure  # an extra

    figure = Figure(figsize=(4.4 * len(places), 3.9), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(places), squeeze=False)[0]
    handles: dict[str, Any] = {}
    for panel, (heading, found) in zip(panels, places.items(), strict=True):
        panel.set_title(heading)
        _draw_panel(panel, found, clock, "seconds")
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    panels[0].set_ylabel("test accuracy (%)")
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(places) + 1)
    figure.savefig(path)


def _draw_panel(panel: Any, found: Sequence[Standing], column: str, unit: str) -> None:
    """Draw the contestants on a scale on which halving the error is the same way everywhere."""
    from matplotlib.ticker import NullLocator  # an extra

    for one in found:
        across, upward = one.curve(column)
        panel.plot(across, upward, label=one.legend, marker=".", **one.style)
    panel.set_yscale(
        "function", functions=(lambda value: -np.log(100.1 - value), lambda value: 100.1 - np.exp(-value))
    )
    error = 100 - max(max(one.curve(column)[1]) for one in found)
    low, high = max(0.0, 96 - 2.4 * error), 100 - 0.9 * error
    panel.set_ylim(low, high)
    panel.set_yticks([tick for tick in TICKS if low <= tick <= high])
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_xscale("log")
    panel.set_xlabel(unit)
    panel.xaxis.set_major_formatter("{x:g}")
    panel.grid(alpha=0.3)

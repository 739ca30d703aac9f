"""Figure 3: test accuracy against time, and against passes over the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hfcnn.experiments.data import N_FOLDS
from hfcnn.experiments.markdown import (
    METHOD_TITLES,
    MISSING,
    Page,
    SizedDataset,
    by_problem,
    images,
    pick,
    provenance,
)
from hfcnn.experiments.paper import title
from hfcnn.experiments.plan import (
    SAMPLING_RATE,
    SEARCHED_RATES,
    C,
    Plan,
    RateChoice,
    choose_rate,
    evaluate_search,
)
from hfcnn.experiments.record import CellRecord
from hfcnn.experiments.runner import Runner
from hfcnn.report import markdown_table

__all__ = ["Curve", "page", "run_cells"]

#: Test accuracies, in per cent, whose first time the table shows.
LEVELS = (20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95, 97, 98, 99)


@dataclass(frozen=True)
class Curve:
    """Test accuracy of one run, in per cent, as it went on.

    Attributes
    ----------
    method : {"newton", "sg", "sg-plain"}
        Method.
    label : str
        What the legend says.
    seconds, passes, accuracies : list of float
        One entry an iteration.
    is_after_search : bool
        Whether seconds and passes of the search for the learning rate come first.
    """

    method: str
    label: str
    seconds: list[float]
    passes: list[float]
    accuracies: list[float]
    is_after_search: bool = False

    def first(self, level: float) -> tuple[float, float] | None:
        """Seconds and passes when the accuracy first reached a level, in per cent."""
        for seconds, passes, value in zip(self.seconds, self.passes, self.accuracies, strict=True):
            if value >= level:
                return seconds, passes
        return None


def run_cells(runner: Runner, plan: Plan) -> None:
    """Run the cells that are not done yet: Newton, then the search and SG with it, then plain SG."""
    for dataset, network in plan.problems():
        runner.run([plan.newton(dataset, network, seed) for seed in range(plan.seeds)])
        rate = choose_rate(runner, plan, dataset, network).rate
        for seed in range(plan.seeds):
            methods = ("sg", "sg-plain")
            runner.run([plan.sg(dataset, network, seed, rate, method=method) for method in methods])


def page(records: list[CellRecord], output: Path) -> Page | None:
    """Draw a plot of each data set and network; None where Newton or SG is missing everywhere.

    Parameters
    ----------
    records : list of CellRecord
        All cells.
    output : Path
        Folder of the page and its plots.
    """
    parts: list[str] = []
    used: list[CellRecord] = []
    for problem, cells in by_problem(records).items():
        for network in ("cnn3", "cnn5"):
            choice = evaluate_search(cells.search, problem.dataset, network)
            runs = _runs(cells.runs, network, choice)
            if {"newton", "sg"} <= {record.settings.method for record in runs}:
                parts += _section(problem, network, runs, choice, output)
                used += runs
    if not parts:
        return None
    introduction = (
        "One seed. The seconds are the algorithm's, without the evaluation on the test set. A pass is a "
        "forward and a backward pass over all training images; a Gauss-Newton product counts as a pass "
        "over S. Dashed: SG again, begun after the search for its initial learning rate.\n"
    )
    end = ["## Where our numbers are from\n", provenance(used)]
    return Page("figure3", "Figure 3: convergence speed", "\n".join([introduction, *parts, *end]))


def _runs(records: list[CellRecord], network: str, choice: RateChoice) -> list[CellRecord]:
    """One run a method, of the lowest seed."""
    common = {"network": network, "C": C}
    found = [
        pick(records, **common, method="newton", sampling_rate=SAMPLING_RATE),
        pick(records, **common, method="sg", learning_rate=choice.rate),
        pick(records, **common, method="sg-plain", learning_rate=choice.rate),
    ]
    return [min(runs, key=lambda record: record.settings.seed) for runs in found if runs]


def _section(
    problem: SizedDataset, network: str, runs: list[CellRecord], choice: RateChoice, output: Path
) -> list[str]:
    from hfcnn.experiments import figures  # matplotlib is an extra

    curves = [_curve(record) for record in runs]
    if choice.is_searched:
        curves += [_curve(record, choice) for record in runs if record.settings.method == "sg"]
    picture = f"figure3-{problem.slug}-{network}.png"
    heading = f"{title(problem.dataset)}, {images(problem)} images, {network}"
    figures.draw_convergence(curves, heading, output / picture)
    return [
        f"## {heading}\n",
        f"![Test accuracy against seconds and against passes over the data]({picture})\n",
        _search_sentence(choice),
        _times(curves),
    ]


def _search_sentence(choice: RateChoice) -> str:
    if not choice.is_searched:
        return f"SG's initial learning rate, {choice.rate:g}, is the paper's: it was not searched for.\n"
    return (
        f"SG's initial learning rate, {choice.rate:g}, was chosen by {len(SEARCHED_RATES) * N_FOLDS} runs of "
        f"{choice.epochs} epochs, which took {choice.seconds:,.0f} s.\n"
    )


def _curve(record: CellRecord, search: RateChoice | None = None) -> Curve:
    settings, history = record.settings, record.history
    seconds, passes = (search.seconds, search.passes) if search else (0.0, 0.0)
    label = METHOD_TITLES[settings.method] + (" after its search" if search else "")
    return Curve(
        settings.method,
        label,
        [value + seconds for value in history["seconds"]],
        [value + passes for value in history["passes"]],
        [100 * value for value in history["test_accuracy"]],
        search is not None,
    )


def _times(curves: list[Curve]) -> str:
    """Table of the seconds and passes to each level that some run reached."""
    rows = []
    for level in LEVELS:
        firsts = [curve.first(level) for curve in curves]
        if any(firsts):
            cells = [f"{first[0]:,.0f} s, {first[1]:,.0f}" if first else MISSING for first in firsts]
            rows.append([f"{level} %", *cells])
    header = ["First at", *(f"{curve.label}: seconds, passes" for curve in curves)]
    return markdown_table(header, rows) if rows else ""

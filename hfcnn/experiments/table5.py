"""Table 5: test accuracy of Newton, and of SG at the rate that cross validation chooses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from hfcnn.estimator.parameters import STOCHASTIC_C
from hfcnn.experiments.markdown import (
    MISSING,
    Cells,
    Page,
    SizedDataset,
    accuracy,
    by_problem,
    images,
    machine_words,
    pick,
    provenance,
)
from hfcnn.experiments.paper import TABLE5, title
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

__all__ = ["page", "run_cells"]

NETWORKS = {"cnn3": "3-layer CNN", "cnn5": "5-layer CNN"}


def run_cells(runner: Runner, plan: Plan) -> None:
    """Run the cells that are not done yet: of each data set and network, the search and then seed by seed."""
    for dataset, network in plan.problems():
        rate = choose_rate(runner, plan, dataset, network).rate
        for seed in range(plan.seeds):
            runner.run([plan.newton(dataset, network, seed), plan.sg(dataset, network, seed, rate)])


def page(records: list[CellRecord], output: Path) -> Page | None:
    """Write the table from what there is; None if there is nothing.

    Parameters
    ----------
    records : list of CellRecord
        All cells.
    output : Path
        Folder of the page; for pages with figures.
    """
    rows, searches, used, progress, shown = [], [], [], [], set()
    for problem, network, cells in _problems(records):
        if problem.is_part:  # accuracies on parts of the images are no results
            continue
        choice = evaluate_search(cells.search, problem.dataset, network)
        newton = pick(cells.runs, network=network, method="newton", C=C, sampling_rate=SAMPLING_RATE)
        sg = pick(cells.runs, network=network, method="sg", C=C, learning_rate=choice.rate)
        kfac = pick(cells.runs, network=network, method="kfac", C=STOCHASTIC_C)
        if newton or sg or kfac:
            rows.append(_row(problem, network, newton, sg, kfac, choice))
            used += newton + sg + kfac
            shown.add((problem.dataset, network))
        if newton:
            progress.append(_progress(problem, network, min(newton, key=lambda run: run.settings.seed)))
        if choice.is_searched:
            searches.append(_search_row(problem, network, choice))
    if not rows:
        return None
    header = ["Data set", "Images, training / test", "Network"]
    header += ["Newton, paper", "Newton, ours", "SG, paper (rate)", "SG, ours (rate)", "K-FAC, ours"]
    parts = [
        f"Mean test accuracy in per cent, with C = {C:g} l and {100 * SAMPLING_RATE:g} % of the images in S. "
        "The paper's numbers are means of five seeds after 100 Newton iterations and 1,000 epochs of SG; "
        "ours are of one seed after as many, where a cell does not say otherwise. A rate with an asterisk is "
        "the paper's, not searched for. K-FAC is the stochastic solver, with its defaults, cross-entropy and "
        f"C = {STOCHASTIC_C:g} l, until it stalls.\n",
        markdown_table(header, rows),
        _missing(shown),
        _searches(searches),
        *progress,
        "## Where our numbers are from\n",
        provenance(used),
    ]
    return Page("table5", "Table 5: test accuracy", "\n".join(parts))


def _problems(records: list[CellRecord]) -> Iterator[tuple[SizedDataset, str, Cells]]:
    for problem, cells in by_problem(records).items():
        for network in NETWORKS:
            yield problem, network, cells


def _row(
    problem: SizedDataset,
    network: str,
    newton: list[CellRecord],
    sg: list[CellRecord],
    kfac: list[CellRecord],
    choice: RateChoice,
) -> list[str]:
    published = TABLE5.get((problem.dataset, network))
    rate = f"{choice.rate:g}" + ("" if choice.is_searched else "*")
    return [
        title(problem.dataset),
        images(problem),
        NETWORKS[network],
        f"{published.newton:.2f}" if published else MISSING,
        accuracy(newton),
        f"{published.sg:.2f} ({published.learning_rate:g})" if published else MISSING,
        accuracy(sg, rate, f"{sg[0].settings.iterations:,} epochs") if sg else MISSING,
        accuracy(kfac),
    ]


def _missing(shown: set[tuple[str, str]]) -> str:
    names = [f"{title(dataset)} {network}" for dataset, network in TABLE5 if (dataset, network) not in shown]
    return f"Not run: {', '.join(names)}.\n" if names else ""


def _progress(problem: SizedDataset, network: str, record: CellRecord) -> str:
    """How a run of Newton went on: ten iterations one by one, then every fifth, and the last."""
    history = record.history
    columns = (history["iteration"], history["seconds"], history["f"], accumulate(history["cg_iterations"]))
    rows = [
        [f"{iteration}", f"{seconds / 60:.1f}", f"{f:.4f}", f"{products:,.0f}", f"{100 * value:.2f}"]
        for iteration, seconds, f, products, value in zip(*columns, history["test_accuracy"], strict=True)
        if iteration <= 10 or iteration % 5 == 0 or iteration == record.iteration
    ]
    header = ["Iteration", "Minutes", "f", "CG iterations so far", "Test accuracy, %"]
    return (
        f"## {title(problem.dataset)}, {NETWORKS[network]}: Newton by iteration and minute\n\n"
        f"Seed {record.settings.seed}, {machine_words(record)}.\n\n{markdown_table(header, rows)}"
    )


def _search_row(problem: SizedDataset, network: str, choice: RateChoice) -> list[str]:
    assert choice.accuracies is not None
    accuracies = [f"{100 * value:.2f}" for value in choice.accuracies.values()]
    start = [title(problem.dataset), f"{problem.n_train:,}", NETWORKS[network], str(choice.epochs)]
    return [*start, *accuracies, f"{choice.rate:g}", f"{choice.seconds:,.0f}"]


def _searches(rows: list[list[str]]) -> str:
    if not rows:
        return ""
    header = ["Data set", "Images", "Network", "Epochs", *(f"{rate:g}" for rate in SEARCHED_RATES)]
    return (
        "## SG's choice of its initial learning rate\n\n"
        "Mean accuracy in per cent of a stratified five-fold cross validation on the training images.\n\n"
        + markdown_table([*header, "Chosen", "Seconds"], rows)
    )

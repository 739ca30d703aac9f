"""Table 6: how sensitive Newton and SG are to C, the sampling rate and the initial learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hfcnn.experiments.markdown import (
    MISSING,
    Page,
    SizedDataset,
    accuracy,
    by_problem,
    images,
    on_images,
    pick,
    provenance,
)
from hfcnn.experiments.paper import C_VALUES, LEARNING_RATES, SAMPLING_RATES, TABLE6, title
from hfcnn.experiments.plan import Plan
from hfcnn.experiments.record import CellRecord
from hfcnn.experiments.runner import Runner
from hfcnn.report import markdown_table

__all__ = ["TABLE6_NETWORK", "Grid", "page", "run_cells"]

#: The network of Section 6.3.
TABLE6_NETWORK = "cnn3"


@dataclass(frozen=True)
class Grid:
    """The cells of one data set, by C and rate, and the paper's accuracies in per cent beside them."""

    problem: SizedDataset
    newton: dict[tuple[float, float], list[CellRecord]]
    sg: dict[tuple[float, float], list[CellRecord]]

    @property
    def records(self) -> list[CellRecord]:
        """All cells."""
        return [record for runs in (*self.newton.values(), *self.sg.values()) for record in runs]

    @property
    def n_filled(self) -> int:
        """Entries that have a cell."""
        return sum(bool(runs) for runs in (*self.newton.values(), *self.sg.values()))

    def paper(self, method: str) -> dict[tuple[float, float], float]:
        """Accuracies that the paper has for "newton" or "sg"."""
        rows = {C: TABLE6[self.problem.dataset, C] for C in C_VALUES if (self.problem.dataset, C) in TABLE6}
        return {
            (C, rate): value
            for C, row in rows.items()
            for rate, value in (row.newton if method == "newton" else row.sg).items()
        }


def run_cells(runner: Runner, plan: Plan) -> None:
    """Run the cells that are not done yet, a whole grid of each seed after the other."""
    for dataset, network in plan.problems():
        for seed in range(plan.seeds):
            newton = [
                plan.newton(dataset, network, seed, C=C, sampling_rate=rate)
                for C in C_VALUES
                for rate in SAMPLING_RATES
            ]
            sg = [plan.sg(dataset, network, seed, rate, C=C) for C in C_VALUES for rate in LEARNING_RATES]
            runner.run(newton + sg)


def page(records: list[CellRecord], output: Path) -> Page | None:
    """Write the tables and draw a plot of each; None if there is nothing beyond what Table 5 has.

    Parameters
    ----------
    records : list of CellRecord
        All cells.
    output : Path
        Folder of the page and its plots.
    """
    grids = [grid for grid in _grids(records) if grid.n_filled > 2]
    if not grids:
        return None
    from hfcnn.experiments import figures  # matplotlib is an extra

    parts = [
        "Mean test accuracy in per cent of the 3-layer CNN. The paper's numbers are means of five seeds "
        "after 100 Newton iterations and 1,000 epochs of SG; the last table says of how many seeds and "
        "iterations ours are. A run of SG whose objective is not finite has diverged and is at chance.\n"
    ]
    for grid in grids:
        picture = f"table6-{grid.problem.slug}.png"
        figures.draw_robustness(grid, output / picture)
        parts += [
            f"## {title(grid.problem.dataset)}, {images(grid.problem)} images\n",
            markdown_table(*_newton_table(grid)),
            markdown_table(*_sg_table(grid)),
            f"![Test accuracy against sampling rate and learning rate]({picture})\n",
        ]
    parts += ["## Where our numbers are from\n", provenance(r for grid in grids for r in grid.records)]
    return Page("table6", "Table 6: sensitivity to parameters", "\n".join(parts))


def _grids(records: list[CellRecord]) -> list[Grid]:
    return [
        Grid(
            problem,
            {
                (C, rate): pick(cells.runs, network=TABLE6_NETWORK, method="newton", C=C, sampling_rate=rate)
                for C in C_VALUES
                for rate in SAMPLING_RATES
            },
            {
                (C, rate): pick(cells.runs, network=TABLE6_NETWORK, method="sg", C=C, learning_rate=rate)
                for C in C_VALUES
                for rate in LEARNING_RATES
            },
        )
        for problem, cells in by_problem(records).items()
    ]


def _newton_table(grid: Grid) -> tuple[list[str], list[list[str]]]:
    header = ["C", "Newton, share in S", *(f"{100 * rate:g} %" for rate in SAMPLING_RATES)]
    return header, _rows(grid.problem, grid.paper("newton"), grid.newton, SAMPLING_RATES)


def _sg_table(grid: Grid) -> tuple[list[str], list[list[str]]]:
    header = ["C", "SG, initial learning rate", *(f"{rate:g}" for rate in LEARNING_RATES)]
    return header, _rows(grid.problem, grid.paper("sg"), grid.sg, LEARNING_RATES)


def _rows(
    problem: SizedDataset,
    paper: dict[tuple[float, float], float],
    ours: dict[tuple[float, float], list[CellRecord]],
    rates: tuple[float, ...],
) -> list[list[str]]:
    rows = []
    for C in C_VALUES:
        published = [f"{paper[C, rate]:.2f}" if (C, rate) in paper else MISSING for rate in rates]
        rows.append([f"{C:g} l", f"paper{on_images(problem, 'paper')}", *published])
        rows.append(["", f"ours{on_images(problem, 'ours')}", *(accuracy(ours[C, rate]) for rate in rates)])
    return rows

"""Plots of the results. Colours are those of Okabe and Ito, with markers and dashes beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hfcnn.experiments.markdown import images
from hfcnn.experiments.paper import C_VALUES, LEARNING_RATES, SAMPLING_RATES, title
from hfcnn.experiments.record import CellRecord

if TYPE_CHECKING:
    from hfcnn.experiments.figure3 import Curve
    from hfcnn.experiments.section5 import Comparison
    from hfcnn.experiments.table6 import Grid

__all__ = ["draw_convergence", "draw_costs", "draw_robustness"]

BLUE, ORANGE, GREEN, PURPLE, GRAY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"

METHOD_STYLES = {"newton": (BLUE, "o"), "sg": (ORANGE, "s"), "sg-plain": (GREEN, "^"), "kfac": (PURPLE, "D")}
C_STYLES = dict(zip(C_VALUES, ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^")), strict=True))

#: Markers a curve, so that one can tell the curves apart without their colours.
N_MARKERS = 8


def _figure(heading: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    figure.suptitle(heading)
    axes = figure.subplots(1, 2, sharey=True)
    axes[0].set_ylabel("test accuracy (%)")
    for ax in axes:
        ax.grid(alpha=0.3)
    return figure, axes


def draw_convergence(curves: list[Curve], heading: str, path: Path) -> None:
    """Draw test accuracy against seconds and against passes over the data, both on a log scale.

    Parameters
    ----------
    curves : list of Curve
        One a method.
    heading : str
        Title of the picture.
    path : Path
        PNG file.
    """
    figure, axes = _figure(heading)
    for ax, column, unit in zip(
        axes, ("seconds", "passes"), ("time (s)", "passes over the data"), strict=True
    ):
        for curve in curves:
            colour, marker = METHOD_STYLES[curve.method]
            ax.plot(
                getattr(curve, column),
                curve.accuracies,
                color=colour,
                marker=marker,
                markersize=5,
                markevery=max(1, len(curve.accuracies) // N_MARKERS),
                linestyle="--" if curve.is_after_search else "-",
                label=curve.label,
            )
        ax.set_xscale("log")
        ax.set_xlabel(unit)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(curves))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_robustness(grid: Grid, path: Path) -> None:
    """Draw test accuracy against Newton's sampling rate and against SG's initial learning rate.

    Parameters
    ----------
    grid : Grid
        The cells of one data set; bars span the seeds.
    path : Path
        PNG file.
    """
    figure, axes = _figure(f"{title(grid.problem.dataset)}, {images(grid.problem)} images, 3-layer CNN")
    _draw_grid(axes[0], grid.newton, grid.paper("newton"), SAMPLING_RATES)
    axes[0].set_xlabel("Newton: share of the images in S (%)")
    axes[0].set_xticks(range(len(SAMPLING_RATES)), [f"{100 * rate:g}" for rate in SAMPLING_RATES])
    _draw_grid(axes[1], grid.sg, grid.paper("sg"), LEARNING_RATES)
    axes[1].set_xlabel("SG: initial learning rate")
    axes[1].set_xticks(range(len(LEARNING_RATES)), [f"{rate:g}" for rate in LEARNING_RATES])
    for ax in axes:
        ax.axhline(100 / grid.records[0].n_classes, color=GRAY, linestyle=":", label="chance")
        ax.set_ylim(0, 103)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_costs(comparisons: dict[str, list[Comparison]], path: Path) -> None:
    """Draw counted over predicted costs, on a log scale; 1 is a prediction that holds.

    Parameters
    ----------
    comparisons : dict of str to list of Comparison
        By network and image shape.
    path : Path
        PNG file.
    """
    figure, axes = _figure(
        "Counted over predicted, for one image: filled hfcnn.cost, open the paper's formulas"
    )
    axes[0].set_ylabel("")
    parts = [item.part for item in next(iter(comparisons.values()))]
    styles = zip((BLUE, ORANGE, GREEN, PURPLE), "os^D", comparisons.items(), strict=True)
    for number, (colour, marker, (label, items)) in enumerate(styles):
        rows = np.arange(len(parts)) + 0.15 * (number - 1.5)
        style = {"color": colour, "marker": marker, "linestyle": ""}
        for ax, cost in zip(axes, ("operations", "bytes"), strict=True):
            ax.plot([item.ratio("ours", cost) for item in items], rows, label=label, **style)
            ratios = [item.ratio("paper", cost) for item in items]
            ax.plot(ratios, rows, markerfacecolor="none", **style)
    for ax, cost in zip(axes, ("operations", "bytes"), strict=True):
        ax.axvline(1, color=GRAY, linestyle=":")
        ax.set_xscale("log")
        ax.set_xticks((0.1, 0.2, 0.5, 1, 2, 5, 10), ("0.1", "0.2", "0.5", "1", "2", "5", "10"))
        ax.set_xlim(0.1, 15)
        ax.set_xlabel(f"{cost}, counted / predicted")
    axes[0].set_yticks(range(len(parts)), parts)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(comparisons))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_grid(
    ax: Any,
    ours: dict[tuple[float, float], list[CellRecord]],
    paper: dict[tuple[float, float], float],
    rates: tuple[float, ...],
) -> None:
    """Draw a line for each C over equally spaced rates: ours filled, the paper's open and dashed."""
    for shift, C in enumerate(C_VALUES):
        colour, marker = C_STYLES[C]
        # side by side, so that equal accuracies do not hide each other
        places = {rate: place + 0.08 * (shift - 1) for place, rate in enumerate(rates)}
        spans = {rate: _span(ours[C, rate]) for rate in rates if ours[C, rate]}
        if spans:
            low, mean, high = np.array(list(spans.values())).T
            at = [places[rate] for rate in spans]
            bars = (mean - low, high - mean)
            ax.errorbar(at, mean, bars, color=colour, marker=marker, capsize=2, label=f"C = {C:g} l, ours")
        known = [rate for rate in rates if (C, rate) in paper]
        if known:
            ax.plot(
                [places[rate] for rate in known],
                [paper[C, rate] for rate in known],
                color=colour,
                marker=marker,
                markerfacecolor="none",
                linestyle="--",
                alpha=0.6,
                label=f"C = {C:g} l, paper",
            )


def _span(records: list[CellRecord]) -> tuple[float, float, float]:
    """Least, mean and greatest test accuracy, in per cent."""
    values = [100 * record.last("test_accuracy") for record in records]
    return min(values), float(np.mean(values)), max(values)

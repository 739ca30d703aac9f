"""Rows of a benchmark, their goals, and their tables."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hfcnn._version import __version__

__all__ = ["Row", "at_least", "at_most", "machine", "report"]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes
    ----------
    what : str
        What was measured, of which network.
    figure : float
        The figure.
    unit : str
        Its unit; "x" is a ratio.
    goal : str
        What it is to reach; empty where it only informs.
    is_reached : bool or None
        Whether it does; None without a goal.
    """

    what: str
    figure: float
    unit: str
    goal: str = ""
    is_reached: bool | None = None


def at_most(what: str, figure: float, goal: float, unit: str = "x") -> Row:
    """Row whose figure is to be at most `goal`."""
    return Row(what, figure, unit, f"<= {goal:g}", figure <= goal)


def at_least(what: str, figure: float, goal: float, unit: str = "x") -> Row:
    """Row whose figure is to be at least `goal`."""
    return Row(what, figure, unit, f">= {goal:g}", figure >= goal)


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "hfcnn": __version__,
        "python": platform.python_version(),
    }


def report(title: str, groups: dict[str, list[Row]], json_file: Path | None, markdown: Path | None) -> None:
    """Print groups of rows as one table and, where asked for, write them as JSON and Markdown."""
    about = machine()
    title = f"{title}: {about['processor']}, {about['threads']} threads, torch {about['torch']}"
    table = Table("case", "measure", "figure", "goal", "reached", title=title)
    for case, rows in groups.items():
        for row in rows:
            reached = "" if row.is_reached is None else ("yes" if row.is_reached else "no")
            table.add_row(case, row.what, f"{_number(row.figure)} {row.unit}".strip(), row.goal, reached)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if json_file:
        content = {
            "machine": about,
            "rows": {case: [asdict(r) for r in rows] for case, rows in groups.items()},
        }
        json_file.write_text(json.dumps(content, indent=1) + "\n")
    if markdown:
        markdown.write_text(_markdown(groups))


def _markdown(groups: dict[str, list[Row]]) -> str:
    """Write a row a measure and a column a case; a figure that misses its goal is followed by (no)."""
    measures = {row.what: row for rows in groups.values() for row in rows}
    figures = {(case, row.what): row for case, rows in groups.items() for row in rows}
    lines = [["measure", "unit", "goal", *groups], ["---"] * (3 + len(groups))]
    for what, row in measures.items():
        cells = [_cell(figures.get((case, what))) for case in groups]
        lines.append([what, row.unit, row.goal, *cells])
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return _number(row.figure) + (" (no)" if row.is_reached is False else "")


def _number(figure: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"

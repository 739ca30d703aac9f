"""Rows of a benchmark, their goals, and their tables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hfcnn.report import machine, markdown_table, terminal, terminal_table

__all__ = ["Row", "at_least", "at_most", "show_rows"]


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


def show_rows(
    title: str, groups: dict[str, list[Row]], json_file: Path | None, markdown: Path | None
) -> None:
    """Print groups of rows as one table and, where asked for, write them as JSON and Markdown."""
    about = machine()
    title = f"{title}: {about['processor']}, {about['threads']} threads, torch {about['torch']}"
    header = ("case", "measure", "figure", "goal", "reached")
    lines = [
        [
            case,
            row.what,
            f"{_number(row.figure)} {row.unit}".strip(),
            row.goal,
            {None: "", True: "yes", False: "no"}[row.is_reached],
        ]
        for case, rows in groups.items()
        for row in rows
    ]
    terminal(140).print(terminal_table(title, header, lines, left=header))
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
    lines = [
        [what, row.unit, row.goal, *(_cell(figures.get((case, what))) for case in groups)]
        for what, row in measures.items()
    ]
    return markdown_table(["measure", "unit", "goal", *groups], lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return _number(row.figure) + (" (no)" if row.is_reached is False else "")


def _number(figure: float) -> str:
    """Three digits, or all of a whole number."""
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"

"""What a compile report covers: versions of Triton side by side, and the units that the dots are on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import triton

from hfcnn.report import markdown_table, terminal_table

from .compile_report import CompiledLaunch
from .matrix_units import NEWEST_UNITS, products
from .report_tables import WORDS, product_lines

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["dot_lines", "read_versions", "report_json", "sections", "version_lines", "versions_table"]

VERSION_COLUMNS = (
    "Triton", "target", "launches", "compiled", "failed", "most spilled B", "in loops", "float64", "bfloat16",
    "product us",
)  # fmt: skip
DOT_COLUMNS = ("target", "dots in", "newest", "launches on it", "on another")


def version_lines(rows: Sequence[CompiledLaunch], planned: Mapping[str, int]) -> list[list[str]]:
    """Count the launches of this version of Triton on each target.

    Parameters
    ----------
    rows : sequence of CompiledLaunch
        Those that were compiled.
    planned : mapping of str to int
        How many there are by target.

    Returns
    -------
    list of list of str
        As `VERSION_COLUMNS` says; in loops are instructions for spilled registers.
    """
    lines = []
    for target in dict.fromkeys(row.case.target for row in rows):
        own = [row for row in rows if row.case.target == target]
        times = {line[1]: line[-1] for line in product_lines(own)}
        counts: tuple[int, ...] = (
            planned[target],
            len(own),
            sum(bool(row.faults) for row in own),
            max(row.code.spilled for row in own),
            max(row.code.loop_spills for row in own),
            sum(row.case.dtype == "fp64" for row in own),
            sum(row.case.dtype == "bf16" for row in own),
        )
        lines.append([triton.__version__, target, *map(str, counts), times.get("cnn3 CIFAR10", "-")])
    return lines


def dot_lines(rows: Iterable[CompiledLaunch]) -> list[list[str]]:
    """Count the launches with dots in tf32, tf32x3 and bfloat16 by the unit that computes them."""
    newest: Counter[tuple[str, str]] = Counter()
    others: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        for precision in row.code.dots:
            if precision == "ieee":
                continue
            key = (row.case.target, precision)
            off = [one for one in products(row.code.units) if one.unit != NEWEST_UNITS[row.case.target]]
            newest[key] += not off
            names = [f"{one.unit} {one.rows}x{one.columns} in {row.kernel}" for one in off]
            others.setdefault(key, Counter()).update(names)
    return [
        [
            *key,
            NEWEST_UNITS[key[0]],
            str(newest[key]),
            "; ".join(f"{count} {name}" for name, count in sorted(found.items())) or "none",
        ]
        for key, found in others.items()
    ]


def sections(
    rows: Sequence[CompiledLaunch], planned: Mapping[str, int], versions: Iterable[Sequence[str]] = ()
) -> list[str]:
    """Sections of a page in Markdown: what was compiled by which Triton, and the units of its dots."""
    return [
        "## What was compiled",
        "Launches of every operation at every shape of cnn3, cnn5 and a network whose filters are no "
        "multiple of 4, on images of MNIST's and CIFAR10's size, and how many of them this page holds; a "
        "version and target that are not listed were not compiled. In loops: the most instructions for "
        "spilled registers within a loop. The time is a product's of cnn3 on CIFAR10's images, see below.",
        markdown_table(VERSION_COLUMNS, [*version_lines(rows, planned), *versions]).rstrip(),
        "## Matrix instructions",
        f"Triton {triton.__version__}. The newest of sm_90 and sm_100 need 64 rows; a product of fewer is on "
        "HMMA, Ampere's. Rows x columns are a product's.",
        markdown_table(DOT_COLUMNS, dot_lines(rows)).rstrip(),
    ]


def report_json(rows: Sequence[CompiledLaunch], planned: Mapping[str, int]) -> str:
    """All there is to know of the rows, as JSON; `read_versions` reads what a table of versions needs."""
    content = {
        "triton": triton.__version__,
        "versions": version_lines(rows, planned),
        "rows": [asdict(row) for row in rows],
    }
    return json.dumps(content, indent=1)


def read_versions(report: str) -> list[list[str]]:
    """Read the lines of the table of versions from another version's `report_json`.

    Raises
    ------
    ValueError
        If the text is no such report.
    """
    try:
        return [[str(cell) for cell in line] for line in json.loads(report)["versions"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a report that --json wrote ({error})") from None


def versions_table(lines: Iterable[Sequence[str]]) -> Table:
    """Build a rich table of `version_lines`."""
    return terminal_table("Versions of Triton", VERSION_COLUMNS, lines, left=WORDS)

"""What every report needs: the machine in words, one Markdown table, one table for the terminal."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hfcnn._version import __version__

__all__ = [
    "describe_device",
    "machine",
    "markdown_lines",
    "markdown_table",
    "processor",
    "terminal",
    "terminal_table",
]


def processor() -> str:
    """Name of the processor, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def describe_device(device: torch.device) -> str:
    """Name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def machine() -> dict[str, str | int]:
    """Say what figures were measured on: processor, threads, cores and versions."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "hfcnn": __version__,
        "python": platform.python_version(),
    }


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table; a vertical bar in a cell is escaped.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    rows : iterable of sequence of str
        A cell a column.

    Returns
    -------
    str
        Lines, the last one ended too.
    """
    return "".join(line + "\n" for line in markdown_lines(header, rows))


def markdown_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of `markdown_table`, each as soon as its row is there."""
    yield _line(header)
    yield _line(["---"] * len(header))
    yield from map(_line, rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def terminal_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str] = ()
) -> Table:
    """Build a table for the terminal, figures to the right.

    Parameters
    ----------
    title : str
        What stands above it.
    header : sequence of str
        Names of the columns.
    rows : iterable of sequence of str
        A cell a column; rich's markup is understood.
    left : collection of str
        Columns of words, which are set to the left.

    Returns
    -------
    rich.table.Table
    """
    result = Table(title=title, header_style="bold")
    for name in header:
        result.add_column(name, justify="left" if name in left else "right")
    for row in rows:
        result.add_row(*row)
    return result


def terminal(width: int) -> Console:
    """Open standard output; where it is no terminal, tables are `width` characters wide at most."""
    return Console(width=None if sys.stdout.isatty() else width)

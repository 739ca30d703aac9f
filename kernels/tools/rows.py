"""Rows that are written as they come, within a limit of time: what was measured is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["written"]

T = TypeVar("T")


def written(
    rows: Iterable[T],
    path: Path | None,
    as_dict: Callable[[T], dict[str, Any]],
    *,
    first: dict[str, Any] | None = None,
    seconds: float,
) -> Iterator[T]:
    """Pass rows on, each written as a line of JSON first, until the time is up.

    Parameters
    ----------
    rows : iterable
        What is measured; it is asked for no more rows after the limit.
    path : Path or None
        File of JSON Lines, which is begun anew; None writes nothing.
    as_dict : callable
        Turns a row into what JSON can hold.
    first : dict or None, default=None
        A line before the rows.
    seconds : float
        Limit, from now.

    Yields
    ------
    row
    """
    end = time.monotonic() + seconds

    def write(content: dict[str, Any], mode: str) -> None:
        if path is not None:
            with path.open(mode, encoding="utf-8") as file:
                file.write(json.dumps(content, default=str) + "\n")

    if path is not None:
        path.write_text("", encoding="utf-8")
    if first is not None:
        write(first, "a")
    for row in rows:
        write(as_dict(row), "a")
        yield row
        if time.monotonic() > end:
            return

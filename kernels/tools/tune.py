"""Measure candidate tiles on a real GPU and say which rows of the tile table would be faster.

Nothing is written: rows are printed, to be judged and put into `hfcnn.kernels.tiles` by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from .. import launch as launch_module
from .. import tiles
from ..tiles import Tile
from .benchmark import BenchmarkSettings, time_call
from .benchmark_cases import draw_arguments, gate, implementations, judged_outputs, truth
from .report_cases import KernelCase, cases

if TYPE_CHECKING:
    import torch

    from ..launch import Target

__all__ = ["TILE_KINDS", "TileTrial", "best_rows", "candidates", "tune"]

#: Kind of tile by op.
TILE_KINDS = {name: op.tile for name, op in launch_module.OPS.items() if op.tile}
#: Accumulators a thread above which a tile is not tried: it would spill.
MAX_ACCUMULATORS = 128


@dataclass(frozen=True)
class TileTrial:
    """A tile's time at one op and shape; where it failed or was wrong, infinite, and `note` says why."""

    case: KernelCase
    kind: str
    tile: Tile
    seconds: float
    is_current: bool
    note: str = ""


def candidates(current: Tile, warp_size: int = 32) -> list[Tile]:
    """List tiles worth a try, the current one first."""
    sides = itertools.product((32, 64, 128), (32, 64, 128), (16, 32, 64), (4, 8), (2, 3, 4))
    found = [current]
    for p, c, k, warps, stages in sides:
        if p * c <= MAX_ACCUMULATORS * warps * warp_size:
            found.append(Tile(p, c, k, warps, stages))
    return list(dict.fromkeys(found))


def tune(settings: BenchmarkSettings, ops: Sequence[str]) -> Iterator[TileTrial]:
    """Time the candidates of each op at each shape, wrong and failing ones apart.

    Parameters
    ----------
    settings : BenchmarkSettings
        Of a machine with a GPU.
    ops : sequence of str
        Ops of `TILE_KINDS`.

    Yields
    ------
    TileTrial
    """
    import torch

    target = launch_module.current_target(torch.empty(0, device=settings.device))
    for case in cases(settings.networks, ("sm_90",), ops, settings.images):
        if case.op in TILE_KINDS and (case.precision == "tf32" or case.op == "conv_value"):
            yield from _try_all(replace(case, precision=settings.precision), target, settings)


def best_rows(trials: Sequence[TileTrial], generation: str, precision: str) -> list[str]:
    """Row of the table for each kind: the tile of least total time over the shapes it worked at.

    Each shape counts by its time relative to the current tile, so that no shape outweighs the others.
    """
    rows = []
    for kind in dict.fromkeys(trial.kind for trial in trials):
        shapes: dict[KernelCase, dict[Tile, float]] = {}
        current = {trial.case: trial for trial in trials if trial.kind == kind and trial.is_current}
        for trial in trials:
            if trial.kind == kind and trial.case in current:
                base = current[trial.case].seconds
                shapes.setdefault(trial.case, {})[trial.tile] = trial.seconds / base
        common = set.intersection(*(set(times) for times in shapes.values())) if shapes else set()
        totals = {tile: sum(times[tile] for times in shapes.values()) / len(shapes) for tile in common}
        if totals:
            tile = min(totals, key=lambda tile: totals[tile])
            rows.append(f'("{kind}", "{generation}", "{precision}"): {tile},  # {totals[tile]:.2f} of now')
    return rows


def _try_all(case: KernelCase, target: Target, settings: BenchmarkSettings) -> Iterator[TileTrial]:
    kind = TILE_KINDS[case.op]
    key = (kind, tiles._generation(target), settings.precision)
    current = tiles._TABLE[key]
    one = draw_arguments(
        case.op,
        case.layer,
        settings.n_images,
        settings.device,
        is_first=case.is_first,
        n_outputs=case.n_outputs,
    )
    expected = truth(one)
    call = implementations(one, settings.kernels, settings.precision, compiles=False)["triton"]
    seen: dict[Any, tuple[float, str]] = {}
    for tile in candidates(current, target.warp_size):
        with _tile_in_use(key, tile):
            # tiles that the layer or the shared memory cut to the same launch are timed once
            planned = tuple(
                (item.kernel.__name__, str(item.constexprs), item.num_warps, item.num_stages)
                for item in _planned(case, target, settings)
            )
            if planned not in seen:
                seen[planned] = _time(one, expected, call, settings)
        seconds, note = seen[planned]
        yield TileTrial(case, kind, tile, seconds, tile == current, note)


def _planned(case: KernelCase, target: Target, settings: BenchmarkSettings) -> list[Any]:
    return launch_module.launches(
        case.op,
        case.layer,
        settings.n_images,
        precision=settings.precision,
        target=target,
        n_outputs=case.n_outputs,
        is_first=case.is_first,
    )


def _time(
    one: Any, expected: tuple[torch.Tensor, ...], call: Any, settings: BenchmarkSettings
) -> tuple[float, str]:
    """Gate and time a call: its seconds, and why there are none."""
    try:
        error, passes = gate(expected, judged_outputs(one, call()), settings.precision)
        if passes:
            return time_call(call, settings.device, settings.seconds), ""
        return math.inf, f"differs from float64 by {error:.1e}"
    except Exception as error:  # too much shared memory, or a tile that the compiler refuses
        return math.inf, f"{type(error).__name__}: {error}"


@contextmanager
def _tile_in_use(key: tuple[str, str, str], tile: Tile) -> Iterator[None]:
    """Put a row into the table for the length of a ``with`` block; plans made meanwhile are dropped."""
    with patch.dict(tiles._TABLE, {key: tile}):
        launch_module._launches.cache_clear()
        try:
            yield
        finally:
            launch_module._launches.cache_clear()

"""Measure candidate tiles on a real GPU and say which rows of the tile table would be faster.

Nothing is written: rows are printed, to be judged and put into `hfcnn.kernels.tiles` by hand.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, TypeAlias
from unittest.mock import patch

from .. import launch as launch_module
from .. import tiles
from ..tiles import SUM_POSITIONS, Tile
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

#: (kind, generation, precision): a place in the tile table.
Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True)
class TileTrial:
    """A tile's time at one op and shape; where it failed or was wrong, infinite, and `note` says why."""

    case: KernelCase
    kind: str
    tile: Tile
    seconds: float
    is_current: bool
    note: str = ""


def candidates(current: Tile, kind: str, warp_size: int = 32) -> list[Tile]:
    """List tiles worth a try, the current one first.

    One stage reads through the first-level cache, where several copy around it. With two warps a GPU of
    Hopper's kind has Ampere's matrix instructions, which take operands in either order.
    """
    sums_positions = kind in SUM_POSITIONS
    positions, depths = ((16, 32), (64, 128)) if sums_positions else ((32, 64, 128, 256), (16, 32, 64))
    windows = (4, 2, 1) if kind == "forward" else (current.windows,)
    programs = (2, 4, 8) if sums_positions else (current.programs,)
    sides = itertools.product(positions, (32, 64), depths, (2, 4, 8), (1, 2, 3), windows, programs)
    found = [current]
    for tile in itertools.starmap(Tile, sides):
        rows = tile.k if sums_positions else tile.p * (tile.windows if kind == "forward" else 1)
        if rows * tile.c <= MAX_ACCUMULATORS * tile.num_warps * warp_size:
            found.append(tile)
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
    trials = [
        _Trials(replace(case, precision=settings.precision, n_images=settings.n_images), target)
        for case in cases(settings.networks, ("sm_90",), ops, settings.images)
        if case.op in TILE_KINDS and (case.precision == "tf32" or case.op == "conv_value")
    ]
    # processes compile for the shapes to come while this one measures
    workers = max(1, (os.cpu_count() or 1) - 2)
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        if settings.device.type == "cuda":
            for each in trials:
                each.compile(pool)
        for each in trials:
            yield from each.time(settings)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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


class _Trials:
    """All candidates at one shape; those that the layer or the memory cut to the same launches are one."""

    def __init__(self, case: KernelCase, target: Target) -> None:
        self.case, self.kind = case, TILE_KINDS[case.op]
        self.key = (self.kind, tiles._generation(target), case.precision)
        self.current = tiles._TABLE[self.key]
        self.target = target
        self.groups: dict[Any, list[Tile]] = {}
        for tile in candidates(self.current, self.kind, target.warp_size):
            with _tile_in_use(self.key, tile):
                planned = tuple(
                    (item.kernel.__name__, str(item.constexprs), item.num_warps, item.num_stages)
                    for item in case.launches(target)
                )
            self.groups.setdefault(planned, []).append(tile)
        self.compiled: dict[Any, Future[None]] = {}

    def compile(self, pool: ProcessPoolExecutor) -> None:
        """Have the candidates compiled into Triton's cache."""
        for planned, same in self.groups.items():
            self.compiled[planned] = pool.submit(_compile, self.case, self.target, self.key, same[0])

    def time(self, settings: BenchmarkSettings) -> Iterator[TileTrial]:
        """Time each candidate; the current tile is the first."""
        case = self.case
        options: dict[str, Any] = {"is_first": case.is_first, "n_outputs": case.n_outputs}
        one = draw_arguments(case.op, case.layer, settings.n_images, settings.device, **options)
        expected = truth(one)
        call = implementations(one, settings.kernels, settings.precision, compiles=False)["triton"]
        for planned, same in self.groups.items():
            if planned in self.compiled:
                self.compiled[planned].exception()  # what does not compile here does not below either
            with _tile_in_use(self.key, same[0]):
                seconds, note = _time(one, expected, call, settings)
            for tile in same:
                yield TileTrial(case, self.kind, tile, seconds, tile == self.current, note)


def _compile(case: KernelCase, target: Target, key: Key, tile: Tile) -> None:
    with _tile_in_use(key, tile):
        for launch in case.launches(target):
            launch.compile()


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
def _tile_in_use(key: Key, tile: Tile) -> Iterator[None]:
    """Put a row into the table for the length of a ``with`` block; plans made meanwhile are dropped."""
    with patch.dict(tiles._TABLE, {key: tile}):
        launch_module._launches.cache_clear()
        try:
            yield
        finally:
            launch_module._launches.cache_clear()

"""Timing by turns, so that what else the machine does falls on all candidates alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch

__all__ = ["Timed", "fastest", "interleave", "matmul_candidates", "matmul_rate"]

Timed: TypeAlias = Callable[[], Any]


def interleave(candidates: dict[str, Timed], repeats: int) -> dict[str, float]:
    """Time candidates in turns and return each one's median seconds.

    A turn is a call that is not timed and one that is, as in CG, where product follows product: what the
    candidate before left in the caches, and took from the heap, falls on no time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            call()
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def fastest(candidates: Iterable[Timed]) -> Timed:
    """Choose the fastest of some calls by the better of two runs each, a run of warm-up before either."""
    return min(candidates, key=lambda call: min(interleave({"": call}, 1)[""] for _ in range(2)))


def matmul_candidates(size: int = 2048) -> dict[str, Timed]:
    """Float32 matrix products of numpy and of torch, to time beside what they are to be compared with."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return {"matmul torch": lambda: a @ b, "matmul numpy": lambda: a.numpy() @ b.numpy()}


def matmul_rate(seconds: dict[str, float], size: int = 2048) -> float:
    """GFLOP/s of the faster of `matmul_candidates`, from their seconds."""
    return 2 * size**3 / min(seconds["matmul torch"], seconds["matmul numpy"]) / 1e9

"""Backtracking line search for sufficient decrease (35)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

__all__ = ["LineSearchResult", "backtrack"]


class Trial(Protocol):
    """What an evaluation of f at a trial point must show; `Evaluation` of the objective does."""

    @property
    def value(self) -> float:
        """F at the trial point; inf or NaN is a rejected trial."""


TrialT = TypeVar("TrialT", bound=Trial)


@dataclass(frozen=True)
class LineSearchResult(Generic[TrialT]):
    """The accepted trial, or that there was none.

    Attributes
    ----------
    step : float
        The accepted alpha; 0 where every trial was rejected.
    trial : Trial or None
        What `evaluate` returned at the accepted alpha.
    n_trials : int
        Evaluations.
    """

    step: float
    trial: TrialT | None
    n_trials: int


def backtrack(
    evaluate: Callable[[float, float], TrialT],
    f: float,
    slope: float,
    *,
    armijo: float = 1e-4,
    max_trials: int = 20,
) -> LineSearchResult[TrialT]:
    """Find the largest alpha of 1, 1/2, 1/4, ... with f(alpha) <= f + armijo alpha slope (35).

    Parameters
    ----------
    evaluate : callable
        (alpha, bound) -> a trial with `value`. A value above the bound is a rejected trial, and so may be
        inf as soon as f is known to exceed it.
    f : float
        Value at alpha = 0.
    slope : float
        Gradient times direction, negative.
    armijo : float, default=1e-4
        eta in (35); the paper gives none, the authors' code this one.
    max_trials : int, default=20
        Then the direction is given up; 2^-19 of it is no step.
    """
    alpha = 1.0
    for n_trials in range(1, max_trials + 1):
        bound = f + armijo * alpha * slope
        trial = evaluate(alpha, bound)
        if math.isfinite(trial.value) and trial.value <= bound:
            return LineSearchResult(alpha, trial, n_trials)
        alpha /= 2
    return LineSearchResult(0.0, None, max_trials)

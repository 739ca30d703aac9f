"""A fit under way: where it is, and the loop that takes it from state to state until something ends it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray
from torch import Tensor

from hfcnn.interrupts import Interrupts
from hfcnn.solver import SolverState, numbers_of

__all__ = ["HistoryRow", "Monitor", "Run", "follow", "history_rows"]

#: An iteration in numbers, by the names of `history_`.
HistoryRow: TypeAlias = dict[str, float]


@dataclass(frozen=True)
class _Point:
    """What belongs together of a run; replaced as a whole, so that no interrupt can part it."""

    state: SolverState
    n_rows: int
    best: Tensor | None
    best_row: int


class Run:
    """A fit under way, as monitors see it.

    Parameters
    ----------
    state : SolverState
        Where it begins.
    history : list of HistoryRow
        Rows of all iterations before.
    n_earlier : int, default=0
        How many of those are of earlier fits.
    best_theta : Tensor of shape (n,) or None, default=None
        Best parameters so far, in a run that is resumed.
    score : str or None, default=None
        Column of `history` by which the best parameters are chosen, the earliest of equals; None keeps the
        newest.

    Attributes
    ----------
    messages : list of str
        Warnings to give once the model is stored.
    n_finished : int
        Iterations of this fit that all monitors have seen.
    """

    def __init__(
        self,
        state: SolverState,
        history: Sequence[HistoryRow] = (),
        n_earlier: int = 0,
        best_theta: Tensor | None = None,
        score: str | None = None,
    ) -> None:
        self.score = score
        self.n_earlier = n_earlier
        self.messages: list[str] = []
        self.n_finished = 0
        self._rows = list(history)
        best_row = -1
        if score is not None:
            for i in range(n_earlier, len(self._rows)):
                if best_row < 0 or self._score(i) > self._score(best_row):
                    best_row = i
        self._point = _Point(state, len(self._rows), best_theta, best_row)

    @property
    def state(self) -> SolverState:
        """The last state with finite numbers."""
        return self._point.state

    @property
    def history(self) -> list[HistoryRow]:
        """All rows, those of earlier fits included."""
        return self._rows[: self._point.n_rows]

    @property
    def rows(self) -> list[HistoryRow]:
        """Rows of this fit."""
        return self._rows[self.n_earlier : self._point.n_rows]

    @property
    def best_theta(self) -> Tensor | None:
        """Parameters of the best score; None where none is kept."""
        return self._point.best

    @property
    def best(self) -> HistoryRow | None:
        """Row of the best score of this fit."""
        return None if self._point.best_row < 0 else self._rows[self._point.best_row]

    @property
    def since_best(self) -> int:
        """Iterations since the one of the best score."""
        return self._point.n_rows - 1 - self._point.best_row

    @property
    def theta(self) -> Tensor:
        """Parameters to keep: shape (n,)."""
        return self.state.theta if self._point.best is None else self._point.best

    def advance(self, state: SolverState, row: HistoryRow) -> None:
        """Move on to the next state, with its row: in one step, or not at all."""
        number = self._point.n_rows
        self._rows[number:] = [row]
        best, best_row = self._point.best, self._point.best_row
        if self.score is not None and (best_row < 0 or self._score(number) > self._score(best_row)):
            best, best_row = state.theta, number
        self._point = _Point(state, number + 1, best, best_row)

    def _score(self, number: int) -> float:
        value = self._rows[number][self.score or ""]
        return -math.inf if math.isnan(value) else value


class Monitor:
    """Something to do around each iteration; the base class does nothing."""

    def open(self, run: Run) -> bool:
        """Prepare, before the first iteration; True if there is nothing left to do."""
        return False

    def measure(self, run: Run, state: SolverState, row: HistoryRow) -> None:
        """Add to the row of a state that is not yet the run's."""

    def after(self, run: Run) -> bool:
        """Act after an iteration; True asks to stop."""
        return False

    def close(self, run: Run) -> None:
        """Clean up, however the fit ended."""


def follow(
    states: Iterator[SolverState], run: Run, monitors: Sequence[Monitor], interrupts: Interrupts
) -> None:
    """Go through a solver's states until it ends, a monitor asks to stop, or something goes wrong.

    Whatever is raised on the way, the run is left at a whole state, and the monitors are closed.

    Parameters
    ----------
    states : iterator of SolverState
        The solver.
    run : Run
        Where it begins; holds the outcome, and what is to be warned of.
    monitors : sequence of Monitor
        Called in this order.
    interrupts : Interrupts
        Held; Ctrl-C is let through while the solver and the monitors work.

    Raises
    ------
    KeyboardInterrupt
        If interrupted before an iteration is finished; later it only ends the run.
    """
    with ExitStack() as stack:
        is_over = False
        for monitor in monitors:
            stack.callback(monitor.close, run)
            is_over |= monitor.open(run)
        if is_over:
            return
        try:
            _iterate(states, run, monitors, interrupts)
        except KeyboardInterrupt:
            if not run.rows:
                raise
            run.messages.append(f"Interrupted: the model is that of iteration {run.state.iteration}.")


def _iterate(
    states: Iterator[SolverState], run: Run, monitors: Sequence[Monitor], interrupts: Interrupts
) -> None:
    while True:
        with interrupts.allowed():
            state = next(states, None)
            if state is None or not _is_finite(state):
                break
            row: HistoryRow = numbers_of(state)
            for monitor in monitors:
                monitor.measure(run, state, row)
        run.advance(state, row)
        with interrupts.allowed():
            stop = any([monitor.after(run) for monitor in monitors])
        run.n_finished += 1
        if stop:
            return
    failed = state or (None if run.rows or _is_finite(run.state) else run.state)
    if failed is not None:
        run.messages.append(
            f"The objective is not finite at iteration {failed.iteration}; the last finite parameters are "
            "kept. Scale the images, for instance to [0, 1], or lower the learning rate if there is one."
        )


def _is_finite(state: SolverState) -> bool:
    return math.isfinite(state.f) and bool(state.theta.isfinite().all())


def history_rows(history: dict[str, NDArray[Any]]) -> list[HistoryRow]:
    """Turn columns into rows."""
    columns = [column.tolist() for column in history.values()]
    return [dict(zip(history, row, strict=True)) for row in zip(*columns, strict=True)]

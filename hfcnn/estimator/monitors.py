"""What happens around the iterations of a fit: validation, early stopping, callbacks, checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
from torch import Tensor

from hfcnn.estimator.run import HistoryRow, Monitor, Run
from hfcnn.interrupts import Interrupts
from hfcnn.ranks import Ranks
from hfcnn.solver import SolverState

__all__ = ["Checkpoint", "EarlyStopping", "OnAllRanks", "UserCallbacks", "Validation"]


class Validation(Monitor):
    """Adds the accuracy on held-out images to each row, and another score of them.

    Parameters
    ----------
    accuracy : callable
        From parameters, a Tensor of shape (n,), to the share of images classified rightly.
    score : callable or None, default=None
        From parameters to another score, higher for better ones.
    """

    def __init__(
        self, accuracy: Callable[[Tensor], float], score: Callable[[Tensor], float] | None = None
    ) -> None:
        self.accuracy = accuracy
        self.score = score

    def measure(self, run: Run, state: SolverState, row: HistoryRow) -> None:
        """Evaluate the newest parameters."""
        row["validation_accuracy"] = self.accuracy(state.theta)
        if self.score is not None:
            row["validation_score"] = self.score(state.theta)


class EarlyStopping(Monitor):
    """Stops a run when its score no longer improves; the run keeps the parameters of the best.

    Parameters
    ----------
    patience : int
        Iterations in a row without improvement after which to stop.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def open(self, run: Run) -> bool:
        """Tell whether a resumed run had stopped already."""
        return bool(run.rows) and run.since_best >= self.patience

    def after(self, run: Run) -> bool:
        """Compare the newest score with the best so far; the earlier of equals wins."""
        return run.since_best >= self.patience


class UserCallbacks(Monitor):
    """Calls the user's functions with each row.

    Parameters
    ----------
    callbacks : callable, iterable of callables or None
        Each gets a copy of the row; returning True stops the fit.
    """

    def __init__(
        self, callbacks: Callable[[HistoryRow], Any] | Iterable[Callable[[HistoryRow], Any]] | None
    ) -> None:
        if callbacks is None:
            callbacks = []
        self.callbacks = [callbacks] if callable(callbacks) else list(callbacks)

    def after(self, run: Run) -> bool:
        """Call them all."""
        return any([_is_true(callback(dict(run.rows[-1]))) for callback in self.callbacks])


def _is_true(answer: Any) -> bool:
    """Whether an answer is True: Python's, numpy's or torch's, but no other thing that counts as true."""
    if isinstance(answer, np.ndarray | np.generic | Tensor):
        return str(answer.dtype).endswith(("bool", "bool_")) and answer.ndim == 0 and bool(answer)
    return answer is True


class OnAllRanks(Monitor):
    """Lets the monitors of several processes decide alike, and checks that their parameters are the same.

    Parameters
    ----------
    ranks : Ranks
        The processes.
    monitors : sequence of Monitor
        Those of this process.
    """

    def __init__(self, ranks: Ranks, monitors: Sequence[Monitor]) -> None:
        self.ranks = ranks
        self.monitors = monitors

    def open(self, run: Run) -> bool:
        """Open them all."""
        return self._any([monitor.open(run) for monitor in self.monitors])

    def measure(self, run: Run, state: SolverState, row: HistoryRow) -> None:
        """Compare the parameters; then let them all measure."""
        self.ranks.check_same(state.theta, state.iteration)
        for monitor in self.monitors:
            monitor.measure(run, state, row)

    def after(self, run: Run) -> bool:
        """Stop all processes where one asks to stop."""
        return self._any([monitor.after(run) for monitor in self.monitors])

    def close(self, run: Run) -> None:
        """Close them all, the last first."""
        with ExitStack() as stack:
            for monitor in self.monitors:
                stack.callback(monitor.close, run)

    def _any(self, answers: Sequence[bool]) -> bool:
        return self.ranks.total(any(answers))[0] > 0


class Checkpoint(Monitor):
    """Saves the run every so many iterations, and once more at its end.

    A file that cannot be written is no reason to lose the fit: that is said once.

    Parameters
    ----------
    save : callable
        Saves a run.
    every : int
        Iterations between saves.
    interrupts : Interrupts
        Held while the file is written.
    claim : context manager
        Entered while the run lasts.
    """

    def __init__(
        self,
        save: Callable[[Run], None],
        every: int,
        interrupts: Interrupts,
        claim: AbstractContextManager[None],
    ) -> None:
        self.save = save
        self.every = every
        self.interrupts = interrupts
        self._claim = ExitStack()
        self._to_claim = claim
        self._saved = -1
        self._has_warned = False

    def open(self, run: Run) -> bool:
        """See that nobody else writes the file."""
        self._claim.enter_context(self._to_claim)
        return False

    def after(self, run: Run) -> bool:
        """Save when it is time."""
        if run.state.iteration % self.every == 0:
            self._save(run)
        return False

    def close(self, run: Run) -> None:
        """Save what came since the last time."""
        with self._claim:
            if run.rows and self._saved != run.state.iteration:
                self._save(run)

    def _save(self, run: Run) -> None:
        with self.interrupts.held():
            try:
                self.save(run)
                self._saved = run.state.iteration
            except OSError as error:
                if not self._has_warned:
                    self._has_warned = True
                    warnings.warn(
                        f"The checkpoint of iteration {run.state.iteration} cannot be written: {error}. "
                        "The fit goes on without, and tries again.",
                        RuntimeWarning,
                        stacklevel=2,
                    )

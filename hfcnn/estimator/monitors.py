"""What happens after each iteration of a fit: records, validation, early stopping, callbacks, checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from hfcnn.newton import NewtonState
from hfcnn.sgd import SGDState

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn before 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's, which lets its callbacks be set."""

    def _with_callbacks(method: Any) -> Any:
        return method


__all__ = [
    "CallbackSupportMixin",
    "Checkpoint",
    "EarlyStopping",
    "Monitor",
    "Record",
    "Run",
    "ScikitCallbacks",
    "UserCallbacks",
    "Validation",
    "follow",
    "with_callbacks",
]

#: An iteration in numbers, by the names of `history_`.
Record: TypeAlias = dict[str, float]
State: TypeAlias = NewtonState | SGDState
Method = TypeVar("Method", bound=Callable[..., Any])


def with_callbacks(method: Method) -> Method:
    """Decorate `fit` so that scikit-learn's callbacks are told when it ends, where there are any."""
    return cast("Method", _with_callbacks(method))


@dataclass
class Run:
    """A fit under way, as monitors see it.

    Attributes
    ----------
    state : NewtonState or SGDState
        The last state with finite numbers.
    columns : tuple of str
        Fields of a state that make a record.
    history : list of Record
        All records, those of earlier fits included.
    n_earlier : int
        Records of earlier fits.
    best_theta : Tensor of shape (n,) or None
        Parameters to keep in the end; None is those of `state`.
    """

    state: State
    columns: tuple[str, ...]
    history: list[Record] = field(default_factory=list)
    n_earlier: int = 0
    best_theta: Tensor | None = None

    @property
    def theta(self) -> Tensor:
        """Parameters to keep: shape (n,)."""
        return self.state.theta if self.best_theta is None else self.best_theta

    @property
    def records(self) -> list[Record]:
        """Records of this fit."""
        return self.history[self.n_earlier :]


class Monitor:
    """Something to do after each iteration; the base class does nothing."""

    def open(self, run: Run) -> bool:
        """Prepare, before the first iteration; True if there is nothing left to do."""
        return False

    def after(self, run: Run) -> bool:
        """Act after an iteration; True asks to stop."""
        return False

    def close(self, run: Run) -> None:
        """Clean up, however the fit ended."""


def follow(states: Iterator[State], run: Run, monitors: Sequence[Monitor]) -> None:
    """Go through a solver's states until it ends, a monitor asks to stop, or something goes wrong.

    Parameters
    ----------
    states : iterator of NewtonState or SGDState
        The solver.
    run : Run
        Where it begins; holds the outcome.
    monitors : sequence of Monitor
        Called in this order after each iteration.

    Raises
    ------
    KeyboardInterrupt
        If interrupted before an iteration is finished.

    Warns
    -----
    ConvergenceWarning
        If interrupted later, or the objective is not finite: the last finite parameters are kept.
    """
    with ExitStack() as stack:
        is_over = False
        for monitor in monitors:
            is_over |= monitor.open(run)
            stack.callback(monitor.close, run)
        if is_over:
            return
        try:
            for state in states:
                if not _is_finite(state):
                    _warn_not_finite(state)
                    return
                run.state = state
                run.history.append({name: getattr(state, name) for name in run.columns})
                if any([monitor.after(run) for monitor in monitors]):
                    return
        except KeyboardInterrupt:
            if not run.records:
                raise
            warnings.warn(
                f"Interrupted: the model is that of iteration {run.state.iteration}.",
                ConvergenceWarning,
                stacklevel=5,
            )
        if not run.records and not _is_finite(run.state):
            _warn_not_finite(run.state)


def _is_finite(state: State) -> bool:
    return math.isfinite(state.f) and bool(state.theta.isfinite().all())


def _warn_not_finite(state: State) -> None:
    warnings.warn(
        f"The objective is not finite at iteration {state.iteration}; the last finite parameters are kept. "
        "Scale the images, for instance to [0, 1], or lower the learning rate if there is one.",
        ConvergenceWarning,
        stacklevel=6,
    )


class Validation(Monitor):
    """Adds the accuracy on held-out images to each record.

    Parameters
    ----------
    accuracy : callable
        From parameters, a Tensor of shape (n,), to the share of images classified rightly.
    """

    def __init__(self, accuracy: Callable[[Tensor], float]) -> None:
        self.accuracy = accuracy

    def after(self, run: Run) -> bool:
        """Evaluate the newest parameters."""
        run.history[-1]["validation_accuracy"] = self.accuracy(run.state.theta)
        return False


class EarlyStopping(Monitor):
    """Keeps the parameters of the best validation accuracy, and stops when it no longer improves.

    Parameters
    ----------
    patience : int
        Iterations in a row without improvement after which to stop.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def open(self, run: Run) -> bool:
        """Tell whether a resumed run had stopped already."""
        return bool(run.records) and self._since_best(run) >= self.patience

    def after(self, run: Run) -> bool:
        """Compare the newest accuracy with the best so far; the earlier of equals wins."""
        since_best = self._since_best(run)
        if since_best == 0:
            run.best_theta = run.state.theta
        return since_best >= self.patience

    def _since_best(self, run: Run) -> int:
        scores = [record["validation_accuracy"] for record in run.records]
        return len(scores) - 1 - int(np.argmax(scores))


class UserCallbacks(Monitor):
    """Calls the user's functions with each record.

    Parameters
    ----------
    callbacks : callable, iterable of callables or None
        Each gets a copy of the record; returning True stops the fit.

    Raises
    ------
    TypeError
        If one is not callable.
    """

    def __init__(self, callbacks: Callable[[Record], Any] | Iterable[Callable[[Record], Any]] | None) -> None:
        if callbacks is None:
            callbacks = []
        self.callbacks = [callbacks] if callable(callbacks) else list(callbacks)
        for callback in self.callbacks:
            if not callable(callback):
                raise TypeError(f"callbacks must be callable; got {callback!r}")

    def after(self, run: Run) -> bool:
        """Call them all."""
        return any([callback(dict(run.history[-1])) is True for callback in self.callbacks])


class Checkpoint(Monitor):
    """Saves the run every so many iterations, and once more at its end.

    Parameters
    ----------
    save : callable
        Saves a run.
    every : int
        Iterations between saves.
    """

    def __init__(self, save: Callable[[Run], None], every: int) -> None:
        self.save = save
        self.every = every
        self._saved = -1

    def after(self, run: Run) -> bool:
        """Save when it is time."""
        if run.state.iteration % self.every == 0:
            self._save(run)
        return False

    def close(self, run: Run) -> None:
        """Save what came since the last time."""
        if run.records and self._saved != run.state.iteration:
            self._save(run)

    def _save(self, run: Run) -> None:
        self.save(run)
        self._saved = run.state.iteration


class ScikitCallbacks(Monitor):
    """Reports iterations to the callbacks that `set_callbacks` was given, scikit-learn's own protocol.

    Parameters
    ----------
    estimator : BaseEstimator
        Estimator being fitted.
    max_iter : int
        Most iterations to come.
    data : mapping
        X, y and metadata for the callbacks.
    fitted : callable
        From a run to the attributes that make a copy of the estimator ready to predict.
    """

    def __init__(
        self,
        estimator: Any,
        max_iter: int,
        data: Mapping[str, Any],
        fitted: Callable[[Run], dict[str, Any]],
    ) -> None:
        self.data = {"estimator": estimator, **data}
        self.max_iter = max_iter
        self.fitted = fitted
        self._fit = estimator._init_callback_context(max_subtasks=max_iter)
        self._iteration: Any = None

    def open(self, run: Run) -> bool:
        """Begin the fit and its first iteration."""
        self._fit.call_on_fit_task_begin(**self.data)
        self._begin(run)
        return False

    def after(self, run: Run) -> bool:
        """End an iteration and begin the next."""
        stop = self._iteration.call_on_fit_task_end(
            **self.data, reconstruction_attributes=lambda: self.fitted(run)
        )
        self._iteration = None
        if len(run.records) < self.max_iter:
            self._begin(run)
        return bool(stop)

    def close(self, run: Run) -> None:
        """End the iteration that was begun, if any, and the fit."""
        if self._iteration is not None:
            self._iteration.call_on_fit_task_end(estimator=self.data["estimator"])
        self._fit.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self.fitted(run))

    def _begin(self, run: Run) -> None:
        self._iteration = self._fit.subcontext(task_name="iteration").call_on_fit_task_begin(
            **self.data, reconstruction_attributes=lambda: self.fitted(run)
        )

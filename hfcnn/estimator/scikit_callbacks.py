"""scikit-learn's own protocol of callbacks, where the installed version has it (1.9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from hfcnn.estimator.run import Monitor, Run

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn before 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's, which lets its callbacks be set."""

    def _with_callbacks(method: Any) -> Any:
        return method


__all__ = ["CallbackSupportMixin", "ScikitCallbacks", "with_callbacks"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


def with_callbacks(method: _Method) -> _Method:
    """Decorate `fit` so that scikit-learn's callbacks are told when it ends, where there are any."""
    return cast("_Method", _with_callbacks(method))


class ScikitCallbacks(Monitor):
    """Reports iterations to the callbacks that `set_callbacks` was given, scikit-learn's own protocol.

    Parameters
    ----------
    estimator : BaseEstimator
        Estimator being fitted.
    max_iter : int or None
        Most iterations to come; None where that is not known.
    data : mapping
        X, y and metadata for the callbacks.
    fitted : callable
        From a run to the attributes that make a copy of the estimator ready to predict.
    """

    def __init__(
        self,
        estimator: Any,
        max_iter: int | None,
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
        if self.max_iter is None or len(run.rows) < self.max_iter:
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

"""The stochastic Gauss-Newton method as a classifier's solver."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from hfcnn.estimator.checkpoint import state_fields, state_from_fields
from hfcnn.estimator.solvers import Solver, newest
from hfcnn.objective import Objective
from hfcnn.stochastic import start, stochastic
from hfcnn.stochastic_state import StochasticOptions, StochasticState, most_epochs

__all__ = ["KFAC"]


class KFAC(Solver[StochasticState]):
    """The stochastic solver, for `epochs` passes or until it stalls."""

    state_type = StochasticState

    def __init__(self, classifier: Any, first: int, seed: int, n_images: int) -> None:
        is_auto = classifier.epochs == "auto"
        self.last = first + (most_epochs(n_images) if is_auto else classifier.epochs)
        options = StochasticOptions(epochs=self.last, augment=classifier.augment, seed=seed)
        self.options = options.until_stalled(n_images) if is_auto else options

    def start(self, objective: Objective, theta: Tensor) -> StochasticState:
        """State before the first epoch."""
        return start(objective, theta, self.options)

    def go_on(self, objective: Objective, theta: Tensor, classifier: Any) -> StochasticState:
        """State before the next epoch of a fitted classifier.

        Averages go on, of the gradients, factors and parameters, unless the classifier was read from a file,
        which holds none, or fitted by another solver.
        """
        fresh = self.start(objective, theta)
        known = getattr(classifier, "_training", None)
        state = fresh
        if known is not None:
            state = replace(
                state_from_fields(StochasticState, known, theta.device),
                theta=theta,
                f=fresh.f,
                training_accuracy=fresh.training_accuracy,
                n_stalled=0,
                # of other images they may be others
                scalars=known["scalars"] | {"f_mean": math.nan, "f_reference": fresh.f},
                sampler=fresh.sampler,
            )
        return replace(
            state,
            iteration=classifier.n_iter_,
            seconds=fresh.seconds + newest(classifier, "seconds"),
            passes=fresh.passes + newest(classifier, "passes"),
        )

    def states(self, objective: Objective, state: StochasticState) -> Iterator[StochasticState]:
        """Iterate, an epoch at a time."""
        return stochastic(objective, state.theta, self.options, state=state)

    def fitted(self, state: StochasticState) -> dict[str, Any]:
        """What later epochs go on with; it is not written to files."""
        return {"_training": state_fields(state)}

    def describe(self, objective: Objective) -> list[str]:
        """Name, and the rule that ends the fit."""
        if self.options.tol:
            return [f"K-FAC, until f stalls or for {self.last} epochs"]
        return [f"K-FAC for {self.last} epochs"]

"""The subsampled Newton method as a classifier's solver."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor

from hfcnn.estimator.solvers import Solver, newest
from hfcnn.newton import NewtonOptions, NewtonState, newton, start
from hfcnn.objective import Objective
from hfcnn.sampling import subsample_size

__all__ = ["DEFAULT_ITERATIONS", "NewtonCG"]

#: Iterations where `max_iter` does not say: the paper's (Sec. 6.2).
DEFAULT_ITERATIONS = 100


class NewtonCG(Solver[NewtonState]):
    """The subsampled Newton method as a classifier's solver."""

    state_type = NewtonState

    def __init__(self, classifier: Any, first: int, seed: int) -> None:
        self.last = first + (classifier.max_iter or DEFAULT_ITERATIONS)
        self.options = NewtonOptions(
            max_iter=self.last,
            tol=classifier.tol,
            sampling_rate=classifier.sampling_rate,
            sampling=classifier.sampling,
            cg_tol=classifier.cg_tol,
            cg_max_iter=classifier.cg_max_iter,
            damping=classifier.damping,
            gauss_newton=classifier.gauss_newton,
            memory=classifier.memory,
            cuda_graph=classifier.cuda_graph,
            seed=seed,
        )

    def start(self, objective: Objective, theta: Tensor) -> NewtonState:
        """State before the first iteration."""
        return start(objective, theta, self.options)

    def go_on(self, objective: Objective, theta: Tensor, classifier: Any) -> NewtonState:
        """State before the next iteration of a fitted classifier: lambda goes on too."""
        state = self.start(objective, theta)
        return replace(
            state,
            iteration=classifier.n_iter_,
            next_damping=getattr(classifier, "damping_", self.options.damping),
            seconds=state.seconds + newest(classifier, "seconds"),
            passes=state.passes + newest(classifier, "passes"),
        )

    def states(self, objective: Objective, state: NewtonState) -> Iterator[NewtonState]:
        """Iterate by Algorithm 1."""
        return newton(objective, state.theta, self.options, state=state)

    def fitted(self, state: NewtonState) -> dict[str, Any]:
        """The next lambda."""
        return {"damping_": state.next_damping}

    def describe(self, objective: Objective) -> list[str]:
        """Size of the subset and form of the product."""
        size = subsample_size(objective.n_images, self.options.sampling_rate)
        return [f"|S| = {size:,}", f"product: {self.options.gauss_newton}"]

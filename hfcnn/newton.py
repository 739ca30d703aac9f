"""Algorithm 1: the subsampled Gauss-Newton method with Levenberg-Marquardt damping."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from hfcnn.conjugate_gradient import CGResult, conjugate_gradient
from hfcnn.cuda_graph import StepCapture, graph_capture
from hfcnn.damping import DampingRule
from hfcnn.gauss_newton import EXPECTED_PRODUCTS, GaussNewton
from hfcnn.line_search import LineSearchResult, backtrack
from hfcnn.objective import Evaluation, Objective
from hfcnn.sampling import Sampler, subsample_size

__all__ = ["NewtonOptions", "NewtonState", "newton", "start"]

#: Iterations in a row without an accepted step after which there is nothing left to gain: lambda has then
#: grown 57-fold, and each has tried another subset.
MAX_FAILURES = 10


@dataclass(frozen=True)
class NewtonOptions:
    """Settings of Algorithm 1; the defaults are those of Section 6.2.

    Attributes
    ----------
    max_iter : int
        Iterations.
    tol : float
        Stop when the gradient's norm is at most this; 0 as in the paper.
    sampling_rate : float, int or "auto"
        Size of S: see `hfcnn.sampling.subsample_size`.
    sampling : {"random", "cycle"}
        How S is drawn: see `hfcnn.sampling.SAMPLINGS`.
    cg_tol : float
        Relative residual of CG (90).
    cg_max_iter : int
        Most CG iterations.
    damping : float
        First lambda of (36).
    damping_rule : DampingRule
        How lambda changes (37).
    armijo : float
        eta of the line search (35).
    max_trials : int
        Most line-search trials an iteration.
    gauss_newton : {"auto", "rop", "jacobian"}
        Form of the Gauss-Newton product.
    memory : int or "auto"
        Bytes for linearisations kept between products.
    cuda_graph : bool or "auto"
        Whether a CG step is captured in a CUDA graph: see `hfcnn.cuda_graph`.
    seed : int
        Seed of the subsampling.
    """

    max_iter: int = 100
    tol: float = 0.0
    sampling_rate: float | int | str = "auto"
    sampling: str = "random"
    cg_tol: float = 0.1
    cg_max_iter: int = 250
    damping: float = 1.0
    damping_rule: DampingRule = field(default_factory=DampingRule)
    armijo: float = 1e-4
    max_trials: int = 20
    gauss_newton: str = "auto"
    memory: int | str = "auto"
    cuda_graph: bool | str = "auto"
    seed: int = 0


@dataclass(frozen=True)
class NewtonState:
    """Where Algorithm 1 is after an iteration, and all it needs to go on.

    Attributes
    ----------
    iteration : int
        Iterations done; 0 is the start.
    theta, gradient : Tensor of shape (n,)
        Parameters, and the gradient there.
    f, gradient_norm : float
        Objective and norm of its gradient at theta.
    training_accuracy : float
        Share of the training images that theta classifies rightly; it comes with f for free.
    damping, next_damping : float
        lambda of this iteration and of the next.
    rho : float
        Actual over predicted change; NaN where no step was accepted.
    step : float
        alpha; 0 where no step was accepted.
    cg_iterations : int
        Gauss-Newton products.
    cg_stop : str
        Why CG stopped.
    n_trials : int
        Line-search trials.
    form : str
        Form of the Gauss-Newton product.
    seconds : float
        Time spent in the algorithm since the start, the consumer's between iterations not counted.
    passes : float
        Passes over the training images since the start: forward and backward of f and gradient count
        one each for an image, half a pass each; a Gauss-Newton product counts as a pass over S.
    n_failures : int
        Iterations in a row without an accepted step, this one the last.
    sampler : dict
        State of the subsampling.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *("iteration", "f", "gradient_norm", "damping", "rho", "step", "cg_iterations", "n_trials"),
        *("seconds", "passes", "training_accuracy"),
    )

    iteration: int
    theta: Tensor
    gradient: Tensor
    f: float
    gradient_norm: float
    training_accuracy: float
    damping: float
    next_damping: float
    rho: float = math.nan
    step: float = 0.0
    cg_iterations: int = 0
    cg_stop: str = ""
    n_trials: int = 0
    form: str = ""
    seconds: float = 0.0
    passes: float = 0.0
    n_failures: int = 0
    sampler: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gradient.shape != self.theta.shape:
            raise ValueError("gradient and theta are not of one shape")


def newton(
    objective: Objective,
    theta0: Tensor,
    options: NewtonOptions | None = None,
    *,
    state: NewtonState | None = None,
) -> Iterator[NewtonState]:
    """Minimise the objective by Algorithm 1, yielding a state after each iteration.

    Each iteration (1) draws S, (2) solves (36) for a direction by CG with the Gauss-Newton matrix of S,
    (3) searches a step along it, (4) updates lambda from how well the model predicted f. A trial evaluates
    f and gradient in one pass, which ends early where f is known to be too large; so an accepted step
    costs one forward and one backward pass over the images.

    Parameters
    ----------
    objective : Objective
        The objective.
    theta0 : Tensor of shape (n,)
        First parameters, on the objective's device.
    options : NewtonOptions or None
        Settings; None is the paper's.
    state : NewtonState or None
        Go on from this state instead of from theta0, bit for bit as if never stopped.

    Yields
    ------
    NewtonState

    Notes
    -----
    Ends after `max_iter` iterations, at a gradient of norm `tol`, or after ten iterations in a row without
    an accepted step. f never rises from one state to the next.
    """
    options = options or NewtonOptions()
    size = subsample_size(objective.n_images, options.sampling_rate)
    sampler = Sampler(objective.n_images, size, options.sampling, options.seed)
    capture = None
    if objective.ranks is None:  # what processes add up together is not captured
        capture = graph_capture(objective.backend.device, options.cuda_graph)
    if state is None:
        state = start(objective, theta0, options)
    elif state.sampler:
        sampler.state = state.sampler
    while (
        state.iteration < options.max_iter
        and state.gradient_norm > options.tol
        and state.n_failures < MAX_FAILURES
        and math.isfinite(state.f)
    ):
        state = _iterate(objective, state, next(sampler), options, capture)
        state = replace(state, sampler=sampler.state)
        yield state


def start(objective: Objective, theta0: Tensor, options: NewtonOptions) -> NewtonState:
    """State before the first iteration: f, its gradient and the first lambda at theta0.

    What `newton` begins with; whoever goes on from known parameters may change it first.

    Parameters
    ----------
    objective : Objective
        The objective.
    theta0 : Tensor of shape (n,)
        First parameters, on the objective's device.
    options : NewtonOptions
        Settings, of which `damping` is used.

    Returns
    -------
    NewtonState
        With iteration 0; f is not finite where theta0 is no place to start from.
    """
    began = time.perf_counter()
    first = objective.evaluate(theta0)
    gradient = theta0 * math.nan if first.gradient is None else first.gradient
    return NewtonState(
        iteration=0,
        theta=theta0,
        gradient=gradient,
        f=first.value,
        gradient_norm=float(gradient.norm()),
        training_accuracy=first.accuracy,
        damping=options.damping,
        next_damping=options.damping,
        seconds=time.perf_counter() - began,
        passes=1.0,
    )


class _Direction(NamedTuple):
    """CG's solution d of (36), gradient^T d, d^T G^S d without lambda, and the form of the product."""

    solution: CGResult
    slope: float
    curvature: float
    form: str


def _find_direction(
    objective: Objective,
    state: NewtonState,
    subset: np.ndarray[Any, Any],
    options: NewtonOptions,
    capture: StepCapture | None,
) -> _Direction:
    """Solve (36) by CG with the Gauss-Newton matrix of S."""
    gradient, damping = state.gradient, state.next_damping
    matrix = GaussNewton(
        objective.network,
        state.theta,
        objective.data,
        objective.loss,
        objective.C,
        damping,
        options.gauss_newton,
        indices=subset,
        backend=objective.backend,
        memory=options.memory,
        n_products=max(state.cg_iterations, EXPECTED_PRODUCTS),
    )
    solution = conjugate_gradient(
        matrix.matvec,
        -gradient,
        tol=options.cg_tol,
        max_iterations=options.cg_max_iter,
        update=objective.backend.product_ops.cg_update,
        capture=capture if matrix.is_kept else None,
    )
    form = matrix.form
    del matrix  # what it keeps is not needed beside a full pass
    d = solution.x
    slope = float(gradient @ d)
    # (G + lambda I) d = -gradient - residual, so d^T G d costs no product
    curvature = -slope - float(solution.residual @ d) - damping * float(d @ d)
    return _Direction(solution, slope, curvature, form)


def _iterate(
    objective: Objective,
    state: NewtonState,
    subset: np.ndarray[Any, Any],
    options: NewtonOptions,
    capture: StepCapture | None,
) -> NewtonState:
    start = time.perf_counter()
    before = replace(objective.passes)
    theta, damping = state.theta, state.next_damping
    # (1), (2) the Gauss-Newton matrix of this iteration's S, and the direction
    solution, slope, curvature, form = _find_direction(objective, state, subset, options, capture)
    direction = solution.x

    # (3) the step (35)
    def evaluate(alpha: float, bound: float) -> Evaluation:
        return objective.evaluate(theta + alpha * direction, bound=bound)

    search: LineSearchResult[Evaluation] = LineSearchResult(0.0, None, 0)
    if slope < 0:  # it is 0 where CG's first product was of no use; to stay is then no accepted step
        search = backtrack(evaluate, state.f, slope, armijo=options.armijo, max_trials=options.max_trials)
    # (4) lambda (37), from the change that the model without lambda predicts
    predicted = search.step * slope + 0.5 * search.step**2 * curvature
    trial = search.trial
    actual = 0.0 if trial is None else trial.value - state.f
    next_damping = options.damping_rule.update(damping, actual, predicted)
    done = objective.passes
    passes = 0.5 * (done.forward - before.forward + done.backward - before.backward)
    passes += len(subset) * solution.n_iterations
    state = replace(
        state,
        iteration=state.iteration + 1,
        damping=damping,
        next_damping=next_damping,
        rho=actual / predicted if trial is not None and predicted else math.nan,
        step=search.step,
        cg_iterations=solution.n_iterations,
        cg_stop=solution.stop,
        n_trials=search.n_trials,
        form=form,
        passes=state.passes + passes / objective.n_images,
        n_failures=state.n_failures + 1 if trial is None else 0,
    )
    if trial is not None:
        assert trial.gradient is not None
        state = replace(
            state,
            theta=theta + search.step * direction,
            gradient=trial.gradient,
            f=trial.value,
            gradient_norm=float(trial.gradient.norm()),
            training_accuracy=trial.accuracy,
        )
    return replace(state, seconds=state.seconds + time.perf_counter() - start)

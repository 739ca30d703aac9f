"""Stochastic Gauss-Newton steps in a Kronecker-factored metric, their length measured: nothing to tune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.augmentation import Moves
from hfcnn.batch_model import BatchModel, ImageDraws
from hfcnn.kfac import FactorDraws, KroneckerMetric
from hfcnn.linearization import Linearization
from hfcnn.loss import get_loss
from hfcnn.measured_step import WARM_UP, MeasuredStep
from hfcnn.objective import Objective
from hfcnn.stochastic_state import StochasticOptions, StochasticState

__all__ = ["AfterStep", "StochasticOptions", "StochasticState", "start", "stochastic"]

#: Told of passes, newest and averaged parameters after a step.
AfterStep: TypeAlias = Callable[[float, Tensor, Tensor], None]

#: What an epoch counts, beside the mean of f.
COUNTS = ("n_steps", "n_seen", "n_averaged", "n_updates")


def stochastic(
    objective: Objective,
    theta0: Tensor,
    options: StochasticOptions | None = None,
    *,
    state: StochasticState | None = None,
    after_step: AfterStep | None = None,
) -> Iterator[StochasticState]:
    """Minimise the objective by stochastic Gauss-Newton steps, yielding a state after each epoch.

    A step takes the gradients of the two halves of a fresh batch, the direction -K^{-1} m from the average m
    of the gradients, and the length at which a quadratic model would be smallest, twice over: its slope is
    measured between the halves, its curvature by one product with the Jacobian, and both are smoothed. It is
    never shorter than if m were the gradient, so that the parameters keep moving. K is the Gauss-Newton
    matrix in Kronecker factors (`hfcnn.kfac`). What is returned is an average of the parameters.

    Parameters
    ----------
    objective : Objective
        The objective.
    theta0 : Tensor of shape (n,)
        First parameters, on the objective's device.
    options : StochasticOptions or None
        Settings; None is the measured defaults.
    state : StochasticState or None
        Go on from this state instead of from theta0, bit for bit as if never stopped.
    after_step : callable or None
        Called after each step with the passes made so far, the newest parameters and their average, which
        it must not change; copy the average to keep it. Its time does not count in `seconds`, and what it
        raises ends the run.

    Yields
    ------
    StochasticState

    Notes
    -----
    Ends after `epochs`, after `patience` stalled epochs, at once where f is not finite at theta0, and with a
    state whose f is NaN after an epoch without a step that could be trusted. f never rises from one state to
    the next.
    """
    options = options or StochasticOptions()
    state = start(objective, theta0, options) if state is None else state
    while state.iteration < options.epochs and state.n_stalled < options.patience and math.isfinite(state.f):
        state = _Epoch(objective, state, options).run(after_step)
        yield state


def start(objective: Objective, theta0: Tensor, options: StochasticOptions) -> StochasticState:
    """State before the first epoch: f at theta0.

    Parameters
    ----------
    objective : Objective
        The objective.
    theta0 : Tensor of shape (n,)
        First parameters, on the objective's device.
    options : StochasticOptions
        Settings, of which `check_images` and `seed` are used.

    Returns
    -------
    StochasticState
        With iteration 0; f is not finite where theta0 is no place to start from.
    """
    began = time.perf_counter()
    indices = check_sample(objective, options)
    first = objective.evaluate(theta0, gradient=False, indices=indices)
    metric = KroneckerMetric(objective.network, theta0)
    return StochasticState(
        iteration=0,
        theta=theta0,
        f=first.value,
        training_accuracy=first.accuracy,
        step=0.0,
        gradient_images=0,
        n_returns=0,
        n_stalled=0,
        seconds=time.perf_counter() - began,
        passes=0.5 * len(indices) / objective.n_images,
        point=theta0,
        average=theta0,
        momentum=torch.zeros_like(theta0),
        factors=metric.state,
        scalars={"f_mean": math.nan, "f_reference": first.value} | dict.fromkeys(COUNTS, 0),
        steps={},
        sampler=dict(np.random.default_rng(options.seed).bit_generator.state),
    )


def check_sample(objective: Objective, options: StochasticOptions) -> NDArray[np.int64]:
    """Training images on which averages are compared: the same for a seed, sorted."""
    n_images = objective.n_images
    size = min(n_images, options.check_images)
    rng = np.random.default_rng([options.seed, n_images])
    return np.sort(rng.choice(n_images, size, replace=False))


class _Epoch:
    """One epoch, from the state before it: everything that changes within."""

    def __init__(self, objective: Objective, state: StochasticState, options: StochasticOptions) -> None:
        self.objective, self.options, self.before = objective, options, state
        self.loss = get_loss(objective.loss)
        self.rng = np.random.default_rng()
        self.rng.bit_generator.state = state.sampler
        self.point, self.average = state.point, state.average.clone()
        self.metric = KroneckerMetric(objective.network, state.theta)
        self.metric.restore(state.factors)
        self.metric.n_updates = state.scalars["n_updates"]
        self.scalars = dict(state.scalars)
        self.steps = MeasuredStep(state.momentum, **state.steps)
        self.n_returns = 0
        self.passes = 0.0

    def run(self, after_step: AfterStep | None = None) -> StochasticState:
        """Go through all images once."""
        began, away = time.perf_counter(), 0.0
        state, options, objective = self.before, self.options, self.objective
        steps, batches = [], self._batches()
        for batch, upcoming in zip(batches, [*batches[1:], None], strict=True):
            steps.append(self._step(batch, upcoming))
            if after_step is not None:
                left = time.perf_counter()
                after_step(state.passes + self.passes / objective.n_images, self.point, self.average)
                away += time.perf_counter() - left
        indices = check_sample(objective, options)
        found = objective.evaluate(self.average, gradient=False, indices=indices)
        self.passes += 0.5 * len(indices)
        if self.n_returns == len(steps):  # nothing is left that could be trusted
            return replace(state, iteration=state.iteration + 1, f=math.nan)
        is_better = found.value < state.f
        has_fallen = found.value < (1 - options.tol) * self.scalars["f_reference"]
        if has_fallen:
            self.scalars["f_reference"] = found.value
        self.scalars["n_updates"] = self.metric.n_updates
        return replace(
            state,
            iteration=state.iteration + 1,
            theta=self.average if is_better else state.theta,
            f=found.value if is_better else state.f,
            training_accuracy=found.accuracy if is_better else state.training_accuracy,
            step=float(np.mean(steps)),
            gradient_images=len(batches[-1]),
            n_returns=state.n_returns + self.n_returns,
            n_stalled=0 if has_fallen else state.n_stalled + 1,
            passes=state.passes + self.passes / objective.n_images,
            point=self.point,
            average=self.average,
            momentum=self.steps.momentum,
            factors=self.metric.state,
            scalars=self.scalars,
            steps=self.steps.numbers,
            sampler=dict(self.rng.bit_generator.state),
            seconds=state.seconds + time.perf_counter() - began - away,
        )

    def _batches(self) -> list[NDArray[np.int64]]:
        """Cut a permutation of all images: larger batches the more images have been seen."""
        options = self.options
        rest, n_seen, batches = self.rng.permutation(self.objective.n_images), self.scalars["n_seen"], []
        while len(rest):
            size = min(self._most_images, max(options.batch_size, int(options.batch_growth * n_seen)))
            if len(rest) < 1.5 * size:
                size = len(rest)
            batches.append(rest[:size])
            rest, n_seen = rest[size:], n_seen + size
        return batches

    @property
    def _most_images(self) -> int:
        """Size that batches may come to: a quarter of few images."""
        return min(self.options.max_batch_size, max(32, self.objective.n_images // 4))

    def _step(self, batch: NDArray[np.int64], upcoming: NDArray[np.int64] | None) -> float:
        """Take a step on a batch and return its alpha."""
        options, scalars = self.options, self.scalars
        n_steps = scalars["n_steps"]
        is_warm = n_steps >= WARM_UP
        scalars["n_steps"] += 1
        scalars["n_seen"] += len(batch)
        has_statistics = not is_warm or n_steps % options.statistics_every == 0
        model = self._model(batch, upcoming, options.statistics_images if has_statistics else 0)
        if not self._is_in_line(model):
            self.metric.discard()
            self._return()
            return 0.0
        if has_statistics:
            self.metric.update(self.objective.ranks)
        self._add_to_average()
        if not is_warm or n_steps % options.inverse_every == 0 or self.steps.needs_metric:
            self.metric.invert(options.damping * self.metric.mean_curvature + 1 / self.objective.C)
            self.steps.use(self.metric)
        alpha, direction = self.steps.take(
            model,
            self.metric,
            momentum=options.momentum,
            smoothing=options.smoothing,
            relaxation=options.relaxation,
            # few images are soon learned by heart; to move on lowers f, and generalises less
            shortest=options.shortest * self._most_images / options.max_batch_size,
            trust=options.trust,
            halves=options.halves,
        )
        self.point = self.point + alpha * direction
        return alpha

    def _model(
        self, batch: NDArray[np.int64], upcoming: NDArray[np.int64] | None, n_statistics: int
    ) -> BatchModel:
        """Evaluate f and gradients on a batch; renew the factors from its first `n_statistics` images."""
        network, how = self.objective.network, self.options.augment
        wanted = n_statistics

        def draw(n_images: int) -> ImageDraws:
            nonlocal wanted
            moves = None if how is None else Moves.draw(n_images, network.input_shape[:2], how, self.rng)
            n = min(wanted, n_images)
            wanted -= n
            return ImageDraws(moves, FactorDraws.draw(network, self.loss, n, self.rng) if n else None)

        def observe(linear: Linearization, weights: Tensor | None, draws: FactorDraws) -> None:
            self.metric.add(linear, self.loss, weights, draws)

        n_curvature = self.options.curvature_images
        model = BatchModel(self.objective, self.point, batch, n_curvature, draw, observe, upcoming)
        self.passes += len(batch) + 0.5 * (n_statistics - wanted) + 0.5 * model.n_curvature
        return model

    def _is_in_line(self, model: BatchModel) -> bool:
        """Whether f on the fresh batch is in line with that of the steps before."""
        mean = self.scalars["f_mean"]
        if not (math.isfinite(model.f) and bool(model.gradient.isfinite().all())):
            return False
        if math.isnan(mean):
            self.scalars["f_mean"] = model.f
            return True
        if model.f > 2 * mean:
            return False
        self.scalars["f_mean"] = 0.9 * mean + 0.1 * model.f
        return True

    def _return(self) -> None:
        """Go back to the average, or if it is no better to the best average; forget the rest."""
        scalars = self.scalars
        if self.steps.age == 0:  # back already
            self.average = self.before.theta.clone()
            scalars["n_averaged"] = 1
        self.point = self.average.clone()
        self.steps.forget()
        scalars["f_mean"] = math.nan
        self.n_returns += 1

    def _add_to_average(self) -> None:
        self.scalars["n_averaged"] += 1
        eta = self.options.averaging
        share = (eta + 1) / (self.scalars["n_averaged"] + eta)
        self.average.mul_(1 - share).add_(self.point, alpha=share)

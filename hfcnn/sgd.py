"""Algorithm 2: mini-batch stochastic gradient with momentum, on the same objective."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hfcnn.objective import Objective

__all__ = ["SGDOptions", "SGDState", "sgd", "start"]


@dataclass(frozen=True)
class SGDOptions:
    """Settings of Algorithm 2; the defaults are those of Section 6.2, with 0.003 of its learning rates.

    Attributes
    ----------
    learning_rate : float
        eta_0.
    momentum : float
        alpha; 0 is the method without momentum.
    decay : float
        gamma: eta = eta_0 / (1 + gamma t) after t steps.
    batch_size : int
        |S| of a step.
    max_epochs : int
        Passes over the images.
    seed : int
        Seed of the order of the images.
    """

    learning_rate: float = 0.003
    momentum: float = 0.9
    decay: float = 1e-6
    batch_size: int = 128
    max_epochs: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class SGDState:
    """Where Algorithm 2 is after an epoch, and all it needs to go on.

    Attributes
    ----------
    iteration : int
        Epochs done.
    theta, velocity : Tensor of shape (n,)
        Parameters, and the updating vector v.
    f, training_accuracy : float
        Means over the epoch's mini-batches, each at the parameters it was used at; no pass of its own.
    gradient_norm : float
        Norm of the last mini-batch gradient.
    learning_rate : float
        eta after the epoch.
    n_steps : int
        Steps t.
    seconds : float
        Time spent in the algorithm since the start.
    passes : float
        Passes over the training images.
    sampler : dict
        State of the random order.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *("iteration", "f", "gradient_norm", "learning_rate", "seconds", "passes", "training_accuracy"),
    )

    iteration: int
    theta: Tensor
    velocity: Tensor
    f: float
    training_accuracy: float
    gradient_norm: float
    learning_rate: float
    n_steps: int
    seconds: float = 0.0
    passes: float = 0.0
    sampler: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.velocity.shape != self.theta.shape:
            raise ValueError("velocity and theta are not of one shape")


def sgd(
    objective: Objective,
    theta0: Tensor,
    options: SGDOptions | None = None,
    *,
    state: SGDState | None = None,
) -> Iterator[SGDState]:
    """Minimise the objective by Algorithm 2, yielding a state after each epoch.

    An epoch goes through a fresh permutation of the images, the last mini-batch shorter.

    Parameters
    ----------
    objective : Objective
        The objective.
    theta0 : Tensor of shape (n,)
        First parameters, on the objective's device.
    options : SGDOptions or None
        Settings; None is the paper's.
    state : SGDState or None
        Go on from this state instead of from theta0, bit for bit as if never stopped.

    Yields
    ------
    SGDState

    Notes
    -----
    Ends after `max_epochs`, or with the first state whose f is not finite: it has diverged.
    """
    options = options or SGDOptions()
    rng = np.random.default_rng(options.seed)
    if state is None:
        state = start(theta0, options)
    elif state.sampler:
        try:
            rng.bit_generator.state = state.sampler
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"the state of the order of the images is damaged: {error!r}") from error
    while state.iteration < options.max_epochs and (state.iteration == 0 or math.isfinite(state.f)):
        state = _epoch(objective, state, rng, options)
        yield state


def start(theta0: Tensor, options: SGDOptions) -> SGDState:
    """State before the first epoch: nothing is evaluated yet, so f is NaN.

    Parameters
    ----------
    theta0 : Tensor of shape (n,)
        First parameters.
    options : SGDOptions
        Settings, of which `learning_rate` is used.

    Returns
    -------
    SGDState
    """
    velocity = torch.zeros_like(theta0)
    return SGDState(0, theta0, velocity, math.nan, math.nan, math.nan, options.learning_rate, 0)


def _epoch(objective: Objective, state: SGDState, rng: np.random.Generator, options: SGDOptions) -> SGDState:
    start = time.perf_counter()
    n_images, n_steps = objective.n_images, state.n_steps
    theta, velocity = state.theta.clone(), state.velocity.clone()
    total = correct = norm = 0.0
    rate = options.learning_rate / (1 + options.decay * n_steps)
    order = rng.permutation(n_images)
    for first in range(0, n_images, options.batch_size):
        batch = order[first : first + options.batch_size]
        result = objective.evaluate(theta, indices=batch)
        total += result.value * len(batch)
        correct += result.accuracy * len(batch)
        if result.gradient is None:  # not finite
            break
        velocity.mul_(options.momentum).sub_(result.gradient, alpha=rate)
        theta.add_(velocity)
        norm = float(result.gradient.norm())
        n_steps += 1
        rate = options.learning_rate / (1 + options.decay * n_steps)
    return SGDState(
        iteration=state.iteration + 1,
        theta=theta,
        velocity=velocity,
        f=total / n_images,
        training_accuracy=correct / n_images,
        gradient_norm=norm,
        learning_rate=rate,
        n_steps=n_steps,
        seconds=state.seconds + time.perf_counter() - start,
        passes=state.iteration + 1.0,
        sampler=dict(rng.bit_generator.state),
    )

"""The classifiers: `NewtonCNNClassifier` (Algorithm 1) and `SGDCNNClassifier` (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hfcnn._base import CNNClassifier
from hfcnn._validation import Array
from hfcnn.newton import NewtonOptions, NewtonState, newton
from hfcnn.newton import start as newton_start
from hfcnn.objective import Objective
from hfcnn.sampling import subsample_size
from hfcnn.sgd import SGDOptions, SGDState, sgd
from hfcnn.sgd import start as sgd_start

__all__ = ["NewtonCNNClassifier", "SGDCNNClassifier"]


class NewtonCNNClassifier(CNNClassifier):
    """A CNN."""

    _columns: ClassVar[tuple[str, ...]] = (
        "iteration",
        "f",
        "gradient_norm",
        "damping",
        "rho",
        "step",
        "cg_iterations",
        "n_trials",
        "seconds",
        "passes",
        "training_accuracy",
    )

    _state_type: ClassVar[type[Any]] = NewtonState

    damping_: float

    def __init__(
        self,
        network: Any = "cnn3",
        *,
        C: float = 0.01,
        loss: str = "squared",
        sampling_rate: float | int | str = "auto",
        sampling: str = "random",
        max_iter: int = 100,
        tol: float = 0.0,
        cg_tol: float = 0.1,
        cg_max_iter: int = 250,
        damping: float = 1.0,
        gauss_newton: str = "auto",
        image_shape: Any = None,
        class_weight: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        callbacks: Any = None,
        checkpoint: Any = None,
        checkpoint_every: int = 1,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        memory: int | str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.network = network
        self.C = C
        self.loss = loss
        self.sampling_rate = sampling_rate
        self.sampling = sampling
        self.max_iter = max_iter
        self.tol = tol
        self.cg_tol = cg_tol
        self.cg_max_iter = cg_max_iter
        self.damping = damping
        self.gauss_newton = gauss_newton
        self.image_shape = image_shape
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.backend = backend
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _options(self, last: int, seed: int) -> NewtonOptions:
        return NewtonOptions(
            max_iter=last,
            tol=self.tol,
            sampling_rate=self.sampling_rate,
            sampling=self.sampling,
            cg_tol=self.cg_tol,
            cg_max_iter=self.cg_max_iter,
            damping=self.damping,
            gauss_newton=self.gauss_newton,
            memory=self.memory,
            seed=seed,
        )

    def _first_state(self, objective: Objective, theta: Tensor) -> NewtonState:
        return newton_start(objective, theta, self._options(0, 0))

    def _go_on(self, objective: Objective, theta: Tensor) -> NewtonState:
        state = self._first_state(objective, theta)
        return replace(
            state,
            iteration=self.n_iter_,
            next_damping=self.damping_,
            seconds=state.seconds + self._last("seconds"),
            passes=state.passes + self._last("passes"),
        )

    def _states(
        self, objective: Objective, state: NewtonState, last: int, seed: int
    ) -> Iterator[NewtonState]:
        return newton(objective, state.theta, self._options(last, seed), state=state)

    def _title_parts(self, objective: Objective) -> list[str]:
        size = subsample_size(objective.n_images, self.sampling_rate)
        return [f"|S| = {size:,}", f"product: {self.gauss_newton}"]

    def _keep(self, state: NewtonState) -> None:
        self.damping_ = state.next_damping


class SGDCNNClassifier(CNNClassifier):
    """A CNN."""

    _columns: ClassVar[tuple[str, ...]] = (
        "iteration",
        "f",
        "gradient_norm",
        "learning_rate",
        "seconds",
        "passes",
        "training_accuracy",
    )

    _state_type: ClassVar[type[Any]] = SGDState

    velocity_: Array
    n_steps_: int

    def __init__(
        self,
        network: Any = "cnn3",
        *,
        C: float = 0.01,
        loss: str = "squared",
        learning_rate: float = 0.003,
        momentum: float = 0.9,
        decay: float = 1e-6,
        sgd_batch_size: int = 128,
        max_iter: int = 100,
        image_shape: Any = None,
        class_weight: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        callbacks: Any = None,
        checkpoint: Any = None,
        checkpoint_every: int = 1,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.network = network
        self.C = C
        self.loss = loss
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.decay = decay
        self.sgd_batch_size = sgd_batch_size
        self.max_iter = max_iter
        self.image_shape = image_shape
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.backend = backend
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.random_state = random_state
        self.verbose = verbose

    def _options(self, last: int, seed: int) -> SGDOptions:
        return SGDOptions(
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            decay=self.decay,
            batch_size=self.sgd_batch_size,
            max_epochs=last,
            seed=seed,
        )

    def _first_state(self, objective: Objective, theta: Tensor) -> SGDState:
        return sgd_start(theta, self._options(0, 0))

    def _go_on(self, objective: Objective, theta: Tensor) -> SGDState:
        return replace(
            self._first_state(objective, theta),
            iteration=self.n_iter_,
            velocity=torch.from_numpy(self.velocity_.copy()).to(theta),
            n_steps=self.n_steps_,
            f=self._last("f"),
            seconds=self._last("seconds"),
        )

    def _states(self, objective: Objective, state: SGDState, last: int, seed: int) -> Iterator[SGDState]:
        return sgd(objective, state.theta, self._options(last, seed), state=state)

    def _title_parts(self, objective: Objective) -> list[str]:
        return [f"|S| = {min(self.sgd_batch_size, objective.n_images):,}"]

    def _keep(self, state: SGDState) -> None:
        self.velocity_ = state.velocity.cpu().numpy().copy()
        self.n_steps_ = state.n_steps

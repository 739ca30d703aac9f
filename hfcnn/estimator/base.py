"""What fitting with either algorithm has in common."""

from __future__ import annotations

import copy
import math
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from hfcnn.backend import Backend
from hfcnn.estimator.fitted import FittedCNN, with_threads
from hfcnn.estimator.images import (
    Array,
    ImageSet,
    check_labels,
    check_parameters,
    class_indices,
    image_dtype,
    make_network,
    stratified_split,
    training_set,
)
from hfcnn.estimator.monitors import (
    CallbackSupportMixin,
    Checkpoint,
    EarlyStopping,
    Monitor,
    Record,
    Run,
    ScikitCallbacks,
    UserCallbacks,
    Validation,
    follow,
    with_callbacks,
)
from hfcnn.estimator.progress import Progress
from hfcnn.loss import get_loss
from hfcnn.objective import Objective, outputs
from hfcnn.persistence import (
    CheckpointRun,
    fingerprint,
    read_checkpoint,
    save_checkpoint,
    state_fields,
    state_from_fields,
)

__all__ = ["CNNClassifier"]


@dataclass(frozen=True)
class Seeds:
    """Seeds that a fit draws once from `random_state`."""

    theta: int
    sampling: int
    split: int

    @classmethod
    def draw(cls, random_state: Any) -> Seeds:
        """Draw them."""
        theta, sampling, split = check_random_state(random_state).randint(2**31 - 1, size=3).tolist()
        return cls(theta, sampling, split)

    def after(self, iteration: int) -> int:
        """Seed of the subsampling of a fit that begins after some iterations."""
        return int(np.random.SeedSequence((self.sampling, iteration)).generate_state(1)[0])


class CNNClassifier(CallbackSupportMixin, FittedCNN, metaclass=ABCMeta):  # type: ignore[misc]
    """Base class of the classifiers; a subclass adds its algorithm.

    A subclass says how to begin (`_first_state`), how to go on (`_go_on`), how to iterate (`_states`) and
    which fitted attributes of its own it keeps (`_keep`).
    """

    #: Fields of the algorithm's states that make a row of `history_`.
    _columns: ClassVar[tuple[str, ...]]
    #: Class of those states.
    _state_type: ClassVar[type[Any]]

    network: Any
    C: float
    max_iter: int
    class_weight: Any
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    warm_start: bool
    callbacks: Any
    checkpoint: Any
    checkpoint_every: int
    random_state: Any
    verbose: int

    @abstractmethod
    def _first_state(self, objective: Objective, theta: Tensor) -> Any:
        """State before the first iteration."""

    @abstractmethod
    def _go_on(self, objective: Objective, theta: Tensor) -> Any:
        """State before the next iteration of a fitted estimator."""

    @abstractmethod
    def _states(self, objective: Objective, state: Any, last: int, seed: int) -> Iterator[Any]:
        """Iterate from a state until iteration `last`."""

    @abstractmethod
    def _keep(self, state: Any) -> None:
        """Set the fitted attributes that only this algorithm has."""

    @abstractmethod
    def _title_parts(self, objective: Objective) -> list[str]:
        """What `verbose` says about the algorithm."""

    @with_callbacks
    @with_threads
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        resume_from: Any = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array-like, DataFrame or Tensor of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images of any real dtype. They are read batch by batch: no copy of them is made, so a
            memory-mapped array may be larger than memory.
        y : array-like of shape (l,)
            Labels of any type.
        sample_weight : array-like of shape (l,), number or None, default=None
            Weights of the images. Weight zero leaves an image out; weight two counts it twice.
        X_val, y_val : array-like or None, default=None
            Images and labels on which to measure accuracy after each iteration, and by which
            `early_stopping` goes instead of by a share of `X`.
        resume_from : str, path or None, default=None
            A checkpoint of the same fit; the run goes on from there, bit for bit as if never stopped.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or a parameter is not valid; the message says which.

        Warns
        -----
        ConvergenceWarning
            If interrupted after an iteration, or the objective is not finite. The estimator is then
            fitted with the best parameters so far.
        """
        tasks = self._scikit_callbacks(X, y, sample_weight)
        check_parameters(self.get_params(deep=False))
        checkpoint = None if resume_from is None else read_checkpoint(self, resume_from)
        go_on = checkpoint is None and self.warm_start and hasattr(self, "theta_")
        images = self._check_images(X, reset=not go_on)
        data = training_set(self, images, y, sample_weight, None)
        self._begin(images, data.classes, go_on=go_on)
        seeds = Seeds.draw(self.random_state) if checkpoint is None else Seeds(**checkpoint.seeds)
        data, validation = self._set_aside(data, X_val, y_val, seeds)
        objective = self._objective(data)
        if checkpoint is None:
            run = self._started(objective, seeds, go_on=go_on)
        else:
            checkpoint.check_data(data, validation)
            run = self._resumed(checkpoint, objective.backend)
        first = run.state.iteration - len(run.records)
        monitors = [
            *self._validation_monitors(validation, objective.backend),
            UserCallbacks(self.callbacks),
            *tasks,
            *self._progress(objective, first + self.max_iter),
            *self._checkpoints(seeds, data, validation),
        ]
        states = self._states(objective, run.state, first + self.max_iter, seeds.after(first))
        follow(states, run, monitors)
        self._store(run)
        return self

    @with_threads
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Make one iteration on the given images: of Algorithm 1, or an epoch of Algorithm 2.

        Parameters
        ----------
        X : array-like, DataFrame or Tensor of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.
        y : array-like of shape (l,)
            Labels.
        classes : array-like of shape (K,) or None, default=None
            All labels that will ever come; needed in the first call.
        sample_weight : array-like of shape (l,), number or None, default=None
            Weights of the images.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If an argument or a parameter is not valid; the message says which.
        """
        check_parameters(self.get_params(deep=False))
        if isinstance(self.class_weight, str):
            raise ValueError('partial_fit cannot know class_weight="balanced"; pass a dict or sample_weight')
        go_on = hasattr(self, "theta_")
        classes = self._all_classes(classes)
        images = self._check_images(X, reset=not go_on)
        data = training_set(self, images, y, sample_weight, classes)
        self._begin(images, classes, go_on=go_on)
        seeds = Seeds.draw(self.random_state)
        objective = self._objective(data)
        run = self._started(objective, seeds, go_on=go_on)
        first = run.state.iteration
        states = self._states(objective, run.state, first + 1, seeds.after(first))
        follow(states, run, [UserCallbacks(self.callbacks)])
        self._store(run)
        return self

    def _all_classes(self, classes: Any) -> Array:
        """Check and sort the classes of `partial_fit`."""
        known: Array | None = getattr(self, "classes_", None)
        if classes is None:
            if known is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return known
        given: Array = np.unique(classes)
        if known is not None and not np.array_equal(known, given):
            raise ValueError(f"classes={given} is not the same as in the first call, {known}")
        return given

    def _begin(self, images: Array, classes: Array, *, go_on: bool) -> None:
        """Set what is known before the first iteration, or check that it is as in the earlier fit."""
        if not go_on:
            self.classes_ = classes
            self.image_shape_ = images.shape[1:]
            self.network_ = make_network(self.network, self.image_shape_, len(classes))
        elif not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start needs the classes of the earlier fit, {self.classes_}; y holds {classes}"
            )

    def _set_aside(
        self, data: ImageSet, X_val: Any, y_val: Any, seeds: Seeds
    ) -> tuple[ImageSet, ImageSet | None]:
        """Split into training images and those to validate on, if any."""
        if X_val is not None:
            images = self._check_images(X_val, reset=False)
            labels = class_indices(check_labels(y_val, images, self), self.classes_)
            return data, ImageSet(images, labels, None, self.classes_)
        if self.early_stopping:
            return stratified_split(data, self.validation_fraction, seeds.split)
        return data, None

    def _objective(self, data: ImageSet) -> Objective:
        return Objective(
            self.network_,
            data.images,
            torch.from_numpy(data.labels),
            get_loss(self.loss),
            self.C * data.total_weight,
            None if data.weight is None else torch.from_numpy(data.weight),
            self._get_backend(),
            self.batch_size,
        )

    def _started(self, objective: Objective, seeds: Seeds, *, go_on: bool) -> Run:
        """Run before its first iteration, from drawn parameters or from the fitted ones."""
        device = objective.backend.device
        if go_on:
            records = _rows(self.history_)
            return Run(self._go_on(objective, self._theta(device)), self._columns, records, len(records))
        theta = self.network_.init(seeds.theta, image_dtype(objective.images)).to(device)
        return Run(self._first_state(objective, theta), self._columns)

    def _resumed(self, checkpoint: CheckpointRun, backend: Backend) -> Run:
        """Run as a checkpoint left it."""
        best = checkpoint.best_theta
        return Run(
            state_from_fields(self._state_type, checkpoint.state, backend.device),
            self._columns,
            checkpoint.history,
            checkpoint.n_earlier,
            None if best is None else torch.from_numpy(best).to(backend.device),
        )

    def _validation_monitors(self, validation: ImageSet | None, backend: Backend) -> list[Monitor]:
        if validation is None:
            return []

        def accuracy(theta: Tensor) -> float:
            z = outputs(self.network_, theta, validation.images, backend, self.batch_size)
            return float((z.argmax(1) == validation.labels).mean())

        stop = [EarlyStopping(self.n_iter_no_change)] if self.early_stopping else []
        return [Validation(accuracy), *stop]

    def _scikit_callbacks(self, X: Any, y: Any, sample_weight: Any) -> list[Monitor]:
        """Callbacks of scikit-learn's own protocol, where the installed version has it."""
        if not hasattr(self, "set_callbacks"):
            return []
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        data = {"X": X, "y": y, "metadata": metadata}
        return [ScikitCallbacks(self, self.max_iter, data, lambda run: {"theta_": _to_numpy(run.theta)})]

    def _progress(self, objective: Objective, last: int) -> list[Monitor]:
        return [Progress(self._title(objective), last)] if self.verbose else []

    def _title(self, objective: Objective) -> str:
        """Say in one line what is fitted and how."""
        name = self.network if isinstance(self.network, str) else "network"
        backend = objective.backend
        parts = [
            f"{name} of {self.network_.n_parameters:,} parameters",
            f"{objective.n_images:,} images",
            *self._title_parts(objective),
            f"{backend.name} on {backend.device} ({backend.precision})",
        ]
        return ", ".join(parts)

    def _checkpoints(self, seeds: Seeds, data: ImageSet, validation: ImageSet | None) -> list[Monitor]:
        if self.checkpoint is None:
            return []
        digest = fingerprint(data, validation)

        def save(run: Run) -> None:
            fitted = copy.copy(self)
            fitted._store(run)
            best = None if run.best_theta is None else _to_numpy(run.best_theta)
            state = state_fields(run.state)
            record = CheckpointRun(state, run.history, run.n_earlier, best, asdict(seeds), digest)
            save_checkpoint(fitted, record, self.checkpoint)

        return [Checkpoint(save, self.checkpoint_every)]

    def _last(self, column: str) -> float:
        """Newest entry of a column of `history_`; 0 where there is none."""
        values = self.history_[column]
        return float(values[-1]) if len(values) else 0.0

    def _store(self, run: Run) -> None:
        """Set the fitted attributes."""
        self.theta_ = _to_numpy(run.theta)
        self.n_iter_ = run.state.iteration
        names = dict.fromkeys([*self._columns, *(name for row in run.history for name in row)])
        self.history_ = {name: np.array([row.get(name, math.nan) for row in run.history]) for name in names}
        self._keep(run.state)


def _rows(history: dict[str, Array]) -> list[Record]:
    """Turn columns into records."""
    columns = [column.tolist() for column in history.values()]
    return [dict(zip(history, row, strict=True)) for row in zip(*columns, strict=True)]


def _to_numpy(theta: Tensor) -> Array:
    return theta.detach().cpu().numpy().copy()

"""What both classifiers do: validate, fit with either algorithm, predict."""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hfcnn._validation import (
    Array,
    ImageSet,
    check_images,
    check_labels,
    check_parameters,
    class_indices,
    image_dtype,
    make_network,
    stratified_split,
    training_set,
)
from hfcnn.backend import Backend, get_backend
from hfcnn.callbacks import (
    CallbackSupportMixin,
    EarlyStopping,
    Monitor,
    Run,
    ScikitCallbacks,
    State,
    UserCallbacks,
    Validation,
    follow,
    with_callbacks,
)
from hfcnn.loss import get_loss
from hfcnn.network import Network
from hfcnn.objective import Objective, outputs

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
        return cls(*(int(seed) for seed in check_random_state(random_state).randint(2**31 - 1, size=3)))

    def of_sampling(self, iteration: int) -> int:
        """Seed of the draws of a fit that goes on after some iterations."""
        return int(np.random.SeedSequence((self.sampling, iteration)).generate_state(1)[0])


class CNNClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """Base class of the classifiers; a subclass adds its algorithm.

    A subclass says how to begin (`_first_state`), how to go on (`_go_on`), how to iterate (`_states`) and
    which fitted attributes of its own it keeps (`_keep`).
    """

    #: Fields of the algorithm's states that make a row of `history_`.
    _columns: ClassVar[tuple[str, ...]]

    network: Any
    C: float
    loss: str
    max_iter: int
    classes_: Array
    network_: Network
    theta_: Array
    history_: dict[str, Array]
    n_iter_: int

    @abstractmethod
    def _first_state(self, objective: Objective, theta: Tensor) -> State:
        """State before the first iteration."""

    @abstractmethod
    def _go_on(self, objective: Objective, theta: Tensor) -> State:
        """State before the next iteration of a fitted estimator."""

    @abstractmethod
    def _states(self, objective: Objective, state: State, last: int, seed: int) -> Iterator[State]:
        """Iterate from a state until iteration `last`."""

    @abstractmethod
    def _keep(self, state: State) -> None:
        """Set the fitted attributes that only this algorithm has."""

    # Fitting

    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        resume_from: Any = None,
    ) -> CNNClassifier:
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
            If interrupted or not finite; see Notes of the class.
        """
        tasks = (
            ScikitCallbacks(
                self,
                self.max_iter,
                {
                    "X": X,
                    "y": y,
                    "metadata": None if sample_weight is None else {"sample_weight": sample_weight},
                },
                lambda run: {"theta_": _to_numpy(run.theta)},
            )
            if hasattr(self, "_init_callback_context")
            else None
        )
        check_parameters(self.get_params(deep=False))
        is_warm = self.warm_start and hasattr(self, "theta_")
        images = self._check_images(X, reset=not is_warm)
        data = training_set(self, images, y, sample_weight, None)
        if is_warm:
            self._check_same_classes(data)
        else:
            self._begin(images, data.classes)
        seeds = Seeds.draw(self.random_state)
        validation = None
        if X_val is not None:
            validation = self._validation_set(X_val, y_val)
        elif self.early_stopping:
            data, validation = stratified_split(data, self.validation_fraction, seeds.split)
        backend = self._backend()
        objective = self._objective(data, backend)
        theta = self._theta(backend) if is_warm else self._initial_theta(images, seeds, backend)
        state = self._go_on(objective, theta) if is_warm else self._first_state(objective, theta)
        run = Run(state, self._columns, self._records() if is_warm else [])
        run.n_earlier = len(run.history)
        monitors = self._monitors(validation, backend)
        if tasks:
            monitors.append(tasks)
        last = state.iteration + self.max_iter
        follow(self._states(objective, state, last, seeds.of_sampling(state.iteration)), run, monitors)
        self._store(run)
        return self

    def _check_images(self, X: Any, *, reset: bool) -> Array:
        return check_images(self, X, self.image_shape, reset=reset)

    def _begin(self, images: Array, classes: Array) -> None:
        """Set what is known before the first iteration."""
        self.classes_ = classes
        self.image_shape_ = images.shape[1:]
        self.network_ = make_network(self.network, self.image_shape_, len(classes))

    def _check_same_classes(self, data: ImageSet) -> None:
        if not np.array_equal(data.classes, self.classes_):
            raise ValueError(
                f"warm_start needs the classes of the earlier fit, {self.classes_}; y holds {data.classes}"
            )

    def _validation_set(self, X_val: Any, y_val: Any) -> ImageSet:
        images = self._check_images(X_val, reset=False)
        labels = check_labels(y_val, images, self)
        return ImageSet(images, class_indices(labels, self.classes_), None, self.classes_)

    def _backend(self) -> Backend:
        return get_backend(self.backend, self.device, self.precision)

    def _objective(self, data: ImageSet, backend: Backend) -> Objective:
        return Objective(
            self.network_,
            data.images,
            torch.from_numpy(data.labels),
            get_loss(self.loss),
            self.C * data.total_weight,
            None if data.weight is None else torch.from_numpy(data.weight),
            backend,
            self.batch_size,
        )

    def _initial_theta(self, images: Array, seeds: Seeds, backend: Backend) -> Tensor:
        dtype = torch.float64 if image_dtype(images) == np.float64 else torch.float32
        return self.network_.init(seeds.theta, dtype).to(backend.device)

    def _theta(self, backend: Backend) -> Tensor:
        """Fitted parameters on a device; a copy, since `theta_` may be read-only."""
        return torch.from_numpy(self.theta_.copy()).to(backend.device)

    def _monitors(self, validation: ImageSet | None, backend: Backend) -> list[Monitor]:
        monitors: list[Monitor] = []
        if validation is not None:

            def accuracy(theta: Tensor) -> float:
                z = outputs(self.network_, theta, validation.images, backend, self.batch_size)
                return float((z.argmax(1) == validation.labels).mean())

            monitors.append(Validation(accuracy))
            if self.early_stopping:
                monitors.append(EarlyStopping(self.n_iter_no_change))
        monitors.append(UserCallbacks(self.callbacks))
        return monitors

    def _records(self) -> list[dict[str, float]]:
        columns = self.history_.keys()
        return [
            dict(zip(columns, row, strict=True))
            for row in zip(*(v.tolist() for v in self.history_.values()), strict=True)
        ]

    def _last(self, column: str) -> float:
        """Newest entry of a column of `history_`; 0 where there is none."""
        values = self.history_[column]
        return float(values[-1]) if len(values) else 0.0

    def _store(self, run: Run) -> None:
        """Set the fitted attributes: arrays of numpy only, so that any machine can load them."""
        self.theta_ = _to_numpy(run.theta)
        self.n_iter_ = run.state.iteration
        names = list(dict.fromkeys([*self._columns, *(name for row in run.history for name in row)]))
        self.history_ = {name: np.array([row.get(name, math.nan) for row in run.history]) for name in names}
        self._keep(run.state)

    # Prediction

    def _outputs(self, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        images = self._check_images(X, reset=False)
        backend = self._backend()
        return outputs(self.network_, self._theta(backend), images, backend, self.batch_size)

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Outputs of the network.

        Parameters
        ----------
        X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.

        Returns
        -------
        ndarray of shape (l, K), or (l,) for two classes
            The outputs z^{L+1}; for two classes the second less the first.
        """
        z = self._outputs(X)
        return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z

    def predict(self, X: Any) -> Array:
        """Class of the largest output.

        Parameters
        ----------
        X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.

        Returns
        -------
        ndarray of shape (l,)
            Labels, of the type of `classes_`.
        """
        z = self._outputs(X)
        labels: Array = self.classes_[z.argmax(1)]
        return labels

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images.

        Returns
        -------
        ndarray of shape (l, K)
            In the order of `classes_`.
        """
        probabilities: NDArray[Any] = (
            get_loss(self.loss).probabilities(torch.from_numpy(self._outputs(X))).numpy()
        )
        return probabilities

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True  # and four, for which there is no tag
        return tags


def _to_numpy(theta: Tensor) -> Array:
    return theta.detach().cpu().numpy().copy()

"""What a fit needs before its first iteration: every argument checked, then data, objective and solver."""

from __future__ import annotations

import math
from abc import ABCMeta, abstractmethod
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import check_random_state

from hfcnn.estimator.checkpoint import SavedRun, check_unused, read_checkpoint
from hfcnn.estimator.fitted import FittedCNN
from hfcnn.estimator.images import (
    ImageSet,
    assert_images_finite,
    image_dtype,
    make_network,
    stratified_split,
    training_set,
)
from hfcnn.estimator.labels import Array, check_labels, class_indices, within_range
from hfcnn.estimator.parameters import Check, auto_C, check_parameters, strength
from hfcnn.estimator.run import HistoryRow, Run, history_rows
from hfcnn.estimator.scaling import fit_scaler, holds_pixels
from hfcnn.estimator.solvers import Solver
from hfcnn.image_reader import Block
from hfcnn.objective import Objective
from hfcnn.persistence import FITTED
from hfcnn.ranks import Ranks, together

__all__ = ["FitPlan", "FitSeeds", "PlannedCNN"]


@dataclass(frozen=True)
class FitSeeds:
    """Seeds that a fit draws once from `random_state`."""

    theta: int
    sampling: int
    split: int

    @classmethod
    def draw(cls, random_state: Any) -> FitSeeds:
        """Draw them."""
        theta, sampling, split = check_random_state(random_state).randint(2**31 - 1, size=3).tolist()
        return cls(theta, sampling, split)

    def after(self, iteration: int) -> int:
        """Seed of the subsampling of a fit that begins after some iterations."""
        return int(np.random.SeedSequence((self.sampling, iteration)).generate_state(1)[0])


@dataclass(frozen=True)
class FitPlan:
    """A fit that is about to begin: all arguments are checked."""

    seeds: FitSeeds
    data: ImageSet
    validation: ImageSet | None
    objective: Objective
    solver: Solver[Any]
    run: Run
    #: Share of the training images, by weight, that the largest class has.
    largest_share: float


class PlannedCNN(FittedCNN, metaclass=ABCMeta):
    """A classifier that can say how it is to be fitted: sets what is known before the first iteration."""

    #: A check for each parameter.
    _checks: ClassVar[dict[str, Check]]

    #: Processes that fit together, and what they pass; of a draft, for one fit.
    _ranks: Ranks | None = None
    _shard: str = "block"

    network: Any
    C: float | str
    scale: bool | str
    scoring: Any
    max_iter: Any
    class_weight: Any
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    warm_start: bool
    callbacks: Any
    checkpoint: Any
    checkpoint_every: int
    _is_clone: bool
    random_state: Any
    verbose: int

    @abstractmethod
    def _solver(self, objective: Objective, first: int, seed: int) -> Solver[Any]:
        """Choose the solver of a fit that begins after `first` iterations."""

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any, X_val: Any, y_val: Any, resume_from: Any
    ) -> FitPlan:
        """Check all arguments of `fit` and make what it needs: parameters first, the images' values last."""
        ranks = self._ranks
        with together(ranks):
            self._check_parameters()
            self._check_shard()
            saved = None if resume_from is None else read_checkpoint(self, resume_from)
            go_on = saved is None and self.warm_start and hasattr(self, "theta_")
            images = self._view_images(X, reset=not go_on)
            present = np.unique(check_labels(y, images, self)) if self._is_given else None
        classes = present
        if ranks is not None and present is not None:
            classes = np.unique(np.concatenate(ranks.gather(present)))
        with together(ranks):
            data = training_set(self, images, y, sample_weight, classes)
            self._begin(images, data.classes, go_on=go_on)
            seeds = FitSeeds.draw(self.random_state) if saved is None else FitSeeds(**saved.seeds)
            held_out = self._validation_set(X_val, y_val)
            own = (0, len(images)) if ranks is None or self._is_given else ranks.block(len(images))
            assert_images_finite(Block(images, *own), "X", self)
        if ranks is not None:
            seeds = FitSeeds(**ranks.first(asdict(seeds)))
            self._check_alike(ranks, images)
        with together(ranks):
            if held_out is None and self.early_stopping:
                data, held_out = self._set_aside(data, seeds)
            if saved is not None and (ranks is None or ranks.rank == 0):
                saved.check_data(data, held_out)
        self._prepare_numbers(data, go_on=go_on)
        objective = self._objective(data)
        if saved is None:
            return self._started(data, held_out, objective, seeds, go_on=go_on)
        return self._resumed(data, held_out, objective, saved)

    @property
    def _is_given(self) -> bool:
        """Whether each process passes its own images."""
        return self._ranks is not None and self._shard == "given"

    def _check_shard(self) -> None:
        if self._shard not in ("block", "given"):
            raise ValueError(f'shard must be "block" or "given"; got {self._shard!r}')
        if self._is_given and isinstance(self.class_weight, str):
            raise ValueError(
                'class_weight="balanced" needs the labels of all processes, and with shard="given" each has '
                "only its own: pass a dict of weights"
            )

    def _check_alike(self, ranks: Ranks, images: Array) -> None:
        """Check that all processes fit the same network on images of the same type, and as many."""
        n_images = None if self._is_given else len(images)
        found = ranks.gather((repr(self.network_), str(images.dtype), n_images))
        if len(set(found)) > 1:
            raise ValueError(
                "the processes of a fit must pass the same arguments; their networks, types and numbers of "
                f"images are {found}"
            )

    def _prepare_part(self, X: Any, y: Any, classes: Any, sample_weight: Any) -> FitPlan:
        """Check all arguments of `partial_fit` and make what it needs."""
        self._check_parameters()
        if isinstance(self.class_weight, str):
            raise ValueError('partial_fit cannot know class_weight="balanced"; pass a dict or sample_weight')
        go_on = hasattr(self, "theta_")
        classes = self._all_classes(classes)
        images = self._view_images(X, reset=not go_on)
        data = training_set(self, images, y, sample_weight, classes)
        self._begin(images, classes, go_on=go_on)
        assert_images_finite(images, "X", self)
        self._limit_to_one_iteration()  # the draft
        self._prepare_numbers(data, go_on=go_on)
        seeds = FitSeeds.draw(self.random_state)
        return self._started(data, None, self._objective(data), seeds, go_on=go_on)

    def _check_parameters(self) -> None:
        check_parameters(self, self._checks)
        self._get_backend()
        if self.checkpoint is not None and not self._is_clone:
            check_unused(self.checkpoint)

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
            self.__dict__ = {
                name: value
                for name, value in vars(self).items()
                if name not in FITTED or name in ("n_features_in_", "feature_names_in_")
            }
            self.classes_ = classes
            self.image_shape_ = images.shape[1:]
            self.network_ = make_network(self.network, self.image_shape_, len(classes))
            return
        if not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start needs the classes of the earlier fit, {self.classes_}; y holds {classes}"
            )
        if make_network(self.network, self.image_shape_, len(classes)) != self.network_:
            raise ValueError(
                "the parameter network is another than that of the earlier fit, which this fit would go on "
                "from: set it back, or fit a new classifier"
            )

    def _validation_set(self, X_val: Any, y_val: Any) -> ImageSet | None:
        """Check the images to validate on that were passed."""
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            there, missing = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
            raise ValueError(f"{there} was passed without {missing}: validation needs images and labels")
        images = self._view_images(X_val, reset=False, name="X_val")
        labels = check_labels(y_val, images, self, name="y_val")
        indices = class_indices(labels, self.classes_, "y_val")
        assert_images_finite(images, "X_val", self)
        return ImageSet(images, indices, None, self.classes_)

    def _set_aside(self, data: ImageSet, seeds: FitSeeds) -> tuple[ImageSet, ImageSet]:
        """Put the share of the images aside that `early_stopping` goes by."""
        counts = np.bincount(data.labels, minlength=len(self.classes_))
        n_held_out = math.ceil(self.validation_fraction * len(data))
        if counts.min() < 2 or min(n_held_out, len(data) - n_held_out) < len(self.classes_):
            raise ValueError(
                f"early_stopping puts validation_fraction={self.validation_fraction} of {len(data)} images "
                f"aside, too few for {len(self.classes_)} classes on both sides (the class "
                f"{self.classes_.tolist()[counts.argmin()]!r} has {counts.min()}); pass X_val and y_val"
            )
        return stratified_split(data, self.validation_fraction, seeds.split)

    def _prepare_numbers(self, data: ImageSet, *, go_on: bool) -> None:
        """Choose what the parameters leave to the images: the strength of regularisation, and a scaler."""
        total_weight = self._total_weight(data)
        self.C_ = strength(self.C, total_weight, self._auto_C(total_weight))
        if go_on:
            self._warn_of_pixels(data.images, "X")
            return
        own, ranks = data.images, self._ranks
        if ranks is not None and not self._is_given:
            own = Block(own, *ranks.block(len(own)))
        wanted = holds_pixels(own, ranks) if isinstance(self.scale, str) else self.scale
        self.scaler_ = fit_scaler(own, ranks) if wanted else None

    def _auto_C(self, total_weight: float) -> float:
        """What C="auto" means, for images of some total weight."""
        return auto_C("sg", self._loss_function().name, total_weight)

    def _total_weight(self, data: ImageSet) -> float:
        """Sum of the weights of all images, those that other processes were given included."""
        if self._ranks is not None and self._is_given:
            return float(self._ranks.total(data.total_weight)[0])
        return data.total_weight

    def _n_images(self, data: ImageSet) -> int:
        """Number of all images, those that other processes were given included."""
        return round(self._ranks.total(len(data))[0]) if self._ranks and self._is_given else len(data)

    def _largest_share(self, data: ImageSet) -> float:
        totals = np.bincount(data.labels, data.weight, minlength=len(self.classes_)).tolist()
        if self._ranks is not None and self._is_given:
            totals = self._ranks.total(*totals)
        return float(max(totals) / sum(totals))

    def _weight(self, data: ImageSet) -> torch.Tensor | None:
        if data.weight is None:
            return None
        return torch.from_numpy(data.weight if self._is_given else within_range(data.weight))

    def _objective(self, data: ImageSet) -> Objective:
        return Objective(
            self.network_,
            self._scaled(data.images),
            torch.from_numpy(data.labels),
            self._loss_function(),
            self.C_ * self._total_weight(data),
            self._weight(data),
            self._get_backend(),
            self.batch_size,
            ranks=self._ranks,
            shard=self._shard,
        )

    def _started(
        self,
        data: ImageSet,
        validation: ImageSet | None,
        objective: Objective,
        seeds: FitSeeds,
        *,
        go_on: bool,
    ) -> FitPlan:
        """FitPlan a run from drawn parameters or from the fitted ones."""
        device = objective.backend.device
        first = self.n_iter_ if go_on else 0
        solver = self._solver(objective, first, seeds.after(first))
        rows: list[HistoryRow] = []
        if go_on:
            state = solver.go_on(objective, self._theta(device), self)
            rows = history_rows(self.history_)
        else:
            theta = self.network_.init(seeds.theta, image_dtype(objective.images)).to(device)
            state = solver.start(objective, theta)
        run = Run(state, rows, len(rows), score=self._score_column())
        return FitPlan(seeds, data, validation, objective, solver, run, self._largest_share(data))

    def _resumed(
        self, data: ImageSet, validation: ImageSet | None, objective: Objective, saved: SavedRun
    ) -> FitPlan:
        """FitPlan to go on with the run of a checkpoint."""
        device = objective.backend.device
        seeds = FitSeeds(**saved.seeds)
        first = int(saved.state["iteration"]) - (len(saved.history) - saved.n_earlier)
        solver = self._solver(objective, first, seeds.after(first))
        if saved.state.keys() != {field.name for field in fields(solver.state_type)}:
            raise ValueError(
                "the checkpoint is of a fit by another solver: set solver, max_iter and epochs as they were"
            )
        best = None if saved.best_theta is None else torch.from_numpy(saved.best_theta).to(device)
        state = saved.state_of(solver.state_type, self.network_, device)
        run = Run(state, saved.history, saved.n_earlier, best, self._score_column())
        return FitPlan(seeds, data, validation, objective, solver, run, self._largest_share(data))

    def _limit_to_one_iteration(self) -> None:
        """Set the parameters for a single iteration, for `partial_fit`."""
        self.max_iter = 1

    def _most_iterations(self) -> int | None:
        """Iterations that a fit makes at most, as far as the parameters tell."""
        most: int | None = self.max_iter
        return most

    def _score_column(self) -> str | None:
        """Column of `history_` by which the best parameters are chosen; None keeps the newest."""
        if not self.early_stopping:
            return None
        return "validation_accuracy" if self.scoring is None else "validation_score"

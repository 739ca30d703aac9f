"""What fitting by any solver has in common."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Self

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from torch import Tensor

from hfcnn.estimator.checkpoint import (
    SavedRun,
    circumstances,
    claim,
    fingerprint,
    own_path,
    save_checkpoint,
    state_fields,
)
from hfcnn.estimator.images import ImageSet
from hfcnn.estimator.labels import Array
from hfcnn.estimator.monitors import Checkpoint, EarlyStopping, OnAllRanks, UserCallbacks, Validation
from hfcnn.estimator.parameters import SMALLEST_C_TIMES_IMAGES
from hfcnn.estimator.plan import FitPlan, PlannedCNN
from hfcnn.estimator.progress import Progress
from hfcnn.estimator.run import Monitor, Run, follow
from hfcnn.estimator.scikit_callbacks import CallbackSupportMixin, ScikitCallbacks, with_callbacks
from hfcnn.estimator.solvers import Solver
from hfcnn.estimator.threads import with_threads
from hfcnn.images import Contribution, Images, Span
from hfcnn.interrupts import Interrupts, hold_interrupts
from hfcnn.objective import Objective, forward
from hfcnn.persistence import FITTED
from hfcnn.ranks import Ranks

__all__ = ["CNNClassifier"]

#: A fit of fewer iterations says nothing of whether anything can be learned.
FEWEST_ITERATIONS = 10

#: Share of the images outside the largest class below which nothing was learned of them.
NOTHING_LEARNED = 0.02


class CNNClassifier(CallbackSupportMixin, PlannedCNN):  # type: ignore[misc]
    """Base class of the classifiers; a subclass has its parameters, their checks, and chooses its solver.

    Fits work on a copy, the draft, whose fitted attributes the classifier takes over in one step: whatever
    ends a fit, a classifier is as it was, or fitted with the best parameters that were reached.
    """

    _is_clone = False

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
        distributed: bool | str = "auto",
        shard: str = "block",
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array-like, DataFrame or Tensor of shape (l, H, W, C), (l, H, W) or (l, n_features)
            Images of any real dtype. They are read batch by batch: no copy of them is made, so a
            memory-mapped array, or `hfcnn.datasets.Shards`, may be larger than memory.
        y : array-like of shape (l,)
            Labels of any type.
        sample_weight : array-like of shape (l,), number or None, default=None
            Weights of the images. Weight zero leaves an image out; weight two counts it twice.
        X_val, y_val : array-like or None, default=None
            Images and labels on which to measure accuracy after each iteration, and by which
            `early_stopping` goes instead of by a share of `X`.
        resume_from : str, path or None, default=None
            A checkpoint of the same fit; the run goes on from there, bit for bit as if never stopped.
        distributed : "auto" or False, default="auto"
            Whether the processes of torch's default group, where one is initialised, fit one model together.
            Each calls `fit` with the same arguments; process 0 shows progress and writes checkpoints.
        shard : {"block", "given"}, default="block"
            What the processes pass: all images, the same in each, of which it reads only its own contiguous
            block; or each its own images, labels and weights.

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
        draft = self._draft()
        tasks = self._scikit_callbacks(draft, X, y, sample_weight)
        with hold_interrupts() as interrupts:
            with interrupts.allowed():
                ranks = Ranks.current(distributed)
                draft._ranks, draft._shard = ranks, shard
                plan = draft._prepare(X, y, sample_weight, X_val, y_val, resume_from)
                monitors = [
                    *draft._validation_monitors(plan.validation, plan.objective),
                    UserCallbacks(self.callbacks),
                    *tasks,
                ]
                if ranks is None or ranks.rank == 0:
                    monitors += draft._progress(plan.objective, plan.solver)
                    monitors += draft._checkpoints(plan, interrupts)
                if ranks is not None:
                    monitors = [OnAllRanks(ranks, monitors)]
            self._follow(draft, plan, monitors, interrupts)
        return self

    @with_threads
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Make one iteration on the given images: of Newton-CG, or an epoch of the stochastic solvers.

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
        with hold_interrupts() as interrupts:
            with interrupts.allowed():
                draft = self._draft()
                plan = draft._prepare_part(X, y, classes, sample_weight)
            self._follow(draft, plan, [UserCallbacks(self.callbacks)], interrupts)
        return self

    def __sklearn_clone__(self) -> Self:
        clone: Self = super().__sklearn_clone__()
        if self.checkpoint is not None:
            clone._is_clone = True  # its checkpoint is then a file of its own
        return clone

    def _draft(self) -> Self:
        """Copy of the classifier, for a fit to work on."""
        draft: Self = object.__new__(type(self))
        draft.__dict__.update(self.__dict__)
        return draft

    def _take_over(self, draft: Self) -> None:
        """Become what a draft is, as far as fits are concerned: in one step."""
        rest = {name: value for name, value in vars(self).items() if name not in FITTED}
        self.__dict__ = rest | {name: value for name, value in vars(draft).items() if name in FITTED}

    def _follow(
        self, draft: Self, plan: FitPlan, monitors: Sequence[Monitor], interrupts: Interrupts
    ) -> None:
        """Run the solver to its end; then, whatever ended it, keep the best of what was reached."""
        run = plan.run
        try:
            follow(plan.solver.states(plan.objective, run.state), run, monitors, interrupts)
            run.n_finished = max(run.n_finished, 1)  # to go on from here is what was asked for
        finally:
            if run.n_finished:
                draft._store(run, plan.solver)
                self._take_over(draft)
        self._look_back(plan)
        for message in run.messages:
            warnings.warn(message, ConvergenceWarning, stacklevel=6)

    def _look_back(self, plan: FitPlan) -> None:
        """Note if nothing was learned: nearly all images are taken for the largest class."""
        share = plan.largest_share
        accuracy = plan.run.state.training_accuracy
        is_long = len(plan.run.rows) >= FEWEST_ITERATIONS
        if is_long and accuracy <= share + NOTHING_LEARNED * (1 - share):
            message = (
                f"Nothing was learned: {accuracy:.1%} of the training images are classified rightly, and the "
                f"largest class has {share:.1%} of them."
            )
            strength = plan.objective.C  # that of the images of all processes
            if strength < SMALLEST_C_TIMES_IMAGES:
                message += (
                    f" C times the number of images is {strength:.3g}, with which the regularisation can "
                    "outweigh the images: the objective is then smallest where all outputs are alike. "
                    f'Raise C to {SMALLEST_C_TIMES_IMAGES / strength * self.C_:.2g}, or set C="auto".'
                )
            if self.scaler_ is None:
                message += " If the images are not scaled, pass scale=True, or scale them to [0, 1]."
            plan.run.messages.append(message)

    def _validation_monitors(self, validation: ImageSet | None, objective: Objective) -> list[Monitor]:
        if validation is None:
            return []
        self._warn_of_pixels(validation.images, "X_val")
        data = Images(
            self.network_,
            self._scaled(validation.images),
            torch.from_numpy(validation.labels),
            backend=objective.backend,
            batch_size=self.batch_size,
            ranks=objective.ranks,
            shard=objective.shard,
        )

        def accuracy(theta: Tensor) -> float:
            def part(span: Span, _: float) -> Contribution:
                batch = data.read(span, theta.dtype)
                z = forward(self.network_, theta, batch.images, objective.backend)
                assert batch.labels is not None
                return Contribution(hits=float((z.argmax(1) == batch.labels).sum()))

            with torch.inference_mode():
                return data.weighted_sum(data.spans(theta.dtype), part).hits / len(data)

        stop = [EarlyStopping(self.n_iter_no_change)] if self.early_stopping else []
        score = None if self.scoring is None else self._scorer(validation)
        return [Validation(accuracy, score), *stop]

    def _scorer(self, validation: ImageSet) -> Callable[[Tensor], float]:
        """Score of parameters by `scoring`, on images to validate on."""
        scorer = get_scorer(self.scoring)
        images = validation.images[:]  # once: scorers take arrays
        labels = self.classes_[validation.labels]
        if self._ranks is not None and self._is_given:
            images, labels = (np.concatenate(self._ranks.gather(own)) for own in (images, labels))

        def score(theta: Tensor) -> float:
            model = self._draft()
            model.theta_ = _to_numpy(theta)
            return float(scorer(model, images, labels))

        return score

    def _scikit_callbacks(self, draft: Self, X: Any, y: Any, sample_weight: Any) -> list[Monitor]:
        """Callbacks of scikit-learn's own protocol, where the installed version has it."""
        if not hasattr(self, "set_callbacks"):
            return []
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        data = {"X": X, "y": y, "metadata": metadata}

        def fitted(run: Run) -> dict[str, Any]:
            known = {name: value for name, value in vars(draft).items() if name in FITTED}
            return known | {"theta_": _to_numpy(run.theta)}

        return [ScikitCallbacks(self, self._most_iterations(), data, fitted)]

    def _progress(self, objective: Objective, solver: Solver[Any]) -> list[Monitor]:
        return [Progress(self._title(objective, solver), solver.last)] if self.verbose else []

    def _title(self, objective: Objective, solver: Solver[Any]) -> str:
        """Say in one line what is fitted and how."""
        name = self.network if isinstance(self.network, str) else "network"
        backend = objective.backend
        parts = [
            f"{name} of {self.network_.n_parameters:,} parameters",
            f"{objective.n_images:,} images",
            *solver.describe(objective),
            f"{backend.name} on {backend.device} ({backend.precision})",
        ]
        return ", ".join(parts)

    def _checkpoints(self, plan: FitPlan, interrupts: Interrupts) -> list[Monitor]:
        if self.checkpoint is None:
            return []
        digest, around = fingerprint(plan.data, plan.validation), circumstances(self)
        path = own_path(self, digest)

        def save(run: Run) -> None:
            model = self._draft()
            model._store(run, plan.solver)
            best = None if run.best_theta is None else _to_numpy(run.best_theta)
            state = state_fields(run.state)
            seeds = asdict(plan.seeds)
            saved = SavedRun(state, run.history, run.n_earlier, best, seeds, digest, around)
            save_checkpoint(model, saved, path)

        return [Checkpoint(save, self.checkpoint_every, interrupts, claim(path))]

    def _store(self, run: Run, solver: Solver[Any]) -> None:
        """Set the fitted attributes."""
        self.theta_ = _to_numpy(run.theta)
        self.n_iter_ = run.state.iteration
        history = run.history
        names = dict.fromkeys([*solver.state_type.columns, *(name for row in history for name in row)])
        self.history_ = {name: np.array([row.get(name, math.nan) for row in history]) for name in names}
        if run.best is not None and run.score is not None:
            self.best_iteration_ = int(run.best["iteration"])
            self.best_score_ = float(run.best[run.score])
        for name, value in solver.fitted(run.state).items():
            setattr(self, name, value)


def _to_numpy(theta: Tensor) -> Array:
    return theta.detach().cpu().numpy().copy()

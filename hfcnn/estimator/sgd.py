"""`SGDCNNClassifier`: Algorithm 2 as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hfcnn.estimator.base import CNNClassifier
from hfcnn.estimator.labels import Array
from hfcnn.estimator.parameters import COMMON, Check, count, not_negative, positive
from hfcnn.estimator.solvers import Solver, newest
from hfcnn.objective import Objective
from hfcnn.sgd import SGDOptions, SGDState, sgd, start

__all__ = ["SGDCNNClassifier", "StochasticGradient"]


class SGDCNNClassifier(CNNClassifier):
    """A convolutional network trained by stochastic gradients with momentum, Algorithm 2.

    The same network, objective and arguments as `NewtonCNNClassifier`, to compare it with. Wang, Tan & Lin
    (2020), "Newton methods for convolutional neural networks", Sec. 6.2.

    Parameters
    ----------
    network : {"cnn3", "cnn5"} or list of Conv and Dense, default="cnn3"
        The layers, without the linear output layer. The presets are those of Table 4; on images too small
        for them their pooling windows are cut, so that they fit any.
    C : float or "auto", default="auto"
        Inverse strength of the regularisation, as in `sklearn.svm.LinearSVC`: what is minimised is half the
        squared length of the parameters plus C times the sum of the losses of the images. "auto" is the
        paper's 0.01 for 10,000 images and more (Sec. 6.1), and 100 divided by the number of images for
        fewer: with less than that, small sets are regularised until nothing is left to learn.
    loss : {"squared", "cross_entropy"}, default="squared"
        What an image costs by its outputs: "squared" is their squared distance from the one-hot vector of
        its class, as in the paper (Sec. 2.2); "cross_entropy" is the usual loss of neural networks.
    scale : bool or "auto", default="auto"
        Whether the images are scaled as in the paper before anything else: each to [0, 1] by its own smallest
        and largest value, less the mean training image (see `ImageScaler`); `predict` then does the same.
        "auto" scales images of an integer type, and others whose values are whole numbers from 0 on: raw
        pixels.
    learning_rate : float, default=0.003
        First step size eta_0.
    momentum : float, default=0.9
        Share of the last update in the next.
    decay : float, default=1e-6
        gamma: the step size is eta_0 / (1 + gamma t) after t steps.
    sgd_batch_size : int, default=128
        Images a step.
    max_iter : int, default=100
        Epochs, that is passes over the images.
    image_shape : (int, int), (int, int, int) or None, default=None
        (height, width) or (height, width, channels) of flat images. Without it flat images are square and
        gray where their number of values is a perfect square, and else one row of values.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, by which those of their images are multiplied.
    early_stopping : bool, default=False
        Whether to put a share of the images aside, stop when their accuracy no longer improves, and keep
        the parameters of the best one.
    validation_fraction : float, default=0.1
        Share of each class that is put aside.
    n_iter_no_change : int, default=10
        Iterations without improvement after which to stop.
    scoring : str, callable or None, default=None
        What `early_stopping` goes by: the name of a scorer of scikit-learn, such as "f1_macro", or a function
        of (estimator, X, y); None is the accuracy.
    warm_start : bool, default=False
        Whether `fit` goes on from the parameters of the fit before, for `max_iter` more iterations.
    callbacks : callable, list of callables or None, default=None
        Called after each iteration with a dict of its row of `history_`; returning True stops the fit.
    checkpoint : str, path or None, default=None
        File from which `fit` can resume, written as it goes.
    checkpoint_every : int, default=1
        Iterations between writes.
    backend : {"auto", "torch", "triton"}, default="auto"
        Implementation of the layer operations; "auto" is triton on a GPU and torch elsewhere.
    device : str, default="auto"
        Device of torch; "auto" is the GPU if there is one.
    precision : {"auto", "ieee", "tf32", "tf32x3", "bf16"}, default="auto"
        Arithmetic of products on float32 data: see `hfcnn.backend.get_backend`.
    batch_size : int or None, default=None
        Images that go through the network at once, for memory only; None suits the device.
    n_jobs : int or None, default=None
        CPU threads of torch; -1 is all processors, None leaves the number to torch. Rounding differs
        between numbers of threads: the same number gives the same bits, in worker processes too.
    random_state : int, RandomState or None, default=None
        Seed of the first parameters, of the subsets and of the images put aside.
    verbose : int, default=0
        Whether to print a row an iteration; on a terminal also the time that remains.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        Labels of the classes, sorted.
    image_shape_ : (int, int, int)
        (H, W, C) of the images.
    network_ : Network
        The layers with their shapes.
    C_ : float
        C of the newest fit, where "auto" has become a number.
    scaler_ : ImageScaler or None
        What scales the images before the network; None where they are taken as they are.
    theta_ : ndarray of shape (n,)
        Parameters; float64 if the images are, float32 otherwise.
    n_iter_ : int
        Iterations done, over all fits that went on from one another.
    n_features_in_ : int
        Values of an image.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if the images came as a data frame whose columns are named by strings.
    best_iteration_, best_score_ : int, float
        Iteration that the parameters are of, and its score on the images put aside; only after a fit with
        `early_stopping`.
    history_ : dict of ndarray
        A column for each number of an iteration, an entry an iteration: iteration, f, gradient_norm,
        learning_rate, seconds, passes (over the images), training_accuracy. f and training_accuracy are
        means over the epoch's steps,
        and validation_accuracy where there was something to validate on.
    velocity_ : ndarray of shape (n,)
        Last update.
    n_steps_ : int
        Steps done.

    See Also
    --------
    NewtonCNNClassifier : The same network, trained without a learning rate.

    Notes
    -----
    An interrupted fit (Ctrl-C) leaves the model of the last finished iteration, or of the best one under
    `early_stopping`, and warns; so does one whose objective is not finite.
    Images are NHWC. They are never copied as a whole: integers stay integers until their batch is due, and
    images on disk stay there.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from hfcnn import Conv, SGDCNNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> network = [Conv(8, 3, pool=2), Conv(16, 3, pool=2)]
    >>> classifier = SGDCNNClassifier(
    ...     network, C=1, loss="cross_entropy", learning_rate=0.1, max_iter=10, random_state=0
    ... )
    >>> classifier.fit(X / 16, y).score(X / 16, y) > 0.9
    True
    """

    velocity_: Array
    n_steps_: int

    def __init__(
        self,
        network: Any = "cnn3",
        *,
        C: float | str = "auto",
        loss: str = "squared",
        scale: bool | str = "auto",
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
        scoring: Any = None,
        warm_start: bool = False,
        callbacks: Any = None,
        checkpoint: Any = None,
        checkpoint_every: int = 1,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | None = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.network = network
        self.C = C
        self.loss = loss
        self.scale = scale
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
        self.scoring = scoring
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.backend = backend
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    _checks: ClassVar[dict[str, Check]] = COMMON | {
        "learning_rate": positive,
        "momentum": not_negative,
        "decay": not_negative,
        "sgd_batch_size": count,
    }

    def _solver(self, objective: Objective, first: int, seed: int) -> Solver[Any]:
        return StochasticGradient(self, first, seed)


class StochasticGradient(Solver[SGDState]):
    """Stochastic gradients with momentum as a classifier's solver."""

    state_type = SGDState

    def __init__(self, classifier: Any, first: int, seed: int) -> None:
        self.last = first + classifier.max_iter
        self.options = SGDOptions(
            learning_rate=classifier.learning_rate,
            momentum=classifier.momentum,
            decay=classifier.decay,
            batch_size=classifier.sgd_batch_size,
            max_epochs=self.last,
            seed=seed,
        )

    def start(self, objective: Objective, theta: Tensor) -> SGDState:
        """State before the first epoch."""
        return start(theta, self.options)

    def go_on(self, objective: Objective, theta: Tensor, classifier: Any) -> SGDState:
        """State before the next epoch of a fitted classifier: velocity and steps go on too."""
        return replace(
            self.start(objective, theta),
            iteration=classifier.n_iter_,
            velocity=torch.from_numpy(classifier.velocity_.copy()).to(theta),
            n_steps=classifier.n_steps_,
            f=newest(classifier, "f"),
            seconds=newest(classifier, "seconds"),
        )

    def states(self, objective: Objective, state: SGDState) -> Iterator[SGDState]:
        """Iterate by Algorithm 2."""
        return sgd(objective, state.theta, self.options, state=state)

    def fitted(self, state: SGDState) -> dict[str, Any]:
        """The last update and the number of steps."""
        return {"velocity_": state.velocity.cpu().numpy().copy(), "n_steps_": state.n_steps}

    def describe(self, objective: Objective) -> list[str]:
        """Size of a mini-batch."""
        return [f"|S| = {min(self.options.batch_size, objective.n_images):,}"]

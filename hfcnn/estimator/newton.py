"""`NewtonCNNClassifier`: Algorithm 1 as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from hfcnn.cuda_graph import graph_capture
from hfcnn.estimator.base import CNNClassifier
from hfcnn.estimator.parameters import (
    COMMON,
    Check,
    choice,
    count,
    integer,
    not_negative,
    positive,
    sampling_rate,
)
from hfcnn.estimator.solvers import Solver, newest
from hfcnn.newton import NewtonOptions, NewtonState, newton, start
from hfcnn.objective import Objective
from hfcnn.sampling import SAMPLINGS, subsample_size

__all__ = ["NewtonCG", "NewtonCNNClassifier"]


class NewtonCNNClassifier(CNNClassifier):
    """A convolutional network trained by the subsampled Gauss-Newton method, Algorithm 1.

    There is no learning rate, and the objective never rises. Defaults are those of Section
    6.2. Wang, Tan & Lin (2020), "Newton methods for convolutional neural networks".

    Parameters
    ----------
    network : {"cnn3", "cnn5"} or list of Conv and Dense, default="cnn3"
        The layers, without the linear output layer. The presets are those of Table 4; on images too small
        for them their pooling windows are cut, so that they fit any.
    C : float, default=0.01
        Inverse strength of the regularisation, as in `sklearn.svm.LinearSVC`: the objective is
        theta^T theta / 2 + C times the sum of the losses, divided by C l. So 0.01 is the paper's
        C = 0.01 l (Sec. 6.1); a few hundred images need more, about 1.
    loss : {"squared", "cross_entropy"}, default="squared"
        Loss of the outputs; the paper's is (26).
    sampling_rate : float, int or "auto", default="auto"
        Images over which the Gauss-Newton matrix is averaged: a share, a number, or the paper's 5 % but
        at least 256.
    sampling : {"random", "cycle"}, default="random"
        Whether each iteration draws its subset afresh, or takes the next block of a permutation.
    max_iter : int, default=100
        Iterations.
    tol : float, default=0.0
        Norm of the gradient at which to stop.
    cg_tol : float, default=0.1
        Relative residual at which conjugate gradients stop (90).
    cg_max_iter : int, default=250
        Most conjugate-gradient iterations.
    damping : float, default=1.0
        First lambda of (36).
    gauss_newton : {"auto", "rop", "jacobian"}, default="auto"
        Form of the Gauss-Newton product: by the R-operator, or by the stored Jacobian of Section 3.3.
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
    memory : int or "auto", default="auto"
        Bytes that may be kept between Gauss-Newton products; "auto" is a quarter of what is free.
    cuda_graph : bool or "auto", default="auto"
        Whether a CG step is captured in a CUDA graph and replayed; "auto" does so on a CUDA GPU, and what
        cannot be captured runs as it is.
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
    theta_ : ndarray of shape (n,)
        Parameters; float64 if the images are, float32 otherwise.
    n_iter_ : int
        Iterations done, over all fits that went on from one another.
    n_features_in_ : int
        Values of an image.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if the images came as a data frame whose columns are named by strings.
    history_ : dict of ndarray
        A column for each number of an iteration, an entry an iteration: iteration, f, gradient_norm,
        damping, rho, step, cg_iterations, n_trials, seconds, passes (over the images), training_accuracy,
        and validation_accuracy where there was something to validate on.
    damping_ : float
        lambda of the iteration to come.

    See Also
    --------
    SGDCNNClassifier : The same network, trained by stochastic gradients.

    Notes
    -----
    An interrupted fit (Ctrl-C) leaves the model of the last finished iteration, or of the best one under
    `early_stopping`, and warns; so does one whose objective is not finite.
    Images are NHWC. They are never copied as a whole: integers stay integers until their batch is due, and
    images on disk stay there.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from hfcnn import Conv, NewtonCNNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> network = [Conv(8, 3, pool=2), Conv(16, 3, pool=2)]
    >>> classifier = NewtonCNNClassifier(network, C=1, max_iter=10, random_state=0).fit(X / 16, y)
    >>> classifier.score(X / 16, y) > 0.9
    True
    """

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
        cuda_graph: bool | str = "auto",
        n_jobs: int | None = None,
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
        self.cuda_graph = cuda_graph
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    _checks: ClassVar[dict[str, Check]] = COMMON | {
        "sampling_rate": sampling_rate,
        "sampling": choice(*SAMPLINGS),
        "tol": not_negative,
        "cg_tol": positive,
        "cg_max_iter": count,
        "damping": not_negative,
        "gauss_newton": choice("auto", "rop", "jacobian"),
        "memory": integer(0, expected='a number of bytes from 0 on, or "auto"', auto="auto"),
        "cuda_graph": choice(True, False, "auto"),
    }

    def _check_parameters(self) -> None:
        super()._check_parameters()
        graph_capture(self._get_backend().device, self.cuda_graph)

    def _solver(self, objective: Objective, first: int, seed: int) -> Solver[Any]:
        return NewtonCG(self, first, seed)


class NewtonCG(Solver[NewtonState]):
    """The subsampled Newton method as a classifier's solver."""

    state_type = NewtonState

    def __init__(self, classifier: Any, first: int, seed: int) -> None:
        self.last = first + classifier.max_iter
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
            next_damping=classifier.damping_,
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

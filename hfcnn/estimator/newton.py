"""`NewtonCNNClassifier`: Gauss-Newton methods as a scikit-learn classifier."""

from __future__ import annotations

from typing import Any, ClassVar

from hfcnn.augmentation import AUGMENTATIONS
from hfcnn.cuda_graph import graph_capture
from hfcnn.estimator.base import CNNClassifier
from hfcnn.estimator.images import ImageSet
from hfcnn.estimator.kfac import KFAC
from hfcnn.estimator.labels import Array
from hfcnn.estimator.newton_cg import DEFAULT_ITERATIONS, NewtonCG
from hfcnn.estimator.parameters import (
    COMMON,
    Check,
    auto_C,
    auto_loss,
    check_length,
    choice,
    count,
    integer,
    loss_or_auto,
    not_negative,
    positive,
    sampling_rate,
)
from hfcnn.estimator.solvers import Solver
from hfcnn.loss import Loss, get_loss
from hfcnn.objective import Objective
from hfcnn.sampling import SAMPLINGS

__all__ = ["NewtonCNNClassifier"]


class NewtonCNNClassifier(CNNClassifier):
    """A convolutional network trained by Gauss-Newton methods: there is no learning rate to tune.

    There are two solvers. "kfac", the default, takes steps on small batches of images, in directions that
    allow for how the objective curves, as long as it measures that they should be; it is the faster one.
    "newton-cg" is the subsampled Newton method of Wang, Tan & Lin (2020), "Newton methods for convolutional
    neural networks", Algorithm 1 with the defaults of its Section 6.2. With both the objective never rises
    from one epoch, or iteration, to the next.

    Below, l is the number of training images, H, W and C the height, width and channels of an image, K the
    number of classes, and S the subset of the images by which an iteration of Newton-CG measures curvature.

    Parameters
    ----------
    network : {"cnn3", "cnn5"} or list of Conv and Dense, default="cnn3"
        The layers, without the linear output layer. The presets are those of Table 4; on images too small
        for them their pooling windows are cut, so that they fit any.
    solver : {"auto", "newton-cg", "kfac"}, default="auto"
        How the objective is minimised: "kfac" by many steps on small batches, in epochs, each of which reads
        all images once; "newton-cg" by iterations that each read all images several times. "auto" is
        "newton-cg" if `max_iter` is set, which is that solver's, and else "kfac".
    C : float or "auto", default="auto"
        Inverse strength of the regularisation, as in `sklearn.svm.LinearSVC`: what is minimised is half the
        squared length of the parameters plus C times the sum of the losses of the images. "auto" is the
        paper's 0.01 for Newton-CG (Sec. 6.1) and 0.03 for kfac, but at least 100 divided by the number of
        images (kfac with "cross_entropy" 300): with much less, regularisation outweighs them.
    loss : {"auto", "squared", "cross_entropy"}, default="auto"
        What the network's outputs are compared with the labels by: "squared" is the squared distance to one
        for the label and zero for the other classes, the paper's (26), "cross_entropy" the negative logarithm
        of the label's probability. "auto" is "squared" for Newton-CG and for fits to at most 300 images, of
        which it mostly learns more, and "cross_entropy" for kfac on more images.
    scale : bool or "auto", default="auto"
        Whether the images are scaled as in the paper before anything else: each to [0, 1] by its own smallest
        and largest value, less the mean training image (see `ImageScaler`); `predict` then does the same.
        "auto" scales images of an integer type, and others whose values are whole numbers from 0 on: raw
        pixels.
    sampling_rate : float, int or "auto", default="auto"
        Newton-CG only: size of S, the images over which an iteration averages the Gauss-Newton matrix, its
        model of curvature. A share of the images, a number, or "auto": 5 %, the paper's, but at least 256.
    sampling : {"random", "cycle"}, default="random"
        Whether each iteration draws S afresh, or S goes through the images in turn, in an order drawn once.
    max_iter : int or None, default=None
        Iterations of Newton-CG; None is 100.
    epochs : int or "auto", default="auto"
        Passes of kfac over the training images. "auto" ends the fit once the objective has not fallen by 2 %
        in two epochs, or 40 steps if those are more, at the latest after 10, or 400 steps if those are more.
    augment : {"shift", "shift+flip"} or None, default=None
        How kfac changes training images at random before each use: "shift" moves them by up to an eighth of
        their sides, "shift+flip" also mirrors half of them, left for right. Not for Newton-CG, which must sum
        over the same images each time.
    tol : float, default=0.0
        Newton-CG stops once the norm of the gradient is no more than this.
    cg_tol : float, default=0.1
        How exactly Newton-CG solves for a direction by conjugate gradients (CG): until what is left of the
        equation, its residual, is this share of the gradient's norm (the paper's (90)).
    cg_max_iter : int, default=250
        Most steps of CG in an iteration.
    damping : float, default=1.0
        What Newton-CG adds to the diagonal of the Gauss-Newton matrix (the paper's lambda, (36)) at first;
        it adapts. A larger one makes the first steps shorter.
    gauss_newton : {"auto", "rop", "jacobian"}, default="auto"
        How Newton-CG multiplies by the Gauss-Newton matrix: "jacobian" stores the derivatives of the outputs
        (Section 3.3), "rop" keeps nothing of them; the products are the same. "auto" is the faster one.
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
        Whether `fit` goes on from the parameters of the fit before, for `max_iter` more iterations or
        `epochs` more epochs. kfac also goes on with its averages, unless the classifier was read from a file,
        which holds only the network's parameters.
    callbacks : callable, list of callables or None, default=None
        Called after each iteration or epoch with its row of `history_`, a dict; returning True ends the fit.
    checkpoint : str, path or None, default=None
        File written as the fit goes; ``fit(..., resume_from=checkpoint)`` goes on from it.
    checkpoint_every : int, default=1
        Iterations, or epochs, from one write to the next.
    backend : {"auto", "torch", "triton"}, default="auto"
        What computes the layers: torch, or kernels written in Triton. "auto" is Triton on a GPU where it is
        installed, and torch elsewhere.
    device : str, default="auto"
        Device of torch; "auto" is the GPU if there is one.
    precision : {"auto", "ieee", "tf32", "tf32x3", "bf16"}, default="auto"
        Arithmetic on float32 images: "ieee" is exact, the others are faster and coarser where the processor
        has them: see `hfcnn.backend.get_backend`.
    batch_size : int or None, default=None
        Images that go through the network at once, for memory only; None suits the device.
    memory : int or "auto", default="auto"
        Bytes that Newton-CG may keep from one product with the Gauss-Newton matrix to the next, which makes
        them faster; "auto" is a quarter of what is free.
    cuda_graph : bool or "auto", default="auto"
        Whether a CG step is recorded as a CUDA graph and replayed, to launch it faster; "auto" does so on a
        CUDA GPU, and what cannot be recorded runs as it is.
    n_jobs : int or None, default=None
        CPU threads of torch; -1 is all processors, None leaves the number to torch. Rounding differs
        between numbers of threads: the same number gives the same bits, in worker processes too.
    random_state : int, RandomState or None, default=None
        Seed of all that is drawn: first parameters, batches, S, and the images put aside.
    verbose : int, default=0
        Whether to print a row an iteration or epoch; on a terminal also the time that remains.

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
    solver_ : {"newton-cg", "kfac"}
        The solver that was chosen.
    loss_ : str
        Name of the loss of the newest fit, where "auto" has become one.
    n_iter_ : int
        Iterations or epochs done, over all fits that went on from one another.
    n_features_in_ : int
        Values of an image.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if the images came as a data frame whose columns are named by strings.
    best_iteration_, best_score_ : int, float
        Iteration that the parameters are of, and its score on the images put aside; only after a fit with
        `early_stopping`.
    history_ : dict of ndarray
        A column for each number of an iteration, an entry per iteration. Of Newton-CG: iteration, f,
        gradient_norm, damping, rho, step, cg_iterations, n_trials, seconds, passes (over the images),
        training_accuracy. Of the stochastic solver: iteration, f and training_accuracy (on at most 4,096 of
        the training images), step (mean length), gradient_images (per step), n_returns (times it went back
        to its averaged parameters), seconds, passes. With images to validate on: validation_accuracy.
    damping_ : float
        Newton-CG only: lambda of the iteration to come.

    See Also
    --------
    SGDCNNClassifier : The same network, trained by stochastic gradients.

    Notes
    -----
    An interrupted fit (Ctrl-C) leaves the model of the last finished iteration, or of the best one under
    `early_stopping`, and warns; so does one whose objective is not finite.
    Images are NHWC, never copied as a whole: integers stay integers, and files on disk, until a batch is due.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from hfcnn import Conv, NewtonCNNClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> network = [Conv(8, 3, pool=2), Conv(16, 3, pool=2)]
    >>> classifier = NewtonCNNClassifier(network, C=1, random_state=0).fit(X / 16, y)
    >>> classifier.score(X / 16, y) > 0.9
    True
    """

    solver_: str
    loss_: str
    damping_: float

    def __init__(
        self,
        network: Any = "cnn3",
        *,
        solver: str = "auto",
        C: float | str = "auto",
        loss: str = "auto",
        scale: bool | str = "auto",
        sampling_rate: float | int | str = "auto",
        sampling: str = "random",
        max_iter: int | None = None,
        epochs: int | str = "auto",
        augment: str | None = None,
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
        scoring: Any = None,
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
        self.solver = solver
        self.C = C
        self.loss = loss
        self.scale = scale
        self.sampling_rate = sampling_rate
        self.sampling = sampling
        self.max_iter = max_iter
        self.epochs = epochs
        self.augment = augment
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
        self.scoring = scoring
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
        "solver": choice("auto", "newton-cg", "kfac"),
        "loss": loss_or_auto,
        "max_iter": integer(1, expected="None or an integer from 1 on", unset=None),
        "augment": choice(None, *AUGMENTATIONS),
        "epochs": integer(1, expected='an integer from 1 on, or "auto"', auto="auto"),
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
        check_length(self.solver, self.max_iter, self.epochs)
        if self.augment is not None and self._chosen_solver() == "newton-cg":
            raise ValueError(f'augment={self.augment!r} is of solver="kfac", and the solver is "newton-cg"')

    def _chosen_solver(self) -> str:
        """Name of the solver that the parameters mean."""
        if self.solver == "auto":
            return "kfac" if self.max_iter is None else "newton-cg"
        return self.solver

    def _loss_function(self) -> Loss:
        if self.loss != "auto":
            return get_loss(self.loss)
        # model files may be older than loss_
        return get_loss(getattr(self, "loss_", "squared" if self.solver_ == "newton-cg" else "cross_entropy"))

    def _solver(self, objective: Objective, first: int, seed: int) -> Solver[Any]:
        if self.solver_ == "newton-cg":
            return NewtonCG(self, first, seed)
        return KFAC(self, first, seed, objective.n_images)

    def _begin(self, images: Array, classes: Array, *, go_on: bool) -> None:
        super()._begin(images, classes, go_on=go_on)
        before = getattr(self, "solver_", None)
        self.solver_ = self._chosen_solver()
        if before != self.solver_:
            self.__dict__.pop("_training", None)
            self.__dict__.pop("loss_", None)

    def _prepare_numbers(self, data: ImageSet, *, go_on: bool) -> None:
        if self.loss != "auto":
            self.loss_ = self._loss_function().name
        elif not hasattr(self, "loss_"):
            self.loss_ = auto_loss(self.solver_, self._n_images(data))
        super()._prepare_numbers(data, go_on=go_on)

    def _auto_C(self, total_weight: float) -> float:
        return auto_C(self.solver_, self.loss_, total_weight)

    def _limit_to_one_iteration(self) -> None:
        if self.solver_ == "newton-cg":
            self.max_iter = 1
        else:
            self.epochs = 1

    def _most_iterations(self) -> int | None:
        if self._chosen_solver() == "newton-cg":
            return self.max_iter or DEFAULT_ITERATIONS
        return None if self.epochs == "auto" else int(self.epochs)

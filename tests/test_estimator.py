"""The classifiers as a user meets them: input, learning, going on, stopping."""

import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import estimator_html_repr, get_tags
from small import BOTH, NETWORK, digits, newton, sgd

from hfcnn import Conv, Dense, Network, NewtonCNNClassifier

X, y = digits()


# Input


@pytest.mark.parametrize(
    "images",
    [
        X[..., np.newaxis],
        X.reshape(len(X), -1),
        X.tolist(),
        torch.from_numpy(X),
        torch.from_numpy(X).requires_grad_(),
        pd.DataFrame(X.reshape(len(X), -1)),
        np.asfortranarray(X),
        X.astype(">f4"),
        np.repeat(X, 2, axis=2)[:, :, ::2],
    ],
    ids=[
        "nhwc",
        "flat",
        "list",
        "tensor",
        "tensor with gradient",
        "frame",
        "fortran",
        "big-endian",
        "strided",
    ],
)
def test_every_form_of_the_images_gives_the_same_model(images):
    dtype = np.float64 if isinstance(images, list) else np.float32
    expected = newton().fit(X.astype(dtype), y)
    classifier = newton().fit(images, y)
    np.testing.assert_array_equal(classifier.theta_, expected.theta_)
    np.testing.assert_array_equal(classifier.predict(images), expected.predict(X))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (np.uint8, np.float32),
        (np.int64, np.float32),
        (np.uint16, np.float32),
        (bool, np.float32),
        (np.longdouble, np.float64),
        (object, np.float64),
    ],
)
def test_dtype_follows_the_images(dtype, expected):
    classifier = newton(max_iter=1).fit((X > 0.5).astype(dtype), y)
    assert classifier.theta_.dtype == expected
    assert classifier.decision_function((X > 0.5).astype(dtype)).dtype == expected


def test_bfloat16_tensors_are_taken_as_float32():
    assert newton(max_iter=1).fit(torch.from_numpy(X).bfloat16(), y).theta_.dtype == np.float32


@pytest.mark.parametrize(
    ("n_features", "image_shape", "expected"),
    [
        (64, None, (8, 8, 1)),
        (12, None, (1, 12, 1)),
        (12, (3, 4), (3, 4, 1)),
        (12, [2, 2, 3], (2, 2, 3)),
        (1, None, (1, 1, 1)),
    ],
)
def test_shape_of_flat_images(n_features, image_shape, expected):
    flat = X.reshape(len(X), -1)[:, :n_features]
    classifier = newton(network="cnn3", image_shape=image_shape, max_iter=1).fit(flat, y)
    assert classifier.image_shape_ == expected
    assert classifier.n_features_in_ == n_features


def test_colour_images():
    colour = np.random.default_rng(0).random((60, 9, 7, 3), dtype=np.float32)
    classifier = newton(image_shape=(9, 7, 3)).fit(colour, np.arange(60) % 3)
    flat = colour.reshape(60, -1)
    np.testing.assert_array_equal(classifier.predict(flat), classifier.predict(colour))


def test_feature_names_of_a_frame_are_kept_and_compared():
    frame = pd.DataFrame(X.reshape(len(X), -1), columns=[f"pixel{i}" for i in range(64)])
    classifier = newton(max_iter=1).fit(frame, y)
    assert classifier.feature_names_in_[1] == "pixel1"
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(frame[frame.columns[::-1]])
    assert not hasattr(classifier.fit(X, y), "feature_names_in_")


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (X[0, 0], ValueError, "Expected 2D array, got 1D array"),
        (X.reshape(10, 20, 2, 8, 4), ValueError, "must be of shape"),
        (X[:, np.newaxis], ValueError, r"channels-first.*transpose\(0, 2, 3, 1\)"),
        (csr_matrix(X.reshape(len(X), -1)), TypeError, "[Ss]parse"),
        (X.astype(complex), ValueError, "Complex data not supported"),
        (np.full(X.shape, {}, dtype=object), TypeError, "argument must be"),
        (np.where(X > 0.99, np.nan, X), ValueError, "Input X contains NaN"),
        (np.where(X > 0.99, np.inf, X), ValueError, "infinity"),
        (X[:0], ValueError, "Found array with 0 sample"),
        (X[:-1], ValueError, "inconsistent numbers of samples"),
    ],
    ids=["1-D", "5-D", "channels first", "sparse", "complex", "object", "nan", "inf", "empty", "shorter"],
)
def test_images_that_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        newton().fit(images, y)


def test_shape_is_compared_at_predict():
    classifier = newton(max_iter=1).fit(X, y)
    with pytest.raises(
        ValueError, match=r"shape \(7, 8, 1\), but NewtonCNNClassifier was fitted on .*\(8, 8, 1"
    ):
        classifier.predict(X[:, 1:])
    with pytest.raises(ValueError, match="X has 56 features, but NewtonCNNClassifier is expecting 64"):
        classifier.predict(X.reshape(len(X), -1)[:, 8:])
    with pytest.raises(ValueError, match=r"images of shape \(4, 16, 1\)"):
        classifier.predict(X.reshape(-1, 4, 16))
    with pytest.raises(ValueError, match=r"image_shape is \(8, 8, 1\)"):
        newton(image_shape=(8, 8)).fit(X.reshape(-1, 4, 16), y)
    with pytest.raises(ValueError, match=r"64 values per image, but image_shape \(4, 4, 3\) needs 48"):
        newton(image_shape=(4, 4, 3)).fit(X.reshape(len(X), -1), y)
    with pytest.raises(NotFittedError):
        newton().predict(X)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("how", ["plain", "early stopping", "zero weights"])
def test_images_on_disk_are_never_copied_as_a_whole(tmp_path, dtype, how):
    images = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", dtype, (40_000, 16, 16))
    rng = np.random.default_rng(0)
    images[:] = rng.integers(0, 2, images.shape)
    images.flush()
    labels = rng.integers(0, 3, len(images))
    images = np.load(tmp_path / "X.npy", mmap_mode="r")
    weight = (labels > 0).astype(float) if how == "zero weights" else None
    classifier = newton(
        network=[Conv(2, 3, pool=2)], max_iter=1, cg_max_iter=2, early_stopping=how == "early stopping"
    )
    tracemalloc.start()
    classifier.fit(images, labels, weight)
    peak_of_fit = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    classifier.predict(images)
    peak_of_predict = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    copied = 4 * images.size  # as float32, in which the network computes
    assert peak_of_fit < copied / 2  # batches, and labels
    assert peak_of_predict < copied / 2


def test_the_last_rows_are_checked_for_nan():
    images = np.zeros((200_000, 5, 5), np.float32)
    images[-1, -1, -1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        newton().fit(images, np.arange(len(images)) % 2)


@pytest.mark.parametrize(
    "labels",
    [
        np.where(y % 2 == 0, "even", "odd"),
        np.where(y % 2 == 0, "even", "odd").astype(object),
        y % 2 == 0,
        (y % 2 * 7 - 3).astype(np.int8),
        (y % 2).astype(float),
        torch.from_numpy(y),
        y.tolist(),
        pd.Series(y.astype(str)),
    ],
    ids=["str", "object", "bool", "int8", "float", "tensor", "list", "series"],
)
@pytest.mark.parametrize("make", BOTH)
def test_labels_of_any_type(make, labels):
    classifier = make().fit(X, labels)
    expected = np.unique(np.asarray(labels))
    np.testing.assert_array_equal(classifier.classes_, expected)
    assert classifier.classes_.dtype == expected.dtype
    assert set(classifier.predict(X)) <= set(expected)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        newton().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="requires y"):
        newton().fit(X, None)
    with pytest.raises(ValueError, match="Unknown label type"):
        newton().fit(X, np.linspace(0, 1, len(X)))


def test_networks_can_be_lists_tuples_and_networks():
    expected = newton().fit(X, y).theta_
    for network in (tuple(NETWORK), Network(NETWORK, (28, 28, 3), 2)):
        np.testing.assert_array_equal(newton(network=network).fit(X, y).theta_, expected)
    assert newton(network=[Dense(5)]).fit(X, y).network_.n_parameters == 5 * 65 + 10 * 6


# Learning


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_newton_learns(loss):
    images, labels = digits(600)
    classifier = newton(loss=loss, max_iter=15).fit(images[:500], labels[:500])
    assert classifier.score(images[:500], labels[:500]) > 0.95
    assert classifier.score(images[500:], labels[500:]) > 0.7
    assert (np.diff(classifier.history_["f"]) <= 0).all()
    assert classifier.n_iter_ == len(classifier.history_["f"]) == 15


def test_sgd_learns():
    classifier = sgd(loss="cross_entropy", learning_rate=0.1, max_iter=20).fit(X, y)
    assert classifier.score(X, y) > 0.95
    assert classifier.n_steps_ == 20 * 7


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("n_classes", [2, 10])
def test_probabilities_agree_with_predict(loss, n_classes):
    labels = y % n_classes
    classifier = newton(loss=loss).fit(X, labels)
    p = classifier.predict_proba(X)
    z = classifier.decision_function(X)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    assert (p >= 0).all()
    np.testing.assert_array_equal(classifier.classes_[p.argmax(1)], classifier.predict(X))
    if n_classes == 2:
        assert z.shape == (len(X),)
        np.testing.assert_array_equal(z > 0, classifier.predict(X) == 1)
    else:
        np.testing.assert_array_equal(z.argmax(1), classifier.predict(X))
        if loss == "cross_entropy":
            np.testing.assert_allclose(p, torch.softmax(torch.from_numpy(z), 1), rtol=1e-6)


def test_history_has_the_solvers_numbers():
    history = newton().fit(X, y).history_
    assert list(history) == [
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
    ]
    assert all(isinstance(column, np.ndarray) and column.shape == (3,) for column in history.values())
    np.testing.assert_array_equal(history["iteration"], [1, 2, 3])
    assert history["cg_iterations"].dtype == np.int64
    assert (np.diff(history["seconds"]) > 0).all()
    assert history["damping"][0] == 1.0
    frame = newton().fit(X, y).history_frame()
    assert frame.index.name == "iteration" and len(frame) == 3
    assert list(sgd().fit(X, y).history_)[3] == "learning_rate"


def test_regularisation_is_scikit_learns():
    classifier = newton(C=0.5, max_iter=1).fit(X, y)
    z = torch.from_numpy(classifier.decision_function(X))
    losses = (z - torch.nn.functional.one_hot(torch.from_numpy(y))).square().sum(1)
    f = (np.dot(classifier.theta_, classifier.theta_) / 2 + 0.5 * float(losses.sum())) / (0.5 * len(X))
    assert classifier.history_["f"][-1] == pytest.approx(f, rel=1e-5)


@pytest.mark.parametrize("make", BOTH)
def test_same_seed_same_bits(make):
    first, second, other = (make(random_state=seed).fit(X, y).theta_ for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    generator = np.random.RandomState(0)
    np.testing.assert_array_equal(make(random_state=generator).fit(X, y).theta_, first)
    assert (make(random_state=generator).fit(X, y).theta_ != first).any()


def test_batches_change_rounding_only():
    expected = newton(max_iter=1, cg_max_iter=3).fit(X, y)
    classifier = newton(max_iter=1, cg_max_iter=3, batch_size=7).fit(X, y)
    np.testing.assert_allclose(classifier.decision_function(X), expected.decision_function(X), atol=1e-3)


# Weights


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("ones", [np.ones(len(X)), 1.0, [1] * len(X), torch.ones(len(X))])
def test_weights_of_one_change_no_bit(make, ones):
    expected = make().fit(X, y)
    classifier = make().fit(X, y, ones)
    np.testing.assert_array_equal(classifier.theta_, expected.theta_)
    np.testing.assert_array_equal(classifier.history_["f"], expected.history_["f"])


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_integer_weights_are_repetition(loss):
    images, labels = digits(120, np.float64)
    weight = np.random.default_rng(0).integers(0, 4, len(images))
    classifier = newton(loss=loss, sampling_rate=1.0)
    weighted = clone(classifier).fit(images, labels, weight)
    repeated = clone(classifier).fit(np.repeat(images, weight, axis=0), np.repeat(labels, weight))
    np.testing.assert_allclose(weighted.theta_, repeated.theta_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(weighted.history_["f"], repeated.history_["f"], rtol=1e-9)
    np.testing.assert_allclose(
        weighted.history_["training_accuracy"], repeated.history_["training_accuracy"], rtol=1e-12
    )


@pytest.mark.parametrize("make", BOTH)
def test_images_of_weight_zero_are_as_if_absent(make):
    weight = np.where(y == 9, 0.0, 2.0)
    weighted = make().fit(X, y, weight)
    removed = make().fit(X[y != 9], y[y != 9], 2.0)
    np.testing.assert_array_equal(weighted.classes_, np.arange(9))
    np.testing.assert_array_equal(weighted.theta_, removed.theta_)


def test_class_weights_multiply_those_of_the_images():
    labels = np.minimum(y, 2)
    weight = np.random.default_rng(0).random(len(X)) + 0.5
    given = newton(class_weight={0: 2, 1: 1, 2: 0.5}).fit(X, labels, weight)
    expected = newton().fit(X, labels, weight * np.array([2, 1, 0.5])[labels])
    np.testing.assert_array_equal(given.theta_, expected.theta_)
    balanced = newton(class_weight="balanced").fit(X, labels)
    expected = newton().fit(X, labels, (len(X) / (3 * np.bincount(labels)))[labels])
    np.testing.assert_array_equal(balanced.theta_, expected.theta_)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones((len(X), 1)), "must be 1D"),
        (np.ones(3), r"sample_weight.shape == \(3,\)"),
        (-np.ones(len(X)), "negative"),
        (np.zeros(len(X)), "all are zero"),
        (np.full(len(X), np.nan), "NaN"),
    ],
)
def test_weights_that_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        newton().fit(X, y, weight)


# Going on and stopping


def test_warm_start_goes_on_with_the_damping():
    classifier = newton(warm_start=True).fit(X, y)
    f, damping = classifier.history_["f"][-1], classifier.damping_
    classifier.fit(X, y)
    assert classifier.n_iter_ == 6
    np.testing.assert_array_equal(classifier.history_["iteration"], np.arange(1, 7))
    assert classifier.history_["damping"][3] == damping
    assert classifier.history_["f"][3] <= f
    assert (np.diff(classifier.history_["seconds"]) > 0).all()
    assert (np.diff(classifier.history_["passes"]) > 0).all()
    with pytest.raises(ValueError, match="warm_start needs the classes"):
        classifier.fit(X, y % 3)
    assert newton().fit(X, y).fit(X, y).n_iter_ == 3


def test_warm_start_of_sgd_keeps_its_velocity():
    once = sgd(max_iter=4, momentum=0.9).fit(X, y)
    classifier = sgd(max_iter=2, warm_start=True).fit(X, y).fit(X, y)
    assert classifier.n_steps_ == once.n_steps_
    assert classifier.history_["learning_rate"][-1] == once.history_["learning_rate"][-1]
    np.testing.assert_array_equal(classifier.history_["passes"], [1, 2, 3, 4])


@pytest.mark.parametrize("make", BOTH)
def test_partial_fit_makes_one_iteration_a_call(make):
    classifier = make()
    for i in range(4):
        batch = slice(50 * i, 50 * i + 50)
        classifier.partial_fit(X[batch], y[batch], classes=np.arange(11) if i == 0 else None)
    assert classifier.n_iter_ == 4
    np.testing.assert_array_equal(classifier.history_["iteration"], [1, 2, 3, 4])
    assert classifier.decision_function(X).shape == (len(X), 11)
    if make is newton:
        assert classifier.history_["damping"][1] != 1.0


def test_partial_fit_equals_an_iteration_of_fit():
    by_parts = newton().partial_fit(X, y, classes=np.unique(y))
    np.testing.assert_array_equal(by_parts.theta_, newton(max_iter=1).fit(X, y).theta_)


def test_partial_fit_refuses():
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        newton().partial_fit(X, y)
    classifier = newton().partial_fit(X, y, classes=np.arange(10))
    with pytest.raises(ValueError, match="not the same as in the first call"):
        classifier.partial_fit(X, y, classes=np.arange(9))
    with pytest.raises(ValueError, match="labels that are no class"):
        classifier.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="balanced"):
        newton(class_weight="balanced").partial_fit(X, y, classes=np.arange(10))


@pytest.mark.parametrize("make", BOTH)
def test_validation_accuracy_is_recorded(make):
    classifier = make().fit(X[:150], y[:150], X_val=X[150:], y_val=y[150:])
    assert classifier.history_["validation_accuracy"][-1] == classifier.score(X[150:], y[150:])
    assert classifier.history_["training_accuracy"].shape == (3,)


def test_labels_to_validate_on_must_be_classes():
    with pytest.raises(
        ValueError, match=r"y_val holds labels that are no class .*: 5, 6, 7, 8, 9; the classes"
    ):
        newton().fit(X[y < 5], y[y < 5], X_val=X, y_val=y)
    with pytest.raises(ValueError, match="y_val holds labels that are no class .*'0', '1'"):
        newton().fit(X, y, X_val=X, y_val=y.astype(str))
    with pytest.raises(ValueError, match="X_val was passed without y_val"):
        newton().fit(X, y, X_val=X)
    with pytest.raises(ValueError, match="y_val was passed without X_val"):
        newton().fit(X, y, y_val=y)


@pytest.mark.parametrize("make", BOTH)
def test_early_stopping_restores_the_best_parameters(make):
    scores = iter([0.1, 0.3, 0.5, 0.4, 0.5, 0.2, 0.9])
    thetas = []

    class Scripted(type(make())):
        def _validation_monitors(self, validation, backend):
            monitors = super()._validation_monitors(validation, backend)
            monitors[0].accuracy = lambda theta: thetas.append(theta.numpy().copy()) or next(scores)
            return monitors

        __init__ = type(make()).__init__

    classifier = Scripted(**make(max_iter=20, early_stopping=True, n_iter_no_change=3).get_params()).fit(X, y)
    assert classifier.n_iter_ == 6
    np.testing.assert_array_equal(classifier.theta_, thetas[2])
    np.testing.assert_array_equal(classifier.history_["validation_accuracy"], [0.1, 0.3, 0.5, 0.4, 0.5, 0.2])


def test_early_stopping_puts_a_stratified_share_aside():
    seen = {}

    class Watched(NewtonCNNClassifier):
        def _objective(self, data):
            seen["train"] = data.labels
            return super()._objective(data)

        def _validation_monitors(self, validation, backend):
            seen["validation"] = validation.labels
            return super()._validation_monitors(validation, backend)

        __init__ = NewtonCNNClassifier.__init__

    parameters = newton(early_stopping=True, validation_fraction=0.25).get_params()
    classifier = Watched(**parameters).fit(X, y)
    assert len(seen["train"]) == 150 and len(seen["validation"]) == 50
    np.testing.assert_allclose(np.bincount(seen["validation"]), np.bincount(y) / 4, atol=1)
    assert classifier.history_["validation_accuracy"].shape == (3,)


def test_tolerance_ends_the_fit():
    classifier = newton(max_iter=10)
    norms = clone(classifier).fit(X, y).history_["gradient_norm"]
    assert clone(classifier).set_params(tol=norms[4]).fit(X, y).n_iter_ <= 5


def interrupt_at(iteration):
    def callback(record):
        if record["iteration"] == iteration:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("make", BOTH)
def test_an_interrupted_fit_keeps_its_model(make):
    with pytest.warns(ConvergenceWarning, match="Interrupted: the model is that of iteration 2"):
        classifier = make(callbacks=interrupt_at(2)).fit(X, y)
    assert classifier.n_iter_ == 2
    np.testing.assert_array_equal(classifier.theta_, make(max_iter=2).fit(X, y).theta_)


def test_interrupted_before_an_iteration_is_finished(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("hfcnn.estimator.newton_cg.newton", interrupted)
    with pytest.raises(KeyboardInterrupt):
        newton().fit(X, y)


def test_a_diverging_fit_keeps_the_last_finite_parameters():
    with pytest.warns(ConvergenceWarning, match="not finite at iteration"):
        classifier = sgd(learning_rate=10.0, max_iter=50).fit(X, y)
    assert np.isfinite(classifier.theta_).all()
    assert classifier.n_iter_ == len(classifier.history_["f"]) < 50


@pytest.mark.parametrize("make", BOTH)
def test_nothing_is_lost_where_there_is_no_place_to_start(make):
    with pytest.warns(ConvergenceWarning, match="not finite at iteration"):
        classifier = make(loss="squared").fit(X * 1e25, y)
    assert np.isfinite(classifier.theta_).all()
    assert classifier.n_iter_ == 0
    assert classifier.predict(X).shape == (len(X),)


def test_reaching_max_iter_is_no_reason_to_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newton(max_iter=1).fit(X, y)


# Surroundings


def test_import_and_construction_touch_no_gpu_and_nothing_optional():
    code = (
        "import sys, hfcnn, torch; hfcnn.NewtonCNNClassifier(); hfcnn.SGDCNNClassifier(device='cuda');"
        "assert not torch.cuda.is_initialized();"
        "bad = {'triton', 'hfcnn.kernels', 'matplotlib', 'onnx'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_tensor_stays_in_a_fitted_classifier():
    for make in BOTH:
        for value in vars(make().fit(X, y)).values():
            assert not isinstance(value, torch.Tensor)


def test_n_jobs_is_for_the_call_only():
    before = torch.get_num_threads()
    seen = []
    newton(n_jobs=2, callbacks=lambda record: seen.append(torch.get_num_threads())).fit(X, y).predict(X)
    assert set(seen) == {2} and torch.get_num_threads() == before


def test_html_and_tags():
    assert "NewtonCNNClassifier" in estimator_html_repr(newton())
    tags = get_tags(newton())
    assert tags.input_tags.two_d_array and tags.input_tags.three_d_array and not tags.input_tags.sparse

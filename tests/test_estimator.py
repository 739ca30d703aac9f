"""The classifiers as a user meets them: learning, weights, and what they leave behind."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils import estimator_html_repr, get_tags
from small import BOTH, digits, newton, sgd

X, y = digits()


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

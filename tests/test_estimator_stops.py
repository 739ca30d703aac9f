"""The classifiers as a user meets them: going on, stopping, being interrupted."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from small import BOTH, digits, newton, sgd

from hfcnn import NewtonCNNClassifier

X, y = digits()


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

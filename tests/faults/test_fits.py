"""Whatever ends a fit, the classifier is as it was, or fitted with the best that was reached."""

import multiprocessing
import os
import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from small import BOTH, digits, newton

from hfcnn import Conv

X, y = digits(100)


def fail_at(iteration, error=ZeroDivisionError):
    def callback(record):
        if record["iteration"] == iteration:
            raise error

    return callback


@pytest.mark.parametrize("make", BOTH)
def test_a_failed_refit_leaves_the_earlier_model_whole(make):
    classifier = make().fit(X, y)
    before, answers = dict(vars(classifier)), classifier.predict(X)
    for wrong in (
        lambda: classifier.set_params(callbacks=fail_at(1)).fit(X, (y + 3) % 10 * 7),
        lambda: classifier.set_params(callbacks=None, C=-1).fit(X[:, :6], y % 3),
        lambda: classifier.set_params(C=1.0).fit(X[:, :6] * np.nan, y % 3),
        lambda: classifier.set_params(network=[Conv(2, 3, pool=9)]).fit(X, y % 3),
        lambda: classifier.set_params(network=before["network"]).fit(X, y % 3, X_val=X, y_val=y),
        lambda: classifier.partial_fit(X, y + 1),
    ):
        with pytest.raises((ValueError, ZeroDivisionError)):
            wrong()
        assert {name for name in vars(classifier) if name.endswith("_")} == {
            name for name in before if name.endswith("_")
        }
        np.testing.assert_array_equal(classifier.predict(X), answers)


@pytest.mark.parametrize("make", BOTH)
def test_a_failed_first_fit_is_no_fit(make, tmp_path):
    classifier = make(callbacks=fail_at(1))
    with pytest.raises(ZeroDivisionError):
        classifier.fit(X, y)
    for use in (classifier.predict, classifier.predict_proba, lambda X: classifier.save(tmp_path / "model")):
        with pytest.raises(NotFittedError):
            use(X)
    assert not any(name.endswith("_") and not name.startswith("_") for name in vars(classifier))


@pytest.mark.parametrize("make", BOTH)
def test_an_error_after_some_iterations_stores_what_they_reached(make, tmp_path):
    classifier = make(max_iter=9, callbacks=fail_at(4), checkpoint=tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        classifier.fit(X, y)
    assert classifier.n_iter_ == len(classifier.history_["f"]) == 4
    np.testing.assert_array_equal(classifier.theta_, make(max_iter=4).fit(X, y).theta_)
    resumed = make(max_iter=9).fit(X, y, resume_from=tmp_path / "run")
    np.testing.assert_array_equal(resumed.theta_, make(max_iter=9).fit(X, y).theta_)


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_the_fit_goes_on(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hfcnn.persistence.write_atomically", full)
    with pytest.warns(RuntimeWarning, match="cannot be written: .*No space left") as caught:
        classifier = newton(checkpoint=tmp_path / "run").fit(X, y)
    assert len(caught) == 1 and classifier.n_iter_ == 3


def test_warnings_as_errors_lose_no_model():
    classifier = newton(max_iter=5)

    def interrupt(record):
        if record["iteration"] == 2:
            raise KeyboardInterrupt

    with warnings.catch_warnings(), pytest.raises(ConvergenceWarning):
        warnings.simplefilter("error")
        classifier.set_params(callbacks=interrupt).fit(X, y)
    assert classifier.n_iter_ == 2 and classifier.predict(X).shape == (100,)


@pytest.mark.parametrize("answer", [True, np.True_, np.array(True), torch.tensor(True)])
def test_any_true_stops(answer):
    assert newton(callbacks=lambda record: answer).fit(X, y).n_iter_ == 1


@pytest.mark.parametrize("answer", [None, 1, "yes", [0], np.array([True]), np.float64(1), torch.ones(2)])
def test_nothing_else_stops(answer):
    assert newton(callbacks=lambda record: answer).fit(X, y).n_iter_ == 3


def test_warm_start_with_another_network_is_refused():
    classifier = newton(warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="the parameter network is another"):
        classifier.set_params(network=[Conv(9, 3)]).fit(X, y)
    with pytest.raises(ValueError, match="the parameter network is another"):
        classifier.partial_fit(X, y)


def test_weights_that_float32_cannot_hold():
    classifier = newton(C="auto").fit(X, y)
    for size in (1e-300, 1e-30, 1e30, 1e300):
        scaled = newton(C="auto").fit(X, y, np.full(len(X), size))
        if size < 1:
            np.testing.assert_allclose(scaled.theta_, classifier.theta_, rtol=1e-3, atol=1e-4)
        assert np.isfinite(scaled.predict_proba(X)).all()
    with pytest.raises(ValueError, match="C times the sum of the weights is 1e-298, too small"):
        newton(C=1.0).fit(X, y, np.full(len(X), 1e-300))
    with pytest.raises(ValueError, match="add up to inf"):
        newton().fit(X, y, np.full(len(X), 1e308))


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("size", [1e3, 1e20, 3e37])
def test_probabilities_of_large_outputs(loss, size):
    classifier = newton(loss=loss).fit(X, y)
    classifier.theta_ = classifier.theta_ * 0
    classifier.theta_[-10:] = np.linspace(-1, 1, 10) * size
    p = classifier.predict_proba(X)
    assert np.isfinite(p).all() and (p >= 0).all() and (p.argmax(1) == 9).all()
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-6)
    assert (classifier.predict_log_proba(X).max(1) <= 0).all()


# Threads and processes


def test_fits_that_overlap_leave_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        barrier = threading.Barrier(3)
        seen = {}

        def fit(n_jobs):
            barrier.wait()
            newton(n_jobs=n_jobs, callbacks=lambda _: seen.setdefault(n_jobs, torch.get_num_threads())).fit(
                X, y
            )

        for _ in range(3):
            threads = [threading.Thread(target=fit, args=(n,)) for n in (1, 2, 3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert seen == {1: 1, 2: 2, 3: 3}
            fresh = []
            thread = threading.Thread(target=lambda fresh=fresh: fresh.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert fresh == [2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def fit_in_child(queue):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier = newton(n_jobs=2).fit(X, y)
    queue.put((classifier.theta_, [str(warning.message) for warning in caught]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_after_a_threaded_fit_does_not_hang():
    parent = newton(n_jobs=2).fit(X, y)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=fit_in_child, args=(queue,))
    child.start()
    theta, messages = queue.get(timeout=60)
    child.join(60)
    np.testing.assert_allclose(theta, parent.theta_, rtol=1e-2, atol=1e-2)
    assert any("goes on with one thread" in message for message in messages)


# Checkpoints


def test_each_candidate_of_a_search_has_a_checkpoint_of_its_own(tmp_path):
    search = GridSearchCV(
        newton(max_iter=1, checkpoint=tmp_path / "run.st"), {"C": [0.5, 1.0]}, cv=2, refit=True, n_jobs=1
    )
    search.fit(X, y)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 5 and all(name.startswith("run-") and name.endswith(".st") for name in files)
    best = clone(search.best_estimator_).set_params(max_iter=2, checkpoint=None)
    used = [path for path in tmp_path.iterdir() if _resumes(best, path)]
    assert len(used) == 1  # the refit's: the others are of other images or parameters


def _resumes(classifier, path):
    try:
        clone(classifier).fit(X, y, resume_from=path)
    except ValueError:
        return False
    return True


def test_two_fits_at_once_do_not_share_a_checkpoint(tmp_path):
    inner = newton(checkpoint=tmp_path / "run")
    refused = []

    def fit_another(record):
        with pytest.raises(ValueError, match=r"checkpoint=.*run' is being written by another fit"):
            inner.fit(X, y)
        refused.append(1)

    newton(checkpoint=tmp_path / "." / "run", callbacks=fit_another).fit(X, y)
    assert len(refused) == 3
    inner.fit(X, y)


def test_resuming_under_other_circumstances_is_said(tmp_path):
    newton(checkpoint=tmp_path / "run", n_jobs=1).fit(X, y)
    with pytest.warns(UserWarning, match="threads 1 -> 2.* to rounding, not bit for bit"):
        newton(max_iter=4, n_jobs=2).fit(X, y, resume_from=tmp_path / "run")
    with pytest.warns(UserWarning, match="memory auto -> 1000"):
        newton(max_iter=4, n_jobs=1, memory=1000).fit(X, y, resume_from=tmp_path / "run")


def test_a_single_pixel_that_changed_is_noticed(tmp_path):
    images, labels = digits(600)
    newton(checkpoint=tmp_path / "run", max_iter=1).fit(images, labels)
    rng = np.random.default_rng(0)
    for _ in range(20):
        changed = images.copy()
        changed[rng.integers(600), rng.integers(8), rng.integers(8)] += 1e-3
        with pytest.raises(ValueError, match="other images"):
            newton(max_iter=2).fit(changed, labels, resume_from=tmp_path / "run")


def test_early_stopping_says_what_it_lacks():
    labels = y.copy()
    labels[0] = 11
    with pytest.raises(ValueError, match="the class 11 has 1.*pass X_val and y_val"):
        newton(early_stopping=True).fit(X, labels)

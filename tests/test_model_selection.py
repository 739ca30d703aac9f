"""The classifiers inside scikit-learn's searches and pipelines."""

import gc
import tracemalloc

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from small import BOTH, digits, newton

from hfcnn import Conv, Dense, ImageScaler, NewtonCNNClassifier

X, y = digits(200)
LISTS = [[Conv(2, 3, pool=2)], [Conv(3, 3), Dense(5)], "cnn3"]


@pytest.fixture(scope="module", autouse=True)
def workers_end():
    """Worker processes do not outlive this file."""
    yield
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize("make", BOTH)
def test_cross_val_score(make):
    scores = cross_val_score(make(max_iter=2), X, y, cv=3)
    assert scores.shape == (3,) and (scores >= 0).all()


def test_grid_search_is_the_same_with_one_worker_and_two():
    images, labels = digits(1000)
    results = [
        GridSearchCV(
            newton(max_iter=2, cg_max_iter=10, n_jobs=1), {"C": [0.01, 0.1, 1.0]}, cv=3, n_jobs=n_jobs
        )
        .fit(images, labels)
        .cv_results_
        for n_jobs in (1, 2)
    ]
    for name in results[0]:
        if name.startswith("split"):
            np.testing.assert_array_equal(results[0][name], results[1][name])


def test_bits_are_those_of_the_number_of_threads():
    from joblib import Parallel, delayed

    torch_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for n_jobs in (1, 2):
            classifier = newton(n_jobs=n_jobs)
            fits = Parallel(n_jobs=2)(delayed(classifier.fit)(X, y) for _ in range(2))  # one thread each
            np.testing.assert_array_equal(fits[0].theta_, classifier.fit(X, y).theta_)
    finally:
        torch.set_num_threads(torch_threads)


@pytest.mark.parametrize("search", [GridSearchCV, HalvingGridSearchCV])
def test_searches_over_networks_and_the_solver(search):
    grid = [
        {"network": LISTS, "sampling_rate": [0.5, 50]},
        {
            "cg_max_iter": [3],
            "damping": [0.1],
            "loss": ["cross_entropy"],
            "gauss_newton": ["rop", "jacobian"],
        },
    ]
    options = {"min_resources": 60} if search is HalvingGridSearchCV else {}
    found = search(newton(max_iter=1), grid, cv=2, n_jobs=2, error_score="raise", **options).fit(X, y)
    assert len(found.cv_results_["params"]) >= 8
    assert found.best_estimator_.predict(X).shape == y.shape


def test_layer_lists_are_parameters():
    classifier = newton().set_params(network=LISTS[1])
    assert clone(classifier).network == LISTS[1]
    assert clone(classifier).fit(X, y).network_.specs == tuple(LISTS[1])


def test_sample_weights_are_routed_through_a_pipeline():
    weight = np.random.default_rng(0).random(len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        step = newton().set_fit_request(sample_weight=True)
        pipeline = make_pipeline(ImageScaler(), step)
        pipeline.fit(X, y, sample_weight=weight)
        scoring = get_scorer("accuracy").set_score_request(sample_weight=True)
        search = GridSearchCV(pipeline, {"newtoncnnclassifier__C": [0.1, 1.0]}, cv=2, scoring=scoring)
        search.fit(X, y, sample_weight=weight)
    expected = newton().fit(ImageScaler().fit_transform(X), y, weight)
    np.testing.assert_array_equal(pipeline[-1].theta_, expected.theta_)
    assert search.best_score_ > 0


def test_meta_estimators_that_know_flat_images_only():
    flat = X.reshape(len(X), -1)
    boosted = AdaBoostClassifier(newton(max_iter=8), n_estimators=2, random_state=0).fit(flat, y)
    assert boosted.predict(flat).shape == y.shape
    calibrated = CalibratedClassifierCV(newton(max_iter=2), cv=2).fit(flat, y)
    np.testing.assert_allclose(calibrated.predict_proba(flat).sum(1), 1, rtol=1e-6)


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_memory_stays_flat_over_twenty_fits():
    classifier = NewtonCNNClassifier("cnn3", C=1.0, max_iter=1, cg_max_iter=3, random_state=0)

    def fit(times):
        for _ in range(times):
            clone(classifier).fit(X, y).predict(X)
        gc.collect()

    fit(3)
    tracemalloc.start()
    traced, resident = tracemalloc.get_traced_memory()[0], resident_bytes()
    fit(20)
    grown, grown_resident = tracemalloc.get_traced_memory()[0] - traced, resident_bytes() - resident
    tracemalloc.stop()
    assert grown < 100_000
    assert grown_resident < 20 * 2**20  # a leaked linearisation would be 30 MiB a fit
    tensors = [found for found in gc.get_objects() if type(found) is torch.Tensor]
    assert not any(tensor.numel() >= classifier.fit(X, y).network_.n_parameters for tensor in tensors)

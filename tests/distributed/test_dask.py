"""Searches on a cluster of dask give the scores of a search in this process."""

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.experimental import enable_halving_search_cv  # noqa: F401, for the import below
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV

from hfcnn import Conv, NewtonCNNClassifier

distributed = pytest.importorskip("distributed")


X, Y = load_digits(return_X_y=True)
X, Y = X[:120] / 16, Y[:120]


def search(kind):
    """A search over two values of C, on one thread in each worker."""
    classifier = NewtonCNNClassifier([Conv(4, 3, pool=2)], max_iter=2, random_state=0, n_jobs=1)
    if kind == "grid":
        return GridSearchCV(classifier, {"C": [0.1, 1.0]}, cv=2)
    return HalvingGridSearchCV(classifier, {"C": [0.1, 1.0]}, cv=2, min_resources=60, random_state=0)


@pytest.fixture(scope="module")
def cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, memory_limit=None
    ) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "halving"])
def test_same_scores(kind, cluster):
    serial = search(kind).fit(X, Y)
    with distributed.Client(cluster), joblib.parallel_config("dask"):
        spread = search(kind).fit(X, Y)
    np.testing.assert_array_equal(
        spread.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"]
    )
    assert spread.best_params_ == serial.best_params_
    np.testing.assert_array_equal(spread.best_estimator_.theta_, serial.best_estimator_.theta_)

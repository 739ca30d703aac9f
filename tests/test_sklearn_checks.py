"""scikit-learn's own checks, all of them: a skipped check counts as failed."""

import unittest

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from hfcnn import Conv, Dense, NewtonCNNClassifier, SGDCNNClassifier

# Some checks hand over values around 100, on which stochastic gradients diverge, and say so.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# tol ends the check that raises max_iter to 1000. The second has no more epochs than the checks need, and no
# larger network: with the defaults they took half the time of all tests.
SMALL = [Conv(16, 3), Dense(16)]
CLASSIFIERS = [
    NewtonCNNClassifier(max_iter=5, tol=1e-4),
    NewtonCNNClassifier(SMALL, epochs=20, tol=1e-4),
    SGDCNNClassifier(SMALL, C=1.0, max_iter=50, learning_rate=3e-3),
]
CHECKS = parametrize_with_checks(CLASSIFIERS).mark
#: Of one batch that is drawn, the stochastic solver's gradient is unbiased under weights, but not the same.
STOCHASTIC = "check_sample_weight_equivalence_on_dense_data"

#: Gives a max_iter to whatever has one.
SETS_MAX_ITER = "check_class_weight_classifiers"


# A list, since pytest 9 no longer takes the generator that scikit-learn before 1.8 makes.
@pytest.mark.parametrize(CHECKS.args[0], list(CHECKS.args[1]), **CHECKS.kwargs)
def test_check(estimator, check, monkeypatch):
    if check.func.__name__ == STOCHASTIC and getattr(estimator, "max_iter", None) is None:
        pytest.xfail("weights are unbiased, but draws are others")
    if check.func.__name__ == SETS_MAX_ITER and isinstance(estimator, NewtonCNNClassifier):
        estimator.set_params(epochs="auto")  # a fit has one length
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # without it the check of array API input skips itself
    try:
        check(estimator)
    except unittest.SkipTest as skip:
        pytest.fail(f"skipped: {skip}")

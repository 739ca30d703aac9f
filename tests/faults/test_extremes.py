"""Extreme fits: whatever the numbers, f never rises, and what is predicted are probabilities."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfcnn import Conv, NewtonCNNClassifier


@pytest.mark.slow
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(
    n=st.integers(2, 24),
    side=st.integers(1, 5),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4, 1e15]),
    C=st.sampled_from(["auto", 1e-6, 1.0, 1e8, float("inf")]),
    loss=st.sampled_from(["squared", "cross_entropy"]),
    damping=st.sampled_from([0.0, 1e-10, 1.0, 1e10]),
    weight=st.sampled_from([None, 1e-6, 1e12, "mixed"]),
    form=st.sampled_from(["rop", "jacobian"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 100),
)
def test_extreme_fits(n, side, scale, C, loss, damping, weight, form, dtype, seed):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, side, side)) * scale).astype(dtype)
    y = np.arange(n) % 2
    if weight is not None:
        weight = 10.0 ** rng.integers(-8, 8, n) if weight == "mixed" else np.full(n, weight)
    classifier = NewtonCNNClassifier(
        [Conv(2, 3)],
        C=C,
        loss=loss,
        damping=damping,
        gauss_newton=form,
        max_iter=3,
        cg_max_iter=10,
        random_state=seed,
        n_jobs=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier.fit(X, y, weight)
    assert (np.diff(classifier.history_["f"]) <= 0).all()
    assert np.isfinite(classifier.theta_).all()
    p = classifier.predict_proba(X)
    if np.isfinite(classifier.decision_function(X)).all():
        assert np.isfinite(p).all() and (p >= 0).all()

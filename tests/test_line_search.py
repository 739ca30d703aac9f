import math
from dataclasses import dataclass

import pytest

from hfcnn.line_search import backtrack


@dataclass
class Trial:
    value: float


def search(f_of, f=0.0, slope=-1.0, **options):
    """Run the search on f_of(alpha), and return the result with the (alpha, bound) of each trial."""
    asked = []

    def evaluate(alpha, bound):
        asked.append((alpha, bound))
        return Trial(f_of(alpha))

    return backtrack(evaluate, f, slope, **options), asked


def test_first_trial_is_accepted():
    result, asked = search(lambda alpha: -alpha)
    assert (result.step, result.n_trials, result.trial.value) == (1.0, 1, -1.0)
    assert asked == [(1.0, -1e-4)]


def test_quarter_step_is_accepted():
    """f(alpha) = -alpha + 3 alpha^2 is 2 at 1, 1/4 at 1/2 and -1/16 at 1/4."""
    result, asked = search(lambda alpha: -alpha + 3 * alpha**2)
    assert (result.step, result.n_trials, result.trial.value) == (0.25, 3, -1 / 16)
    assert [alpha for alpha, _ in asked] == [1, 0.5, 0.25]


@pytest.mark.parametrize("max_trials", [1, 7, 20])
def test_none_is_accepted(max_trials):
    result, asked = search(lambda alpha: alpha, max_trials=max_trials)
    assert (result.step, result.trial, result.n_trials) == (0.0, None, max_trials)
    assert [alpha for alpha, _ in asked] == [2.0**-k for k in range(max_trials)]


def test_twenty_trials_unless_said():
    assert search(lambda alpha: 1.0)[0].n_trials == 20


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_trials_that_are_not_finite_are_rejected(bad):
    result, _ = search(lambda alpha: bad if alpha > 0.3 else -alpha)
    assert (result.step, result.n_trials) == (0.25, 3)
    assert search(lambda alpha: bad)[0].trial is None


def test_bound_is_the_sufficient_decrease():
    _, asked = search(lambda alpha: math.inf, f=2.0, slope=-4.0, armijo=0.25, max_trials=3)
    assert asked == [(1.0, 1.0), (0.5, 1.5), (0.25, 1.75)]


@pytest.mark.parametrize(("value", "step"), [(1.0, 1.0), (1.0 + 1e-12, 0.5)], ids=["at", "above"])
def test_value_at_the_bound_is_accepted(value, step):
    result, _ = search(lambda alpha: value if alpha == 1 else 0.0, f=2.0, slope=-4.0, armijo=0.25)
    assert result.step == step


def test_decrease_that_is_too_small_is_rejected():
    """Any decrease would do for armijo = 0; a tenth of the slope does not for 1/2."""
    assert search(lambda alpha: -0.1 * alpha, armijo=0.0)[0].step == 1.0
    assert search(lambda alpha: -0.1 * alpha, armijo=0.5)[0].trial is None


def test_trial_is_what_evaluate_returned():
    trial = Trial(-1.0)
    assert backtrack(lambda alpha, bound: trial, 0.0, -1.0).trial is trial

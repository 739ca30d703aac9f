import math

import pytest

from hfcnn.damping import DampingRule

DROP, KEEP, BOOST = 2 / 3, 1.0, 3 / 2


@pytest.mark.parametrize(
    ("rho", "factor"),
    [
        (2.0, DROP),
        (1.0, DROP),
        (0.75, DROP),
        (0.74, KEEP),
        (0.5, KEEP),
        (0.25, KEEP),
        (0.24, BOOST),
        (1e-9, BOOST),
        (0.0, BOOST),
        (-1.0, BOOST),
    ],
)
def test_table(rho, factor):
    predicted = -8.0
    assert DampingRule().update(0.9, rho * predicted, predicted) == 0.9 * factor


def test_rejected_step_boosts():
    assert DampingRule().update(2.0, 0.0, 0.0) == 3.0
    assert DampingRule().update(2.0, 0.0, -1.0) == 3.0


@pytest.mark.parametrize("actual", [math.nan, math.inf])
def test_changes_that_are_not_finite_boost(actual):
    assert DampingRule().update(2.0, actual, -1.0) == 3.0


def test_tiny_changes_are_compared_without_dividing():
    """The ratio of these is 0/0 or overflows; the comparison is exact."""
    assert DampingRule().update(1.0, -5e-324, -5e-324) == DROP
    assert DampingRule().update(1.0, -1e300, -5e-324) == DROP


def test_own_constants():
    rule = DampingRule(drop=0.5, boost=4.0, lower=0.1, upper=0.9)
    assert [rule.update(1.0, -rho, -1.0) for rho in (0.95, 0.8, 0.15, 0.05)] == [0.5, 1.0, 1.0, 4.0]

"""The Levenberg-Marquardt damping rule (37)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DampingRule"]


@dataclass(frozen=True)
class DampingRule:
    """How lambda follows the ratio rho of actual to predicted change; the paper's constants (Sec. 6.2).

    Attributes
    ----------
    drop, boost : float
        Factors of lambda after a good and after a poor step.
    lower, upper : float
        Below `lower` a step is poor, from `upper` on it is good.
    """

    drop: float = 2 / 3
    boost: float = 3 / 2
    lower: float = 0.25
    upper: float = 0.75

    def update(self, damping: float, actual: float, predicted: float) -> float:
        """Next lambda (37).

        Parameters
        ----------
        damping : float
            lambda of this iteration.
        actual : float
            f(theta + alpha d) - f(theta); 0 for a rejected step.
        predicted : float
            The quadratic model's change, with 1/C and without lambda; negative.

        Returns
        -------
        float
        """
        # both changes are negative, so "rho >= upper" reads as follows without dividing by a tiny number
        if actual < 0 and actual <= self.upper * predicted:
            return damping * self.drop
        if actual < 0 and actual <= self.lower * predicted:
            return damping
        return damping * self.boost

"""A step along the averaged gradient in a metric, its length measured: slope over curvature, smoothed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hfcnn.batch_model import BatchModel
from hfcnn.kfac import KroneckerMetric

__all__ = ["MeasuredStep"]

#: Steps over which the average of the gradients comes to its full length.
WARM_UP = 10
#: Growth a step of the scale that `forget` halves: back in 64 steps.
RECOVERY = 2 ** (1 / 64)


@dataclass
class MeasuredStep:
    """What steps remember of one another.

    Attributes
    ----------
    momentum : Tensor of shape (n,)
        Average m of the gradients.
    age : int
        Steps since the averages below began.
    slope, curvature : float
        Averages of the slope of f along -p and of its curvature along p, in units of p^T K p.
    scale : float
        Factor of all lengths; `forget` halves it, and it recovers in some 64 steps.
    """

    momentum: Tensor
    age: int = 0
    slope: float = 0.0
    curvature: float = 0.0
    scale: float = 1.0
    _solved: Tensor | None = None  # K^{-1} m

    @property
    def needs_metric(self) -> bool:
        """Whether `use` must come before the next step."""
        return self._solved is None

    @property
    def numbers(self) -> dict[str, float]:
        """All but the vectors, by the names of the arguments."""
        return {"age": self.age, "slope": self.slope, "curvature": self.curvature, "scale": self.scale}

    def use(self, metric: KroneckerMetric) -> None:
        """Take up a metric whose inverse is new."""
        self._solved = metric.solve(self.momentum)

    def forget(self) -> None:
        """Drop the averages and halve the steps to come: the last ones led astray."""
        self.momentum = torch.zeros_like(self.momentum)
        self.age, self.slope, self.curvature = 0, 0.0, 0.0
        self.scale /= 2
        self._solved = None

    def take(
        self,
        model: BatchModel,
        metric: KroneckerMetric,
        *,
        momentum: float,
        smoothing: float,
        relaxation: float,
        shortest: float,
        trust: float,
        halves: bool,
    ) -> tuple[float, Tensor]:
        """Average the model's gradient in; return the length alpha and direction p = -K^{-1} m of the step.

        Parameters
        ----------
        model : BatchModel
            f near the present parameters.
        metric : KroneckerMetric
            The one that `use` was last given.
        momentum, smoothing : float
            Largest shares of the past in the averages of the gradients, and of slope and curvature.
        relaxation : float
            Multiple of slope over curvature.
        shortest : float
            Least length, as a multiple of the one at which the model would be smallest if m were the
            gradient: its slope would be p^T K p.
        trust : float
            Most of f that the model's linear term, and its quadratic term, may be at the step's end.
        halves : bool
            Whether the slope is measured between the gradients of the model's halves.
        """
        assert self._solved is not None
        beta = min(momentum, self.age / (self.age + WARM_UP))
        solved = metric.solve(model.gradient)
        if halves:  # a gradient is correlated with its own direction by noise alone; two halves are not
            first, second = model.halves
            slope = float(first @ metric.solve(second))
        else:
            slope = float(model.gradient @ solved)
        slope = (1 - beta) * slope + beta * float(model.gradient @ self._solved)
        self.momentum = beta * self.momentum + (1 - beta) * model.gradient
        self._solved = beta * self._solved + (1 - beta) * solved
        norm = float(self.momentum @ self._solved)  # p^T K p
        direction = -self._solved
        curvature = model.curvature(direction) + metric.damping * float(direction @ direction)
        if not (0 < norm < math.inf and 0 < curvature < math.inf and math.isfinite(slope)):
            return 0.0, direction
        self.age += 1
        self.scale = min(1.0, self.scale * RECOVERY)
        share = max(1 - smoothing, 1 / self.age)
        self.slope += share * (slope / norm - self.slope)
        self.curvature += share * (curvature / norm - self.curvature)
        alpha = self.scale * max(relaxation * self.slope, shortest) / self.curvature
        # f is not negative, so a model that takes more than f off is wrong: of a loss that has saturated, say
        slope, curvature = max(slope, self.slope * norm), max(curvature, self.curvature * norm)
        limits = [math.sqrt(2 * trust * model.f / curvature)]
        if slope > 0:
            limits.append(trust * model.f / slope)
        return min(alpha, *limits), direction

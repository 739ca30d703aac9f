"""The objective near theta as one batch sees it: f, gradients on two halves, curvature along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.cost import linearization_bytes
from hfcnn.images import Contribution, Span
from hfcnn.linearization import Linearization
from hfcnn.loss import get_loss
from hfcnn.objective import Objective

__all__ = ["BatchModel", "Observer"]

#: Told of each linearisation and the weights of its images, None for weights of one.
Observer: TypeAlias = Callable[[Linearization, "Tensor | None"], None]

#: Most bytes of linearisations kept for the curvature.
KEPT_BYTES = 2**28


class BatchModel:
    """f, its gradient and its curvature at theta, estimated from a batch of images.

    Each estimate is unbiased: a batch's sum is divided by its number of images and the mean weight of *all*
    images, so that batches that happen to hold heavy images count for more.

    Parameters
    ----------
    objective : Objective
        The objective.
    theta : Tensor of shape (n,)
        Parameters.
    batch : int64 array of shape (m,)
        Which images, in random order.
    n_curvature : int
        Images at the batch's end whose linearisations are kept for `curvature`.
    observe : callable or None
        Told of each part of the batch as it is linearised.
    change : callable or None
        What is done to images first, of shape (N, H, W, C).

    Attributes
    ----------
    f : float
        The objective.
    gradient : Tensor of shape (n,)
        Its gradient.
    halves : (Tensor, Tensor), each of shape (n,)
        Its gradients on the first and the second half of the batch, which share no noise. Of a batch of one
        image both are the gradient.
    n_images : int
        Images of the batch.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        batch: NDArray[np.int64],
        n_curvature: int = 0,
        observe: Observer | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._change = change
        self.n_images = len(batch)
        self._objective, self._loss = objective, get_loss(objective.loss)
        self._mean_weight = objective.data.total_weight / objective.n_images
        affordable = KEPT_BYTES // linearization_bytes(objective.network, theta.itemsize)
        self._n_curvature = max(1, min(n_curvature, affordable, len(batch)))
        self._kept: list[tuple[Linearization, Tensor | None]] = []
        middle = -(-len(batch) // 2)
        first = self._mean(theta, batch[:middle], observe)
        second = self._mean(theta, batch[middle:], observe) if len(batch) > 1 else first
        share = middle / len(batch)
        decay = theta / objective.C
        self.f = share * first[0] + (1 - share) * second[0] + float(theta @ theta) / (2 * objective.C)
        self.gradient = share * first[1] + (1 - share) * second[1] + decay
        self.halves = (first[1] + decay, second[1] + decay)

    def curvature(self, direction: Tensor) -> float:
        """Measure p^T G p, G the Gauss-Newton matrix of the loss on the images kept, by products J p."""
        total, wanted = 0.0, self._n_curvature
        for linear, weights in reversed(self._kept):
            size = len(linear.outputs)
            first = max(0, size - wanted)
            part = linear.part(first, size)
            u = part.jvp(direction)
            products = (u * self._loss.hessian_product(part.outputs, u)).sum(1)
            if weights is not None:
                products = products * weights[first:]
            total += float(products.sum(dtype=torch.float64))
            wanted -= size - first
        return total / (self.n_curvature * self._mean_weight)

    @property
    def n_curvature(self) -> int:
        """Images on which `curvature` measures."""
        return self._n_curvature

    def _mean(
        self, theta: Tensor, indices: NDArray[np.int64], observe: Observer | None
    ) -> tuple[float, Tensor]:
        """Means of the losses and of their gradients over some images."""
        objective, loss = self._objective, self._loss
        data = objective.data.subset(indices)

        def part(span: Span, so_far: float) -> Contribution:
            batch = data.read(span, theta.dtype)
            assert batch.labels is not None
            images = batch.images if self._change is None else self._change(batch.images)
            linear = Linearization(objective.network, theta, images, objective.backend.ops)
            values, q = loss.value(linear.outputs, batch.labels), loss.gradient(linear.outputs, batch.labels)
            if batch.weight is not None:
                values, q = values * batch.weight, q * batch.weight.unsqueeze(1)
            vector = linear.vjp(q)
            if observe is not None:
                observe(linear, batch.weight)
            self._keep(linear, batch.weight)
            return Contribution(vector, float(values.sum(dtype=torch.float64)))

        gradient = torch.zeros_like(theta)
        totals = data.weighted_sum(data.spans(theta.dtype, is_even=True), part, gradient)
        scale = 1 / (len(indices) * self._mean_weight)
        return totals.value * scale, gradient * (data.total_weight * scale)

    def _keep(self, linear: Linearization, weight: Tensor | None) -> None:
        """Keep the last linearisations: as many as hold the images for the curvature."""
        self._kept.append((linear, weight))
        while sum(len(kept.outputs) for kept, _ in self._kept[1:]) >= self._n_curvature:
            del self._kept[0]

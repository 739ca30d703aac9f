"""The objective near theta as one batch sees it: f, gradients on two halves, curvature along a direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.augmentation import Moves, augmented
from hfcnn.cost import linearization_bytes
from hfcnn.images import Contribution, Images, SetSum, Share, Span
from hfcnn.kfac import FactorDraws
from hfcnn.linearization import Linearization
from hfcnn.loss import get_loss
from hfcnn.objective import Objective

__all__ = ["BatchModel", "ImageDraws", "Observer"]

#: Told of a linearisation, the weights of its images, None for weights of one, and what was drawn for them.
Observer: TypeAlias = Callable[[Linearization, "Tensor | None", FactorDraws], None]


class ImageDraws(NamedTuple):
    """What is drawn for some images of a batch.

    Attributes
    ----------
    moves : Moves or None
        How they are moved; None leaves them as they are.
    factors : FactorDraws or None
        What goes with the first of them into the metric's statistics; None is none of them.
    """

    moves: Moves | None = None
    factors: FactorDraws | None = None

    def of(self, images: NDArray[np.int64]) -> ImageDraws:
        """Those of some of the images, counted upwards."""
        moves, factors = self.moves, self.factors
        if factors is not None:
            known = images[images < len(factors.outputs)]
            factors = factors.of(known) if len(known) else None
        return ImageDraws(None if moves is None else moves.of(images), factors)


#: Draws for the next so many images of a batch, in all processes.
Draw: TypeAlias = Callable[[int], ImageDraws]

#: Most bytes of linearisations kept for the curvature.
KEPT_BYTES = 2**28


class BatchModel:
    """f, its gradient and its curvature at theta, estimated from a batch of images.

    Each estimate is unbiased: a batch's sum is divided by its number of images and the mean weight of *all*
    images, so that batches that happen to hold heavy images count for more.

    Several processes each take the images of the batch that they have, be it none. Each draws for all images
    of the batch, so that the draws are those of one process alone. They add up f and both gradients in one
    call, and the curvature in another.

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
    draw : callable or None
        Draws for each part of the batch, in order, before the first is read.
    observe : callable or None
        Told of each part of the batch for which there are draws for the metric, as it is linearised.
    upcoming : int64 array or None
        Batch that comes next, of which the first images are read ahead where that helps.

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
        draw: Draw | None = None,
        observe: Observer | None = None,
        upcoming: NDArray[np.int64] | None = None,
    ) -> None:
        self.n_images = len(batch)
        self._objective, self._loss = objective, get_loss(objective.loss)
        self._mean_weight = objective.data.total_weight / objective.n_images
        affordable = KEPT_BYTES // linearization_bytes(
            objective.network, theta.itemsize, objective.backend.name
        )
        self._n_curvature = max(1, min(n_curvature, affordable, len(batch)))
        self._n_own_curvature = int(objective.data.is_own(batch[-self._n_curvature :]).sum())
        self._kept: list[tuple[Linearization, Tensor | None]] = []
        halves = _halves(batch)
        sums = [self._sum(theta, indices, draw, observe) for indices in halves]
        if objective.data.reads_ahead:
            _expect(objective.data, sums, upcoming, theta.dtype)
        first, *others = [
            self._means(half, found.value)
            for half, found in zip(sums, Images.weighted_sums(sums), strict=True)
        ]
        second = others[0] if others else first
        share = len(halves[0]) / len(batch)
        decay = theta / objective.C
        self.f = share * first[0] + (1 - share) * second[0] + float(theta @ theta) / (2 * objective.C)
        self.gradient = share * first[1] + (1 - share) * second[1] + decay
        self.halves = (first[1] + decay, second[1] + decay)

    def curvature(self, direction: Tensor) -> float:
        """Measure p^T G p, G the Gauss-Newton matrix of the loss on the images kept, by products J p."""
        total, wanted = 0.0, self._n_own_curvature
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
        ranks = self._objective.ranks
        if ranks is not None:
            total = ranks.total(total)[0]
        return total / (self.n_curvature * self._mean_weight)

    @property
    def n_curvature(self) -> int:
        """Images on which `curvature` measures."""
        return self._n_curvature

    def _sum(
        self, theta: Tensor, indices: NDArray[np.int64], draw: Draw | None, observe: Observer | None
    ) -> SetSum:
        """Sum of the losses and of their gradients over some images, to be made; what it needs is drawn."""
        objective, loss = self._objective, self._loss
        data = objective.data.subset(indices)
        shares = data.shares(theta.dtype)
        drawn = [ImageDraws() if draw is None else draw(share.n_images) for share in shares]

        def part(span: Span, so_far: float) -> Contribution:
            batch = data.read(span, theta.dtype)
            assert batch.labels is not None
            draws = _draws_of(span, shares, drawn)
            images = batch.images if draws.moves is None else augmented(batch.images, draws.moves)
            linear = Linearization(objective.network, theta, images, objective.backend.ops)
            values, q = loss.value(linear.outputs, batch.labels), loss.gradient(linear.outputs, batch.labels)
            if batch.weight is not None:
                values, q = values * batch.weight, q * batch.weight.unsqueeze(1)
            vector = linear.vjp(q)
            if observe is not None and draws.factors is not None:
                n = len(draws.factors.outputs)
                observe(linear.part(0, n), None if batch.weight is None else batch.weight[:n], draws.factors)
            self._keep(linear, batch.weight)
            return Contribution(vector, float(values.sum(dtype=torch.float64)))

        spans = [share.span for share in shares if share.span.size]
        return SetSum(data, spans, part, torch.zeros_like(theta))

    def _means(self, half: SetSum, value: float) -> tuple[float, Tensor]:
        """Means of the losses and gradients, from the losses' sum and the mean gradient in `into`."""
        scale = 1 / (len(half.images) * self._mean_weight)
        assert half.into is not None
        return value * scale, half.into * (half.images.total_weight * scale)

    def _keep(self, linear: Linearization, weight: Tensor | None) -> None:
        """Keep the last linearisations: as many as hold the images for the curvature."""
        self._kept.append((linear, weight))
        while self._kept and sum(len(kept.outputs) for kept, _ in self._kept[1:]) >= self._n_own_curvature:
            del self._kept[0]


def _halves(batch: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """First and second half of a batch; of one image there is one half."""
    middle = -(-len(batch) // 2)
    return [batch[:middle], batch[middle:]] if len(batch) > 1 else [batch]


def _expect(data: Images, sums: list[SetSum], upcoming: NDArray[np.int64] | None, dtype: torch.dtype) -> None:
    """Have each set read on into the next, and the last into the first half of the upcoming batch."""
    then = None
    if upcoming is not None:
        first = data.subset(_halves(upcoming)[0])
        then = next((first.place(share.span) for share in first.shares(dtype) if share.span.size), None)
    for each in reversed(sums):
        each.images.expect(each.spans, then)
        then = each.images.place(each.spans[0]) if each.spans else then


def _draws_of(span: Span, shares: list[Share], drawn: list[ImageDraws]) -> ImageDraws:
    """What was drawn for a span, which is a share or, where memory ran out, a part of one."""
    for share, draws in zip(shares, drawn, strict=True):
        if share.span.start <= span.start < share.span.stop:
            return draws.of(share.places[span.start - share.span.start : span.stop - share.span.start])
    raise IndexError(f"{span} is of no share")

"""Losses of the outputs: value, gradient and Hessian product for each image."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["LOSSES", "CrossEntropyLoss", "Loss", "SquaredLoss", "get_loss"]


class Loss(Protocol):
    """A loss xi(z; y) of the outputs z, convex and non-negative.

    Conventions: `outputs` and `u` are of shape (N, K), `labels` are class indices of shape (N,), int64.
    Nothing is summed or averaged over images.
    """

    name: str

    def value(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each image: shape (N,)."""

    def gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Gradient of each image's loss in its outputs: shape (N, K)."""

    def hessian_product(self, outputs: Tensor, u: Tensor) -> Tensor:
        """B^i u^i of each image (78): shape (N, K)."""

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probabilities of the classes, the largest where the largest output is: shape (N, K)."""


class SquaredLoss:
    """||z - y||^2 with y one-hot (26): no factor 1/2, so that B = 2 I (79)."""

    name = "squared"

    def value(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each image: shape (N,)."""
        return (outputs - _one_hot(outputs, labels)).square_().sum(1)

    def gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """2 (z - y): shape (N, K)."""
        return (outputs - _one_hot(outputs, labels)).mul_(2)

    def hessian_product(self, outputs: Tensor, u: Tensor) -> Tensor:
        """2 u (79)."""
        return 2 * u

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Nearest point of the probability simplex: max(z - t, 0), t such that it sums to one.

        The outputs estimate one-hot vectors, whose mean is a vector of probabilities; so what is left to
        do is the least change that makes them one.
        """
        largest = outputs.sort(1, descending=True).values
        excess = (largest.cumsum(1) - 1) / torch.arange(1, outputs.shape[1] + 1).to(outputs)
        n_positive = (largest > excess).sum(1, keepdim=True).clamp_(min=1)  # none where an output is NaN
        p = (outputs - excess.gather(1, n_positive - 1)).clamp_(min=0)
        return p / p.sum(1, keepdim=True)


class CrossEntropyLoss:
    """-log softmax(z)_y: gradient p - y and B = diag(p) - p p^T, with p = softmax(z)."""

    name = "cross_entropy"

    def value(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Loss of each image: shape (N,)."""
        return F.cross_entropy(outputs, labels, reduction="none")

    def gradient(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Softmax minus one-hot: shape (N, K)."""
        return outputs.softmax(1).sub_(_one_hot(outputs, labels))

    def hessian_product(self, outputs: Tensor, u: Tensor) -> Tensor:
        """P u - p (p^T u): shape (N, K)."""
        p = outputs.softmax(1)
        pu = p * u
        return pu - p * pu.sum(1, keepdim=True)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Softmax: shape (N, K)."""
        return outputs.softmax(1)


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (SquaredLoss(), CrossEntropyLoss())}


def get_loss(loss: str | Loss) -> Loss:
    """Look a loss up by its name; a loss passes through.

    Raises
    ------
    ValueError
        If there is no loss of that name.
    """
    if not isinstance(loss, str):
        return loss
    if loss not in LOSSES:
        raise ValueError(f"no loss {loss!r}; the losses are {', '.join(LOSSES)}")
    return LOSSES[loss]


def _one_hot(outputs: Tensor, labels: Tensor) -> Tensor:
    return torch.zeros_like(outputs).scatter_(1, labels.unsqueeze(1), 1)

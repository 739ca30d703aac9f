"""Losses of the outputs: value, gradient and Hessian product for each image."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
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

    def hessian_sum(self, outputs: Tensor, weights: Tensor | None) -> Tensor:
        """Weighted sum of B^i over images: shape (K, K)."""

    def draw(self, n_images: int, n_outputs: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the numbers that `sample` turns into u^i: a row for each image."""

    def sample(self, outputs: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Make u^i of mean zero and covariance B^i of each image's draws: shape (N, K)."""

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

    def hessian_sum(self, outputs: Tensor, weights: Tensor | None) -> Tensor:
        """2 I times the sum of the weights: shape (K, K)."""
        total = float(len(outputs) if weights is None else weights.sum())
        return 2 * total * torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)

    def draw(self, n_images: int, n_outputs: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw normal numbers: shape (N, K)."""
        return rng.standard_normal((n_images, n_outputs))

    def sample(self, outputs: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Normal, of variance 2: shape (N, K)."""
        return torch.from_numpy(math.sqrt(2) * draws).to(outputs)

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

    def hessian_sum(self, outputs: Tensor, weights: Tensor | None) -> Tensor:
        """Sum of w (diag(p) - p p^T): shape (K, K)."""
        p = outputs.softmax(1)
        weighted = p if weights is None else p * weights.unsqueeze(1)
        return torch.diag(weighted.sum(0)) - weighted.t() @ p

    def draw(self, n_images: int, n_outputs: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw numbers in [0, 1): shape (N, 1)."""
        return rng.random((n_images, 1))

    def sample(self, outputs: Tensor, draws: NDArray[np.float64]) -> Tensor:
        """Softmax minus a one-hot label drawn from it: shape (N, K)."""
        p = outputs.softmax(1)
        labels = (p.cumsum(1) < torch.from_numpy(draws).to(p)).sum(1).clamp_(max=p.shape[1] - 1)
        return p - _one_hot(p, labels)

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

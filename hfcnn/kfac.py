"""A Kronecker-factored approximation of the Gauss-Newton matrix: statistics, damped inverses, products."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.linearization import Linearization
from hfcnn.loss import Loss
from hfcnn.network import Network
from hfcnn.ranks import Ranks

__all__ = ["Factor", "FactorDraws", "KroneckerMetric"]

#: Largest dense block of a factor. Inverting one costs its cube: 1,024 is some 30 ms on a core.
MAX_BLOCK = 1024
#: Numbers that the factors of all layers may hold together; blocks are halved until they fit.
MAX_NUMBERS = 2**26
#: Largest share of the past in the running averages of the factors.
DECAY = 0.95


class Factor:
    """A symmetric positive matrix of one Kronecker pair: its diagonal blocks, one block if it is small.

    Parameters
    ----------
    size : int
        Rows.
    block : int
        Most rows of a block; 1 is a diagonal matrix.
    like : Tensor
        Gives dtype and device.

    Attributes
    ----------
    blocks : Tensor of shape (n_blocks, s, s)
        The blocks, the last one filled with zeros.
    """

    def __init__(self, size: int, block: int, like: Tensor) -> None:
        self.size = size
        n_blocks = -(-size // block)
        side = -(-size // n_blocks)
        self.blocks = like.new_zeros((n_blocks, side, side))
        self.inverse = self.blocks

    @property
    def mean_eigenvalue(self) -> float:
        """Trace over the number of rows."""
        return max(0.0, float(self.blocks.diagonal(dim1=1, dim2=2).sum())) / self.size

    def gram(self, rows: Tensor) -> Tensor:
        """Diagonal blocks of rows^T rows, for rows of shape (M, size)."""
        parts = self._split(rows)
        return parts.transpose(1, 2) @ parts

    def blocks_of(self, matrix: Tensor) -> Tensor:
        """Diagonal blocks of a matrix of shape (size, size)."""
        n_blocks, side = self.blocks.shape[:2]
        rest = n_blocks * side - self.size
        tiles = F.pad(matrix, (0, rest, 0, rest)).view(n_blocks, side, n_blocks, side)
        return tiles.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()

    def average(self, new: Tensor, weight: float) -> None:
        """Move the blocks towards new ones: (1 - weight) old + weight new."""
        self.blocks.mul_(1 - weight).add_(new, alpha=weight)

    def invert(self, shift: float) -> None:
        """Set `inverse` to that of the blocks plus `shift` times the identity.

        A block that rounding has left without an inverse gets ten times the shift until it has one.
        """
        identity = torch.eye(self.blocks.shape[1], dtype=self.blocks.dtype, device=self.blocks.device)
        finfo = torch.finfo(self.blocks.dtype)
        while True:
            root, info = torch.linalg.cholesky_ex(self.blocks + shift * identity)
            if not int(info.max()):
                break
            shift = max(10 * shift, finfo.eps * self.mean_eigenvalue, math.sqrt(finfo.tiny))
        self.inverse = torch.cholesky_inverse(root)

    def solve(self, rows: Tensor) -> Tensor:
        """Rows times the inverse: shape (M, size)."""
        product = self._split(rows) @ self.inverse
        return product.transpose(0, 1).reshape(len(rows), -1)[:, : self.size]

    def _split(self, rows: Tensor) -> Tensor:
        """Columns by blocks: (M, size) to (n_blocks, M, s)."""
        n_blocks, side = self.blocks.shape[:2]
        rest = n_blocks * side - self.size
        if rest:
            rows = F.pad(rows, (0, rest))
        return rows.view(len(rows), n_blocks, side).transpose(0, 1)


class FactorDraws(NamedTuple):
    """What is drawn for the statistics of N images.

    Attributes
    ----------
    outputs : float64 array with a row for each image
        Of `Loss.draw`: makes a cotangent of its outputs.
    first : list of (int, int)
        Of `Layer.draw_first`, for each layer.
    """

    outputs: NDArray[np.float64]
    first: list[tuple[int, int]]

    @classmethod
    def draw(cls, network: Network, loss: Loss, n_images: int, rng: np.random.Generator) -> FactorDraws:
        """Draw them."""
        outputs = loss.draw(n_images, network.n_outputs, rng)
        return cls(outputs, [layer.draw_first(rng) for layer in network.layers])

    def of(self, images: NDArray[np.int64]) -> FactorDraws:
        """Those of some of the images."""
        return FactorDraws(self.outputs[images], self.first)


class KroneckerMetric:
    """K = blockdiag over layers of A kron G, damped: a stand-in for the Gauss-Newton matrix with an inverse.

    For a layer with inputs (patches) a and pre-activations s, the Gauss-Newton block is the mean over images
    of the sum over positions of (a a^T) kron (e e^T), e a cotangent of s whose covariance in the outputs is
    the loss's Hessian. K-FAC takes the mean of each side alone: A = sum of [a, 1] [a, 1]^T over positions,
    G = mean of e e^T over positions (Martens & Grosse 2015; Grosse & Martens 2016 for convolutions).

    Parameters
    ----------
    network : Network
        The network.
    like : Tensor
        Gives dtype and device.

    Attributes
    ----------
    n_updates : int
        Statistics gathered so far.
    damping : float
        mu of the last inversion.
    """

    def __init__(self, network: Network, like: Tensor) -> None:
        self.network = network
        sizes = [(layer.fan_in + 1, layer.filters) for layer in network.layers]
        block = MAX_BLOCK
        while block > 1 and sum(size * min(size, block) for pair in sizes for size in pair) > MAX_NUMBERS:
            block //= 2
        self.pairs = [(Factor(a, block, like), Factor(g, block, like)) for a, g in sizes]
        self.n_updates = 0
        self.damping = math.nan
        self._sums: list[tuple[Tensor, Tensor]] = []
        self._weight = 0.0

    def add(self, linear: Linearization, loss: Loss, weights: Tensor | None, draws: FactorDraws) -> None:
        """Add the statistics of a few images to the sums that the next `update` takes up.

        Parameters
        ----------
        linear : Linearization
            Of these images, at the present parameters.
        loss : Loss
            The loss; for each image there is a cotangent of the outputs whose covariance is its Hessian.
        weights : Tensor of shape (N,) or None
            Weights of the images.
        draws : FactorDraws
            What was drawn for them.
        """
        root = None if weights is None else weights.sqrt()
        n_layers = len(self.network.layers)
        new: list[tuple[Tensor, Tensor]] = []
        cotangents = linear.cotangents(loss.sample(linear.outputs, draws.outputs))
        for m, (layer, u) in enumerate(zip(self.network.layers, cotangents, strict=True)):
            left, right = self.pairs[m]
            inputs, rows = layer.factor_rows(linear.inputs[m], u, draws.first[m])
            a_sum = left.gram(_weighted(inputs, root)) * (layer.positions * len(u) / len(inputs))
            if m == n_layers - 1:  # of the outputs the mean is known
                g_sum = right.blocks_of(loss.hessian_sum(linear.outputs, weights))
            else:
                g_sum = right.gram(_weighted(rows, root)) / layer.positions
            new.append((a_sum, g_sum))
        old = self._sums or self._zeros()
        self._sums = [(a + a_new, g + g_new) for (a, g), (a_new, g_new) in zip(old, new, strict=True)]
        self._weight += float(len(linear.outputs) if weights is None else weights.sum())

    def discard(self) -> None:
        """Forget the statistics added since the last update."""
        self._sums, self._weight = [], 0.0

    def _zeros(self) -> list[tuple[Tensor, Tensor]]:
        return [(torch.zeros_like(a.blocks), torch.zeros_like(g.blocks)) for a, g in self.pairs]

    def update(self, ranks: Ranks | None = None) -> None:
        """Take the statistics added since the last time up into the running averages.

        Parameters
        ----------
        ranks : Ranks or None
            Processes that have added those of their images, of which one may have none: put together in one
            call, in the factors' type.
        """
        sums, weight = self._sums, self._weight
        self.discard()
        if ranks is not None:
            sums, weight = self._of_all(ranks, sums or self._zeros(), weight)
        if not all(bool(total.isfinite().all()) for pair in sums for total in pair):
            return
        self.n_updates += 1
        share = max(1 / self.n_updates, 1 - DECAY)
        for pair, totals in zip(self.pairs, sums, strict=True):
            for factor, total in zip(pair, totals, strict=True):
                factor.average(total / weight, share)

    def _of_all(
        self, ranks: Ranks, sums: list[tuple[Tensor, Tensor]], weight: float
    ) -> tuple[list[tuple[Tensor, Tensor]], float]:
        own = [total.flatten() for pair in sums for total in pair]
        shared = ranks.add_up(torch.cat([*own, own[0].new_tensor([weight])]))
        parts = iter(torch.split(shared[:-1], [len(total) for total in own]))
        sums = [(next(parts).view_as(a), next(parts).view_as(g)) for a, g in sums]
        return sums, float(shared[-1])

    @property
    def mean_curvature(self) -> float:
        """Trace of K without damping, over the number of parameters."""
        traces = (
            left.mean_eigenvalue * left.size * right.mean_eigenvalue * right.size
            for left, right in self.pairs
        )
        return sum(traces) / self.network.n_parameters

    def invert(self, damping: float) -> None:
        """Invert each layer's (A + pi sqrt(mu) I) kron (G + sqrt(mu) / pi I), mu the damping.

        pi^2 is the ratio of the factors' mean eigenvalues. Where G is a multiple of the identity, as of
        the squared loss's outputs, all of mu goes to A, and the inverse is that of A kron G + mu I.
        """
        self.damping = damping
        for left, right in self.pairs:
            a, g = left.mean_eigenvalue, right.mean_eigenvalue
            if g > 0 and _is_multiple_of_identity(right, g):
                left.invert(damping / g)
                right.invert(0.0)
                continue
            ratio = math.sqrt(a / g) if g > 0 else math.inf
            pi = min(max(ratio, 1e-6), 1e6)
            left.invert(pi * math.sqrt(damping))
            right.invert(math.sqrt(damping) / pi)

    def solve(self, v: Tensor) -> Tensor:
        """K^{-1} v: shape (n,)."""
        result = torch.empty_like(v)
        for (left, right), source, target in zip(
            self.pairs, self.network.parameters(v), self.network.parameters(result), strict=True
        ):
            block = torch.cat([source.weight.flatten(1), source.bias.unsqueeze(1)], 1)
            block = right.solve(left.solve(block).t().contiguous()).t()
            target.weight.copy_(block[:, :-1].reshape(target.weight.shape))
            target.bias.copy_(block[:, -1])
        return result

    @property
    def state(self) -> Tensor:
        """The running averages in one vector."""
        return torch.cat([factor.blocks.flatten() for pair in self.pairs for factor in pair])

    def restore(self, state: Tensor) -> None:
        """Set the running averages to those of another metric's `state`."""
        start = 0
        for pair in self.pairs:
            for factor in pair:
                stop = start + factor.blocks.numel()
                factor.blocks.copy_(state[start:stop].view_as(factor.blocks))
                start = stop


def _is_multiple_of_identity(factor: Factor, mean: float) -> bool:
    if len(factor.blocks) > 1:
        return False
    difference = factor.blocks[0] - mean * torch.eye(factor.size).to(factor.blocks)
    return float(difference.abs().max()) <= 1e-6 * mean


def _weighted(rows: Tensor, root: Tensor | None) -> Tensor:
    """Multiply each image's rows by the root of its weight."""
    if root is None:
        return rows
    return (rows.view(len(root), -1, rows.shape[1]) * root.view(-1, 1, 1)).view(rows.shape)

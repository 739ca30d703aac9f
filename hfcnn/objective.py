"""The objective (27) and its gradient (29) over all images or some, batch by batch (Sec. 3.5)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.backend import TORCH, Backend
from hfcnn.images import Contribution, Images, Span
from hfcnn.linearization import Linearization
from hfcnn.loss import Loss, get_loss
from hfcnn.network import Network
from hfcnn.ranks import Ranks

__all__ = ["Evaluation", "Objective", "Passes", "forward", "outputs"]


@dataclass(frozen=True)
class Evaluation:
    """The objective f at a point, and what came with it.

    Attributes
    ----------
    value : float
        f(theta); inf where the evaluation stopped because f exceeds the bound it was given.
    gradient : Tensor of shape (n,) or None
        None where it was not asked for or the evaluation stopped.
    accuracy : float
        Share of the images whose label has the largest output, by weight; NaN where it stopped.
    """

    value: float
    gradient: Tensor | None
    accuracy: float


@dataclass
class Passes:
    """Images that went forward and backward through the network so far."""

    forward: int = 0
    backward: int = 0


def forward(network: Network, theta: Tensor, images: Tensor, backend: Backend = TORCH) -> Tensor:
    """Evaluate the network's outputs for one batch: shape (N, K)."""
    z = images
    for layer, (w, b) in zip(network.layers, network.parameters(theta), strict=True):
        z = layer.value(z.view(len(z), *layer.input_shape), w, b, backend.ops)
    return z


def outputs(
    network: Network,
    theta: Tensor,
    images: Any,
    backend: Backend = TORCH,
    batch_size: int | None = None,
) -> NDArray[Any]:
    """Evaluate the network's outputs for all images, batch by batch.

    Parameters
    ----------
    network : Network
        The network.
    theta : Tensor of shape (n,)
        Parameters, on the backend's device.
    images : Tensor or array of shape (l, H, W, C)
        Images of any real dtype.
    backend : Backend, default=TORCH
        Implementation of the layer operations and device.
    batch_size : int or None
        Images per batch; None chooses for the device.

    Returns
    -------
    ndarray of shape (l, K)
        Of theta's dtype.
    """
    data = Images(network, images, backend=backend, batch_size=batch_size)
    with torch.inference_mode():
        parts = data.each(
            data.spans(theta.dtype),
            lambda span: forward(network, theta, data.read(span, theta.dtype).images, backend).cpu(),
        )
        result: NDArray[Any] = torch.cat(list(parts)).numpy()
    return result


@dataclass
class Objective:
    """f(theta) = theta^T theta / 2C + mean of xi over images (27), and its gradient (29).

    Parameters
    ----------
    network : Network
        The network.
    images : Tensor or array of shape (l, H, W, C)
        Images of any real dtype; each batch is converted to theta's dtype and moved to the device.
    labels : Tensor of shape (l,)
        Class indices, int64.
    loss : {"squared", "cross_entropy"} or Loss, default="squared"
        xi.
    C : float
        The paper's C, that is scikit-learn's times l; inf drops the regularisation. It covers biases.
    sample_weight : Tensor of shape (l,) or None
        Weights of the images; the mean of xi is weighted. None is weights of one.
    backend : Backend, default=TORCH
        Implementation of the layer operations and device.
    batch_size : int or None
        Images per batch; None chooses for the device. Results differ between sizes by rounding only.
    ranks : Ranks or None
        Processes that share the images, each calling the same methods in the same order; None is this one
        alone.
    shard : {"block", "given"}, default="block"
        Whether each process passes all images, and reads its block of them, or its own.

    Attributes
    ----------
    passes : Passes
        Images that went through the network so far.
    data : Images
        The images with their labels and weights, from which all sums are made.

    Raises
    ------
    ValueError
        If the loss is unknown, C is not positive, or images, labels or weights do not fit.
    """

    network: Network
    images: Any
    labels: Tensor
    loss: str | Loss = "squared"
    C: float = math.inf
    sample_weight: Tensor | None = None
    backend: Backend = TORCH
    batch_size: int | None = None
    passes: Passes = field(default_factory=Passes)
    ranks: Ranks | None = None
    shard: str = "block"

    def __post_init__(self) -> None:
        self.loss = get_loss(self.loss)
        self.labels = torch.as_tensor(self.labels, dtype=torch.int64)
        if not self.C > 0:
            raise ValueError(f"C must be positive; got {self.C}")
        self.data = Images(
            self.network,
            self.images,
            self.labels,
            self.sample_weight,
            backend=self.backend,
            batch_size=self.batch_size,
            ranks=self.ranks,
            shard=self.shard,
        )

    @property
    def n_images(self) -> int:
        """Number l of images."""
        return len(self.data)

    def value(self, theta: Tensor, indices: NDArray[np.int64] | None = None) -> float:
        """The objective f at theta, over all images or those of `indices`."""
        return self.evaluate(theta, gradient=False, indices=indices).value

    def value_and_gradient(
        self, theta: Tensor, indices: NDArray[np.int64] | None = None
    ) -> tuple[float, Tensor]:
        """The objective f and its gradient at theta, over all images or those of `indices`."""
        result = self.evaluate(theta, indices=indices)
        assert result.gradient is not None
        return result.value, result.gradient

    def evaluate(
        self,
        theta: Tensor,
        *,
        gradient: bool = True,
        bound: float = math.inf,
        indices: NDArray[np.int64] | None = None,
    ) -> Evaluation:
        """Evaluate f, and with it the gradient and the accuracy, in one pass over the images.

        Parameters
        ----------
        theta : Tensor of shape (n,)
            Parameters, on the backend's device.
        gradient : bool, default=True
            Whether to go backward too.
        bound : float, default=inf
            Stop as soon as f is known to exceed this: the regularisation and the losses so far do, and
            the losses to come are not negative. Exact, and what makes a rejected trial cheap.
        indices : int64 array or None
            Average over these images instead of all.

        Returns
        -------
        Evaluation
        """
        loss = get_loss(self.loss)
        data = self.data if indices is None else self.data.subset(indices)
        norm = float(torch.dot(theta, theta)) / (2 * self.C)

        def is_over(value: float) -> bool:
            if bound == math.inf:  # any value is allowed, and the weights need not be known yet
                return math.isnan(norm + value)
            # written so that a NaN stops it too
            return not norm + value / data.total_weight <= bound

        def part(span: Span, so_far: float) -> Contribution:
            batch = data.read(span, theta.dtype)
            linear = Linearization(self.network, theta, batch.images, self.backend.ops) if gradient else None
            z = linear.outputs if linear else forward(self.network, theta, batch.images, self.backend)
            assert batch.labels is not None
            values, hits = loss.value(z, batch.labels), z.argmax(1) == batch.labels
            if batch.weight is not None:
                values, hits = values * batch.weight, hits * batch.weight
            sums = torch.stack((values.sum(dtype=torch.float64), hits.sum(dtype=torch.float64)))
            value, right = sums.tolist()
            if is_over(so_far + value):
                self.passes.forward += span.size
                return Contribution(None, value, right, is_last=True)
            if linear is None:
                self.passes.forward += span.size
                return Contribution(None, value, right)
            q = loss.gradient(z, batch.labels)
            if batch.weight is not None:
                q = q * batch.weight.unsqueeze(1)
            vector = linear.vjp(q)
            self.passes.forward += span.size
            self.passes.backward += span.size
            return Contribution(vector, value, right)

        grad = theta / self.C if gradient else None
        if bound < math.inf:
            data.total_weight  # noqa: B018, asked for by all processes now, or they would wait for each other
        before = replace(self.passes)
        totals = data.weighted_sum(
            data.spans(theta.dtype), part, grad, is_over=None if bound == math.inf else is_over
        )
        if data.ranks is not None:  # what all of them did, and not this one alone
            self.passes.forward = before.forward + round(totals.share * len(data))
            self.passes.backward = before.backward + gradient * round(totals.share * len(data))
        value = norm + totals.value / data.total_weight
        if totals.is_stopped:
            stopped = math.nan if math.isnan(totals.value) else math.inf
            return Evaluation(value if bound == math.inf else stopped, None, math.nan)
        return Evaluation(value, grad, totals.hits / data.total_weight)

"""The objective (27) and its gradient (29) over all images or some, batch by batch (Sec. 3.5)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.backend import TORCH, Backend, keep_heap
from hfcnn.cost import choose_batch_size
from hfcnn.linearization import Linearization
from hfcnn.loss import Loss, get_loss
from hfcnn.network import Network

__all__ = ["Evaluation", "Indices", "Objective", "Passes", "forward", "outputs", "take"]

Indices: TypeAlias = "NDArray[np.int64] | slice"


@dataclass(frozen=True)
class Evaluation:
    """F at a point, and what came with it.

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


def take(images: Any, index: Indices, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Read some images as a contiguous tensor; arrays on disk are read only there.

    Parameters
    ----------
    images : Tensor or array of shape (l, H, W, C)
        Of any real dtype, memory-mapped arrays included.
    index : slice or int64 array
        Which.
    """
    if isinstance(images, Tensor):
        part = images[index if isinstance(index, slice) else torch.from_numpy(index).to(images.device)]
    else:
        part = torch.from_numpy(np.array(images[index]))
    return part.to(device=device, dtype=dtype).contiguous()


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
        Images a batch; None chooses for the device.

    Returns
    -------
    ndarray of shape (l, K)
        Of theta's dtype.
    """
    backend.check(network.layers)
    keep_heap(backend.device)
    size = batch_size or choose_batch_size(network, theta.dtype.itemsize, backend.device)
    with torch.inference_mode():
        parts = [
            forward(
                network, theta, take(images, slice(i, i + size), theta.dtype, backend.device), backend
            ).cpu()
            for i in range(0, len(images), size)
        ]
    result: NDArray[Any] = torch.cat(parts).numpy()
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
        Images a batch; None chooses for the device. Results differ between sizes by rounding only.

    Attributes
    ----------
    passes : Passes
        Images that went through the network so far.
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

    def __post_init__(self) -> None:
        self.loss = get_loss(self.loss)
        shape = tuple(self.images.shape)
        if shape[1:] != self.network.input_shape:
            raise ValueError(f"images must be of shape (l, {self.network.input_shape}); got {shape}")
        self.labels = torch.as_tensor(self.labels, dtype=torch.int64)
        if self.labels.shape != shape[:1]:
            raise ValueError(f"labels must be of shape ({shape[0]},); got {tuple(self.labels.shape)}")
        if shape[0] == 0:
            raise ValueError("there are no images")
        self.backend.check(self.network.layers)
        if not self.C > 0:
            raise ValueError(f"C must be positive; got {self.C}")
        keep_heap(self.backend.device)

    @property
    def n_images(self) -> int:
        """Number l of images."""
        return len(self.labels)

    def value(self, theta: Tensor, indices: NDArray[np.int64] | None = None) -> float:
        """F at theta, over all images or those of `indices`."""
        return self.evaluate(theta, gradient=False, indices=indices).value

    def value_and_gradient(
        self, theta: Tensor, indices: NDArray[np.int64] | None = None
    ) -> tuple[float, Tensor]:
        """F and its gradient at theta, over all images or those of `indices`."""
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
        weight = self.sample_weight
        if weight is None:
            total_weight = float(self.n_images if indices is None else len(indices))
        else:
            total_weight = float((weight if indices is None else weight[indices]).sum(dtype=torch.float64))
        norm = float(torch.dot(theta, theta)) / (2 * self.C)
        total = correct = 0.0
        grad = theta / self.C if gradient else None
        for batch, labels, weights in self.batches(theta.dtype, indices):
            self.passes.forward += len(batch)
            linear = Linearization(self.network, theta, batch, self.backend.ops) if gradient else None
            outputs = linear.outputs if linear else forward(self.network, theta, batch, self.backend)
            values = loss.value(outputs, labels)
            hits = outputs.argmax(1) == labels
            if weights is not None:
                values, hits = values * weights, hits * weights
            batch_value, batch_hits = torch.stack(
                (values.sum(dtype=torch.float64), hits.sum(dtype=torch.float64))
            ).tolist()
            total, correct = total + batch_value, correct + batch_hits
            # written so that a NaN stops it too
            if not norm + total / total_weight <= bound:
                stopped = math.nan if math.isnan(total) else math.inf
                return Evaluation(
                    norm + total / total_weight if bound == math.inf else stopped, None, math.nan
                )
            if linear and grad is not None:
                q = loss.gradient(outputs, labels)
                if weights is not None:
                    q = q * weights.unsqueeze(1)
                grad.add_(linear.vjp(q), alpha=1 / total_weight)
                self.passes.backward += len(batch)
            del linear  # before the next batch's is made
        return Evaluation(norm + total / total_weight, grad, correct / total_weight)

    def batches(
        self, dtype: torch.dtype, indices: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield (images, labels, weights or None) batch by batch, on the backend's device."""
        device = self.backend.device
        size = self.batch_size or choose_batch_size(self.network, dtype.itemsize, device)
        n_images = self.n_images if indices is None else len(indices)
        for start in range(0, n_images, size):
            index: Indices = slice(start, min(start + size, n_images))
            if indices is not None:
                index = indices[index]
            weights = None if self.sample_weight is None else self.sample_weight[index].to(device, dtype)
            yield take(self.images, index, dtype, device), self.labels[index].to(device), weights

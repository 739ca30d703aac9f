"""What is timed: a network on random images, and the same by torch autograd, torch.func and curvlinops."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from hfcnn.backend import get_backend
from hfcnn.benchmark.timing import Timed
from hfcnn.gauss_newton import GaussNewton
from hfcnn.network import Network

__all__ = [
    "Case",
    "autograd_gradient",
    "channels_last",
    "curvlinops_operator",
    "curvlinops_product",
    "flat_product",
    "func_product",
]


@dataclass(frozen=True)
class Case:
    """A network, its parameters, random images and a direction."""

    network: Network
    theta: Tensor
    images: Tensor
    labels: Tensor
    v: Tensor

    @classmethod
    def draw(cls, preset: str, input_shape: tuple[int, int, int], n_images: int) -> Case:
        """Draw images N(0, 1), labels of ten classes and a direction N(0, 1)."""
        generator = torch.Generator().manual_seed(0)
        network = Network.preset(preset, input_shape, 10)
        theta = network.init(0)
        images = torch.randn(n_images, *input_shape, generator=generator)
        labels = torch.randint(0, 10, (n_images,), generator=generator)
        v = torch.randn(theta.shape, generator=generator)
        return cls(network, theta, images, labels, v)

    def to(self, device: torch.device) -> Case:
        """Move everything to a device."""
        moved = (part.to(device) for part in (self.theta, self.images, self.labels, self.v))
        return Case(self.network, *moved)

    @property
    def C(self) -> float:
        """The paper's C = 0.01 l."""
        return 0.01 * len(self.images)

    def torch_module(self) -> nn.Sequential:
        """Build the same network for torch, in its best memory format."""
        return channels_last(self.network, self.theta)

    def torch_batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Images (channels-last NCHW views) and one-hot labels in batches."""
        images, targets = self.images.permute(0, 3, 1, 2), F.one_hot(self.labels, 10).float()
        starts = range(0, len(images), size)
        return [(images[a : a + size], targets[a : a + size]) for a in starts]

    def operator(self, form: str, precision: str = "ieee") -> GaussNewton:
        """The Gauss-Newton operator at theta over all images."""
        backend = get_backend("torch", "cpu", precision)
        return GaussNewton(
            self.network, self.theta, self.images, C=self.C, damping=1.0, form=form, backend=backend
        )


def autograd_gradient(case: Case, size: int) -> Timed:
    """Forward and backward of the same network by torch autograd."""
    module, batches = case.torch_module(), case.torch_batches(size)

    def call() -> None:
        module.zero_grad()
        for images, targets in batches:
            loss: Tensor = (module(images) - targets).square().sum() / len(case.images)
            loss.backward()  # type: ignore[no-untyped-call]

    return call


def func_product(
    network: Network, theta: Tensor, v: Tensor, batches: Sequence[Tensor]
) -> Callable[[], dict[str, Tensor]]:
    """Gauss-Newton product for the squared loss by torch.func: of each batch a jvp, then a vjp.

    Parameters
    ----------
    network : Network
    theta, v : Tensor of shape (n,)
        Parameters and direction.
    batches : sequence of Tensor of shape (N, C, H, W)
        Images, channels last in memory.

    Returns
    -------
    callable
        Takes nothing; returns the product as torch's parameters, by name. `flat_product` reads it.
    """
    module, along = (channels_last(network, vector) for vector in (theta, v))
    parameters, tangents = (
        {name: value.detach() for name, value in model.named_parameters()} for model in (module, along)
    )
    scale = 2 / sum(len(images) for images in batches)

    def call() -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for images in batches:

            def outputs(p: dict[str, Tensor], images: Tensor = images) -> Any:
                return functional_call(module, p, (images,))

            _, z_dot = jvp(outputs, (parameters,), (tangents,))  # type: ignore[misc]
            _, pull = vjp(outputs, parameters)  # type: ignore[misc]
            (product,) = pull(scale * z_dot)
            total = {k: product[k] + total.get(k, 0) for k in product}
        return total

    return call


def flat_product(network: Network, product: dict[str, Tensor]) -> Tensor:
    """Order torch's parameters as theta is, on their device."""
    holder = network.to_torch(network.init(0))
    holder.load_state_dict({name: value.cpu() for name, value in product.items()})
    return network.from_torch(holder, network.input_shape)[1].to(next(iter(product.values())).device)


def channels_last(network: Network, theta: Tensor) -> nn.Sequential:
    """Build the same network for torch, in its best memory format, on the device of theta."""
    module = network.to_torch(theta.cpu()).to(theta.device)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def curvlinops_operator(case: Case, size: int) -> Any:
    """Gauss-Newton operator of curvlinops; ImportError where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies use what torch has deprecated
        from curvlinops import GGNLinearOperator
    module = case.torch_module()
    return GGNLinearOperator(
        module,
        nn.MSELoss(reduction="sum"),
        list(module.parameters()),
        case.torch_batches(size),
        check_deterministic=False,
    )


def curvlinops_product(case: Case, size: int) -> Timed:
    """Gauss-Newton product by curvlinops; ImportError where it is not installed."""
    operator = curvlinops_operator(case, size)
    return lambda: operator @ case.v

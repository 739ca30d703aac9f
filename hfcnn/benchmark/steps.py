"""Whole steps to time: a Gauss-Newton product and a Newton iteration, in each implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hfcnn.backend import Backend, get_backend
from hfcnn.benchmark.cases import flat_product, func_product
from hfcnn.gauss_newton import GaussNewton
from hfcnn.network import Network
from hfcnn.newton import NewtonOptions, NewtonState, newton
from hfcnn.objective import Objective

__all__ = ["Step", "whole_steps"]

Calls: TypeAlias = dict[str, Callable[[], Any]]

#: Iterations of CG in the Newton iteration that is timed: fixed, so that both backends do the same work.
CG_ITERATIONS = 10


@dataclass(frozen=True)
class Step:
    """A whole step.

    Attributes
    ----------
    name : str
        What is timed.
    calls : dict of str to callable
        By implementation.
    expected : Tensor or None
        The result in float64, where the step has one to be judged by.
    read : dict of str to callable
        How to read an implementation's result as a vector like `expected`, if it is not one.
    """

    name: str
    calls: Calls
    expected: Tensor | None = None
    read: dict[str, Callable[[Any], Tensor]] = field(default_factory=dict)


def whole_steps(
    network: Network,
    n_images: int,
    device: torch.device,
    *,
    kernels: str | None = None,
    compiles: bool = False,
) -> Iterator[Step]:
    """Build the steps of one network, on random images and labels.

    Parameters
    ----------
    network : Network
    n_images : int
        Images of the product, and training images of the iteration.
    device : torch.device
        Where.
    kernels : {"tf32", "tf32x3", "ieee"} or None, default=None
        Arithmetic of the Triton kernels; None leaves them out.
    compiles : bool, default=False
        Whether to try torch.compile on the product.

    Yields
    ------
    Step
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n_images, *network.input_shape, generator=generator).to(device)
    theta = network.init(0).to(device)
    direction = torch.randn(network.n_parameters, generator=generator).to(device)
    backends = {"torch": get_backend("torch", device.type)}
    if kernels is not None:
        backends = {"triton": get_backend("triton", device.type, kernels), **backends}
    yield _product(network, theta, images, direction, backends, compiles)
    yield Step(f"Newton iteration, {CG_ITERATIONS} CG", _iterations(network, theta, images, backends))


def _product(
    network: Network, theta: Tensor, images: Tensor, v: Tensor, backends: dict[str, Backend], compiles: bool
) -> Step:
    calls: Calls = {
        name: partial(GaussNewton(network, theta, images, form="rop", backend=backend).matvec, v)
        for name, backend in backends.items()
    }
    calls["func"] = func_product(network, theta, v, [images.permute(0, 3, 1, 2)])
    if compiles:
        torch.compiler.reset()
        calls["compiled"] = torch.compile(calls["func"], dynamic=False)
    # in float64 on the CPU: a GPU's torch may multiply in tf32
    exact = GaussNewton(network, theta.double().cpu(), images.double().cpu(), form="rop") @ v.double().cpu()
    read = partial(flat_product, network)
    return Step("Gauss-Newton product", calls, exact.to(v.device), {"func": read, "compiled": read})


def _iterations(network: Network, theta: Tensor, images: Tensor, backends: dict[str, Backend]) -> Calls:
    labels = torch.arange(len(images), device=images.device) % network.n_outputs

    def first_iteration(objective: Objective) -> NewtonState:
        return next(newton(objective, theta, options))

    # a residual of zero is never reached, so CG takes all its iterations
    options = NewtonOptions(max_iter=1, cg_tol=0.0, cg_max_iter=CG_ITERATIONS, sampling_rate=0.25)
    calls: Calls = {}
    for name, backend in backends.items():
        objective = Objective(network, images, labels, loss="squared", C=0.01 * len(images), backend=backend)
        calls[name] = partial(first_iteration, objective)
    return calls

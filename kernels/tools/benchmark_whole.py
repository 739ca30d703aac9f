"""Whole steps to time: a Gauss-Newton product and a Newton iteration, in each implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp

from .report_cases import IMAGES, N_OUTPUTS

if TYPE_CHECKING:
    from hfcnn.network import Network

    from .benchmark import Settings

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


def whole_steps(name: str, images: str, settings: Settings) -> Iterator[Step]:
    """Build the steps of one network, on random images and labels."""
    from hfcnn.network import Network

    network = Network.preset(name, IMAGES[images], N_OUTPUTS)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(settings.n_images, *network.input_shape, generator=generator).to(settings.device)
    theta = network.init(0).to(settings.device)
    direction = torch.randn(network.n_parameters, generator=generator).to(settings.device)
    yield _product(network, theta, data, direction, settings)
    yield Step(f"Newton iteration, {CG_ITERATIONS} CG", _iterations(network, theta, data, settings))


def _backends(settings: Settings) -> dict[str, Any]:
    from hfcnn.backend import get_backend

    device = settings.device.type
    found = {"torch": get_backend("torch", device)}
    if settings.kernels is not None:
        found = {"triton": get_backend("triton", device, settings.precision), **found}
    return found


def _product(network: Network, theta: Tensor, images: Tensor, v: Tensor, settings: Settings) -> Step:
    from hfcnn.gauss_newton import GaussNewton

    calls: Calls = {}
    for name, backend in _backends(settings).items():
        matrix = GaussNewton(network, theta, images, form="rop", backend=backend)
        calls[name] = partial(matrix.matvec, v)
    calls["func"], read = _transform_product(network, theta, images, v)
    if settings.compiles:
        torch.compiler.reset()
        calls["compiled"] = torch.compile(calls["func"], dynamic=False)
    # in float64 on the CPU: a GPU's torch may multiply in tf32
    exact = GaussNewton(network, theta.double().cpu(), images.double().cpu(), form="rop") @ v.double().cpu()
    readers = {"func": read, "compiled": read}
    return Step("Gauss-Newton product", calls, exact.to(v.device), readers)


def _transform_product(
    network: Network, theta: Tensor, images: Tensor, v: Tensor
) -> tuple[Callable[[], Any], Callable[[Any], Tensor]]:
    """Write the product for the squared loss by torch.func, and a reader of it as a flat vector."""
    model, along = (network.to_torch(vector.cpu()).to(vector.device) for vector in (theta, v))
    parameters, tangents = (
        {name: value.detach() for name, value in module.named_parameters()} for module in (model, along)
    )
    inputs = images.permute(0, 3, 1, 2)

    def outputs(parameters: dict[str, Tensor]) -> Any:
        return functional_call(model, parameters, (inputs,))

    def product() -> Any:
        z_dot = jvp(outputs, (parameters,), (tangents,))[1]
        return vjp(outputs, parameters)[1](2 / len(images) * z_dot)[0]

    def read(result: dict[str, Tensor]) -> Tensor:
        holder = network.to_torch(theta.cpu())
        holder.load_state_dict({name: value.cpu() for name, value in result.items()})
        return network.from_torch(holder, network.input_shape)[1].to(v.device)

    return product, read


def _iterations(network: Network, theta: Tensor, images: Tensor, settings: Settings) -> Calls:
    from hfcnn.newton import NewtonOptions, NewtonState, newton
    from hfcnn.objective import Objective

    labels = torch.arange(len(images), device=images.device) % N_OUTPUTS

    def first_iteration(objective: Objective) -> NewtonState:
        return next(newton(objective, theta, options))

    # a residual of zero is never reached, so CG takes all its iterations
    options = NewtonOptions(max_iter=1, cg_tol=0.0, cg_max_iter=CG_ITERATIONS, sampling_rate=0.25)
    calls: Calls = {}
    for name, backend in _backends(settings).items():
        objective = Objective(network, images, labels, loss="squared", C=0.01 * len(images), backend=backend)
        calls[name] = partial(first_iteration, objective)
    return calls

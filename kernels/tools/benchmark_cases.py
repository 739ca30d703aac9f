"""What the benchmark times: an operation on random data, in each implementation, and its float64 truth."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp, vjp, vmap

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["OpArguments", "draw_arguments", "gate", "implementations", "judged_outputs", "truth"]

Call: TypeAlias = Callable[[], Any]

#: Largest difference from float64 that passes, over the largest value of the truth; and the same of the
#: root mean squares. tf32 keeps 10 bits of each factor, and truncates.
TOLERANCES = {"ieee": (2e-5, 2e-6), "tf32x3": (2e-5, 2e-6), "tf32": (1e-2, 2e-3)}


@dataclass(frozen=True)
class OpArguments:
    """An op's arguments by name, in float32 on a device; `code` is the selection as the kernels take it."""

    op: str
    layer: ConvLayer | None
    values: Mapping[str, Any]
    code: Tensor | None


def draw_arguments(
    op: str,
    layer: ConvLayer | None,
    n_images: int,
    device: torch.device,
    *,
    is_first: bool = False,
    n_outputs: int = 1,
    seed: int = 0,
) -> OpArguments:
    """Draw an op's arguments; `n_images` is the length of the vectors of `cg_update`."""
    from hfcnn import ops

    # where they are used: a processor takes minutes for what all checks of a GPU need
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device).mul_(scale)

    if layer is None:
        # a direction much longer than the residual: repeated steps, each from the last, stay finite
        r, p = draw(n_images), draw(n_images, scale=1e4)
        values: dict[str, Any] = {"x": draw(n_images), "r": r, "p": p, "Ap": p + draw(n_images)}
        values |= {"status": torch.stack((r @ r, r @ r)), "before": draw(2, n_images)}
        return OpArguments(op, None, values, None)
    spread = math.sqrt(2 / layer.fan_in)
    many = n_outputs > 1
    cotangents = (n_images, n_outputs, *layer.output_shape) if many else (n_images, *layer.output_shape)
    z, z_dot = draw(n_images, *layer.input_shape).relu_(), draw(n_images, *layer.input_shape)
    w, b = draw(*layer.weight_shape, scale=spread), draw(layer.filters, scale=0.1)
    _, selection = ops.conv_forward(z, w, b, layer)
    code = ops.encode(selection)
    values = {
        "z": z,
        "z_dot": None if is_first else z_dot,
        "w": w,
        "b": b,
        "v": draw(*layer.weight_shape, scale=spread),
        "v_bias": draw(layer.filters),
        "g": draw(*cotangents),
        "D": draw(*cotangents) * (code != ops.RELU_OFF).unsqueeze(1) if many else None,
        "q": draw(n_images, n_outputs),
        "selection": selection,
        "layer": layer,
    }
    return OpArguments(op, layer, values, code)


def implementations(
    case: OpArguments, kernels: Any | None, precision: str, compiles: bool
) -> dict[str, Call]:
    """Each implementation of the problem's op as a function without arguments.

    Parameters
    ----------
    case : OpArguments
    kernels : module or None
        `hfcnn.kernels`, where there is a GPU.
    precision : str
        Arithmetic of the kernels.
    compiles : bool
        Whether to try torch.compile.

    Returns
    -------
    dict of str to callable
        "triton", "torch" (`hfcnn.ops`), "func" (torch.func on a torch layer, its forward pass included, as
        it is in every call of the transforms) and "compiled" (torch.compile of that).
    """
    from hfcnn import ops

    found: dict[str, Call] = {}
    if kernels is not None:
        ready = _as_in_a_fit(case, kernels)
        fused, arguments = getattr(kernels, case.op), _arguments(ready, ready.values, case.code)
        keywords = {} if case.layer is None else {"precision": precision}
        found["triton"] = lambda: fused(*arguments, **keywords)
    plain, taken = getattr(ops, case.op), _arguments(case, case.values, case.values.get("selection"))
    found["torch"] = lambda: plain(*taken)
    transform = _transform(case)
    if transform is not None:
        found["func"] = transform
    if compiles:
        # all shapes share the code of a closure, and after a few of them dynamo would stop compiling it
        torch.compiler.reset()
        found["compiled"] = torch.compile(transform or found["torch"], dynamic=False)
    return found


def _as_in_a_fit(case: OpArguments, kernels: Any) -> OpArguments:
    """Arguments as layers of a fit hand them to the kernels: images with a border, the forms of w kept.

    Of plain arrays an op makes these first, which a fit does once for many calls.
    """
    if case.layer is None:
        return case
    values = dict(case.values)
    for name in ("z", "z_dot"):
        if values[name] is not None:
            values[name] = kernels.conv_images(values[name], case.layer)
    values["w"] = kernels.conv_weight(values["w"], case.layer)
    return replace(case, values=values)


def truth(case: OpArguments) -> tuple[Tensor, ...]:
    """Outputs of the op in float64 by `hfcnn.ops`."""
    from hfcnn import ops

    values = {
        name: value.double() if isinstance(value, Tensor) else value for name, value in case.values.items()
    }
    return judged_outputs(case, getattr(ops, case.op)(*_arguments(case, values, case.code)), values)


def judged_outputs(
    case: OpArguments, result: Any, values: Mapping[str, Any] | None = None
) -> tuple[Tensor, ...]:
    """Tensors that an op is judged by.

    Of `conv_forward`, beside its output, what its selection picks from the layer in float64: near ties may
    be decided either way. Of `cg_update`, the vectors that it changes too.
    """
    if case.op == "cg_update":
        after = values if values is not None else case.values
        return tuple(after[name] for name in ("status", "x", "r", "p", "before"))
    if case.op == "conv_forward":
        return (result[0], _picked(case, result[1])) if isinstance(result, tuple) else (result, result)
    return result if isinstance(result, tuple) else (result,)


def _picked(case: OpArguments, selection: Any) -> Tensor:
    from hfcnn import ops

    assert case.layer is not None
    z, w, b = (case.values[name].double() for name in ("z", "w", "b"))
    # the tangent along the parameters themselves is the layer, selected
    code = selection if isinstance(selection, Tensor) else ops.encode(selection)
    return ops.conv_jvp(z, None, w, w, b, code, case.layer)


def gate(expected: tuple[Tensor, ...], actual: tuple[Tensor, ...], precision: str) -> tuple[float, bool]:
    """Compare with the truth: the largest relative difference, and whether it passes `TOLERANCES`."""
    worst, passes = 0.0, True
    largest_allowed, rms_allowed = TOLERANCES[precision]
    for want, have in zip(expected, actual, strict=True):
        difference = have.double() - want
        scale = max(float(want.abs().max()), torch.finfo(torch.float64).tiny)
        rms = max(float(want.square().mean().sqrt()), torch.finfo(torch.float64).tiny)
        largest = float(difference.abs().max()) / scale
        # written so that a NaN fails
        passes &= largest <= largest_allowed
        passes &= float(difference.square().mean().sqrt()) / rms <= rms_allowed
        worst = largest if not largest <= worst else worst
    return worst, passes


def _arguments(case: OpArguments, values: Mapping[str, Any], selection: Any) -> list[Any]:
    """Arguments in the order of the op's signature."""
    from hfcnn import ops

    parameters = inspect.signature(getattr(ops, case.op)).parameters
    names = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    return [selection if name == "selection" else values[name] for name in names]


def _transform(case: OpArguments) -> Call | None:
    """Write the op as a torch user would: torch.func on conv2d, relu and max_pool2d."""
    layer, x = case.layer, case.values
    if layer is None:
        return None
    z, w, b = x["z"], x["w"], x["b"]

    def forward(z: Tensor, w: Tensor, b: Tensor) -> Tensor:
        s = F.conv2d(z.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2), b, layer.stride, layer.padding)
        s = F.max_pool2d(s.relu(), layer.pool) if layer.is_pooled else s.relu()
        return s.permute(0, 2, 3, 1)

    def of_parameters(w: Tensor, b: Tensor) -> Tensor:
        return forward(z, w, b)

    def tangent() -> Tensor:
        if case.op == "jacobian_jvp" or x["z_dot"] is None:
            result: Tensor = jvp(of_parameters, (w, b), (x["v"], x["v_bias"]))[1]
        else:
            result = jvp(forward, (z, w, b), (x["z_dot"], x["v"], x["v_bias"]))[1]
        return result

    def to_input() -> Tensor:
        pull = vjp(lambda z: forward(z, w, b), z)[1]
        rows: Tensor = pull(x["g"])[0] if x["g"].dim() == 4 else vmap(pull, 1, 1)(x["g"])[0]
        return rows

    def to_weight(g: Tensor) -> Any:
        return vjp(of_parameters, w, b)[1](g)

    written: dict[str, Call] = {
        "conv_forward": lambda: forward(z, w, b),
        "conv_value": lambda: forward(z, w, b),
        "conv_jvp": tangent,
        "conv_vjp_input": to_input,
        "conv_vjp_weight": lambda: to_weight(x["g"]),
        "jacobian_jvp": lambda: torch.einsum("nkhwo,nhwo->nk", x["D"], tangent()),
        "jacobian_vjp": lambda: to_weight(torch.einsum("nk,nkhwo->nhwo", x["q"], x["D"])),
    }
    return written.get(case.op)  # nobody writes a gram by transforms

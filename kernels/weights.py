"""Weights in the order in which kernels read them, and gradients back in theta's.

theta keeps a weight as (O, KH, KW, C), at any offset. Kernels read aligned rows, the channels filled up as
those of the images are. Where channels are few, the patch under a whole pooling window meets the weights of
all its positions at once, each shifted to its place in that patch and zero elsewhere: WINDOWS O rows.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import ITEM_SIZES, Launch, Request
from .shapes import BLOCK_E, Patch, ceil_divide, filled, patch_of, power_of_two
from .tiles import elements, is_joint

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_weight", "form_of", "n_partial", "pack_weight", "plan_pack", "plan_sum_gradient"]

#: Elements that a program sums: enough programs for a small weight, and whole cache lines.
BLOCK_S = 128


@triton.jit
def _pack_kernel(
    w,
    packed,
    SIZE: tl.constexpr,
    C: tl.constexpr,
    O: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    RW: tl.constexpr,
    N_RUNS: tl.constexpr,
    RUN: tl.constexpr,
    CZ: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    o_e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    c = o_e % CZ
    column = o_e % RUN // CZ
    row = o_e // RUN % N_RUNS
    o = o_e // (RUN * N_RUNS) % O
    window = o_e // (RUN * N_RUNS * O)
    kh = row - window // RW * SH
    kw = column - window % RW * SW
    m_e = (o_e < SIZE) & (c < C) & (kh >= 0) & (kh < KH) & (kw >= 0) & (kw < KW)
    b_w = tl.load(w + ((o * KH + kh) * KW + kw) * C + c, mask=m_e, other=0.0)
    tl.store(packed + o_e, b_w, mask=o_e < SIZE)


def _order(layer: ConvLayer, patch: Patch) -> dict[str, int]:
    """Constants that say where a weight is in theta, and where in a packed row."""
    return {
        "C": layer.channels,
        "O": layer.filters,
        "KH": layer.kernel[0],
        "KW": layer.kernel[1],
        "SH": layer.stride[0],
        "SW": layer.stride[1],
        "RW": layer.pool[1],
        "N_RUNS": patch.n_runs,
        "RUN": patch.run,
        "CZ": filled(layer.channels),
    }


def plan_pack(op: str, request: Request) -> list[Launch]:
    """Launch that packs a weight, if theta's order is not what the kernels of `op` read."""
    layer, joint = request.layer, is_joint(request)
    if not joint and filled(layer.channels) == layer.channels:
        return []
    patch = patch_of(layer, joint)
    size = patch.windows * layer.filters * patch.size
    pointer, block = f"*{request.dtype}", elements(request, BLOCK_E)
    return [
        Launch(
            op,
            _pack_kernel,
            {"w": pointer, "packed": pointer},
            {
                "SIZE": size,
                **_order(layer, patch),
                "BLOCK_E": block,
            },
            4,
            1,
            (ceil_divide(size, block),),
            0,
            layer.filters * layer.fan_in * request.item_size,
            size * request.item_size,
            0,
        )
    ]


class KeptWeight(Tensor):
    """A weight that several products read, with the forms of it that kernels read, each made once."""

    forms: dict[str, Tensor]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def conv_weight(w: Tensor, layer: ConvLayer) -> Tensor:
    """Weight (O, KH, KW, C) for several products: they share what they make of it."""
    kept = w.as_subclass(KeptWeight)
    kept.forms = {}
    return kept


def form_of(w: Tensor, name: str, launch: Launch | None) -> Tensor:
    """Form of a weight that a launch makes, or else an aligned copy: the one that is kept, or a new one."""
    if isinstance(w, KeptWeight) and name in w.forms:
        return w.forms[name]
    if launch is None:
        made = w.clone()
    else:
        made = torch.empty(launch.constexprs["SIZE"], dtype=w.dtype, device=w.device)
        launch.run(w, made)
    if isinstance(w, KeptWeight):
        w.forms[name] = made
    return made


def pack_weight(w: Tensor, pack: list[Launch]) -> Tensor:
    """Weight as a kernel reads it: packed by the launch of `plan_pack`, if there is one, and aligned."""
    if not pack and w.data_ptr() % 16 == 0:
        return w
    return form_of(w, "packed", pack[0] if pack else None)


@triton.jit
def _sum_gradient_kernel(
    partial,
    out,
    N_ROWS: tl.constexpr,
    N_COLUMNS: tl.constexpr,
    N_WEIGHTS: tl.constexpr,
    C: tl.constexpr,
    O: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    RW: tl.constexpr,
    N_RUNS: tl.constexpr,
    RUN: tl.constexpr,
    CZ: tl.constexpr,
    WINDOWS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    o_e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    is_weight = o_e < N_WEIGHTS
    o = o_e // (KH * KW * C)
    kh = o_e // (KW * C) % KH
    kw = o_e // C % KW
    acc = tl.full((BLOCK_R, BLOCK_E), 0.0, partial.dtype.element_ty)
    for window in range(WINDOWS):
        row = (window * O + o) * N_RUNS + kh + window // RW * SH
        column = row * RUN + (kw + window % RW * SW) * CZ + o_e % C
        # after the weights of all positions come the biases, once
        bias = WINDOWS * O * N_RUNS * RUN + o_e - N_WEIGHTS
        m_e = (o_e < N_WEIGHTS + O) & (is_weight | (window == 0))
        column = tl.where(is_weight, column, bias)
        for i_r in range(0, N_ROWS, BLOCK_R):
            o_r = i_r + tl.arange(0, BLOCK_R)
            m = (o_r < N_ROWS)[:, None] & m_e[None, :]
            acc += tl.load(
                partial + o_r.to(tl.int64)[:, None] * N_COLUMNS + column[None, :], mask=m, other=0.0
            )
    tl.store(out + o_e, tl.sum(acc, axis=0), mask=o_e < N_WEIGHTS + O)


def plan_sum_gradient(op: str, request: Request, n_rows: int) -> Launch:
    """Add partial sums of a weight's gradient, `n_rows` of `n_partial` columns, in theta's order.

    Partial sums are in the order of packed weights, with the bias after them.
    """
    layer, patch = request.layer, patch_of(request.layer, is_joint(request))
    n_columns, block = n_partial(request), elements(request, BLOCK_S)
    sums = "fp64" if request.dtype == "fp64" else "fp32"
    return Launch(
        op,
        _sum_gradient_kernel,
        {"partial": f"*{sums}", "out": f"*{request.dtype}"},
        {
            "N_ROWS": n_rows,
            "N_COLUMNS": n_columns,
            "N_WEIGHTS": layer.filters * layer.fan_in,
            **_order(layer, patch),
            "WINDOWS": patch.windows,
            "BLOCK_R": min(16, power_of_two(n_rows)),
            "BLOCK_E": block,
        },
        4,
        1,
        (ceil_divide(layer.n_parameters, block),),
        n_rows * n_columns,
        n_rows * n_columns * ITEM_SIZES[sums],
        layer.n_parameters * request.item_size,
        0,
    )


def n_partial(request: Request) -> int:
    """Columns of the partial sums of a weight's gradient: packed weights, then biases."""
    patch = patch_of(request.layer, is_joint(request))
    return request.layer.filters * (patch.windows * patch.size + 1)

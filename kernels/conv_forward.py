"""Convolution, bias, ReLU and max pooling in one kernel: z_next = pool(relu(W phi(pad(z)) + b)) (21), (22).

z (N, H, W, C), w (O, KH, KW, C) and b (O,) give z_next and the code, both (N, Hp, Wp, O): which position of
its window an output took, row-major and the first of equals, or 255 where the ReLU is off (84).

torch writes S before pooling and reads it again to pool, and keeps int64 indices; with windows of r^2 that is
2 r^2 + 4 elements an output where this kernel writes one element and one byte. The r^2 window positions are
r^2 products of the same tile, one after the other, so that one accumulator and the running maximum are all
that registers hold. Reference: hfcnn.ops.conv_forward, hfcnn.ops.conv_value.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import check_images, check_tensors
from .device import convolve, tile_of
from .launch import Launch, Request, plan, planner
from .shapes import ceil_divide, geometry, traffic
from .tiles import accumulator, arithmetic, tile_for

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_forward", "conv_value"]


@triton.jit(do_not_specialize=["n_images"])
def _conv_forward_kernel(
    z,
    w,
    b,
    z_next,
    code,
    n_images,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    O: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    RH: tl.constexpr,
    RW: tl.constexpr,
    HP: tl.constexpr,
    WP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEPS_CODE: tl.constexpr,
):
    n_first, i_n, o_p, m_p = tile_of(tl.program_id(0), n_images, HP * WP, BLOCK_P)
    o_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    z += n_first * (H * W * C)
    b_b = tl.load(b + o_o, mask=o_o < O, other=0.0)

    best = tl.full((BLOCK_P, BLOCK_O), float("-inf"), ACC)
    taken = tl.full((BLOCK_P, BLOCK_O), 0, tl.int32)
    for window in range(RH * RW):
        row = (o_p // WP * RH + window // RW) * SH - PH
        column = (o_p % WP * RW + window % RW) * SW - PW
        acc = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
        acc = convolve(acc, z, w, i_n, row, column, m_p, o_o, H, W, C, O, KH, KW, BLOCK_K, PRECISION)
        acc += b_b[None, :]
        is_more = (acc > best) | (acc != acc)  # as in torch, NaN wins
        best = tl.where(is_more, acc, best)
        taken = tl.where(is_more, window, taken)

    is_off = best <= 0
    first = n_first * (HP * WP * O)
    o_out = (i_n * (HP * WP) + o_p)[:, None] * O + o_o[None, :]
    m_out = m_p[:, None] & (o_o < O)[None, :]
    tl.store(z_next + first + o_out, tl.where(is_off, 0.0, best), mask=m_out)
    if KEEPS_CODE:
        tl.store(code + first + o_out, tl.where(is_off, 255, taken).to(tl.uint8), mask=m_out)


def _plan(op: str, request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("forward", request)
    positions = request.n_images * layer.out_height * layer.out_width
    count = traffic(op, request)
    pointer = f"*{request.dtype}"
    return [
        Launch(
            op,
            _conv_forward_kernel,
            {"z": pointer, "w": pointer, "b": pointer, "z_next": pointer, "code": "*u8", "n_images": "i32"},
            {
                **geometry(layer),
                "BLOCK_P": tile.p,
                "BLOCK_O": tile.c,
                "BLOCK_K": tile.k,
                "ACC": accumulator(request),
                "PRECISION": arithmetic(request),
                "KEEPS_CODE": op == "conv_forward",
            },
            tile.num_warps,
            tile.num_stages,
            (ceil_divide(positions, tile.p), ceil_divide(layer.filters, tile.c)),
            count.flops,
            count.bytes_read,
            count.bytes_written,
            count.bytes_unfused,
        )
    ]


@planner("conv_forward")
def _plan_forward(request: Request) -> list[Launch]:
    return _plan("conv_forward", request)


@planner("conv_value")
def _plan_value(request: Request) -> list[Launch]:
    return _plan("conv_value", request)


def conv_forward(
    z: Tensor, w: Tensor, b: Tensor, layer: ConvLayer, *, precision: str = "tf32"
) -> tuple[Tensor, Tensor]:
    """Evaluate a convolutional layer and keep its selection (21), (22).

    Parameters
    ----------
    z : Tensor of shape (N, H, W, C)
        Input.
    w : Tensor of shape (O, KH, KW, C)
        Weight.
    b : Tensor of shape (O,)
        Bias.
    layer : ConvLayer
        The layer's geometry.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32.

    Returns
    -------
    z_next : Tensor of shape (N, Hp, Wp, O)
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        Position taken in each window, 255 where the ReLU is off.

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous.
    """
    n_images = check_images(z, layer, precision)
    check_tensors(z, w=(w, layer.weight_shape), b=(b, (layer.filters,)))
    z_next = torch.empty((n_images, *layer.output_shape), dtype=z.dtype, device=z.device)
    code = torch.empty(z_next.shape, dtype=torch.uint8, device=z.device)
    (launch,) = plan("conv_forward", layer, z, n_images, precision)
    launch.run(z, w, b, z_next, code, n_images)
    return z_next, code


def conv_value(z: Tensor, w: Tensor, b: Tensor, layer: ConvLayer, *, precision: str = "tf32") -> Tensor:
    """Evaluate a convolutional layer without its selection: `conv_forward`'s z_next, with the same bits.

    Returns
    -------
    Tensor of shape (N, Hp, Wp, O)
    """
    n_images = check_images(z, layer, precision)
    check_tensors(z, w=(w, layer.weight_shape), b=(b, (layer.filters,)))
    z_next = torch.empty((n_images, *layer.output_shape), dtype=z.dtype, device=z.device)
    (launch,) = plan("conv_value", layer, z, n_images, precision)
    launch.run(z, w, b, z_next, z_next, n_images)
    return z_next

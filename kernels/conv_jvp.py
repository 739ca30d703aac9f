"""Derivative of a layer along (z_dot, v, v_bias): select(V phi(z) + W phi(z_dot) + v_bias).

z, z_dot (N, H, W, C), w, v (O, KH, KW, C), v_bias (O,) and the code (N, Hp, Wp, O) give (N, Hp, Wp, O).
Both convolutions are one product of double depth, and the epilogue keeps at each output the window position
that theta took, or zero where the ReLU is off (84).

torch writes two pre-pool arrays, adds them, and gathers: 5 r^2 + 5 elements and an index an output where this
kernel reads a byte and writes one element. The first layer has no z_dot, and half the depth.
Reference: hfcnn.ops.conv_jvp.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import check_images, check_selection, check_tensors
from .device import convolve, tile_of
from .launch import Launch, Request, plan, planner
from .shapes import ceil_divide, geometry, traffic
from .tiles import accumulator, arithmetic, tile_for

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_jvp"]


@triton.jit(do_not_specialize=["n_images"])
def _conv_jvp_kernel(
    z,
    z_dot,
    w,
    v,
    v_bias,
    code,
    z_next_dot,
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
    HAS_TANGENT: tl.constexpr,
):
    n_first, i_n, o_p, m_p = tile_of(tl.program_id(0), n_images, HP * WP, BLOCK_P)
    o_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    z += n_first * (H * W * C)
    z_dot += n_first * (H * W * C)
    first = n_first * (HP * WP * O)
    o_out = (i_n * (HP * WP) + o_p)[:, None] * O + o_o[None, :]
    m_out = m_p[:, None] & (o_o < O)[None, :]

    out = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
    for window in range(RH * RW):
        row = (o_p // WP * RH + window // RW) * SH - PH
        column = (o_p % WP * RW + window % RW) * SW - PW
        acc = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
        acc = convolve(acc, z, v, i_n, row, column, m_p, o_o, H, W, C, O, KH, KW, BLOCK_K, PRECISION)
        if HAS_TANGENT:
            acc = convolve(acc, z_dot, w, i_n, row, column, m_p, o_o, H, W, C, O, KH, KW, BLOCK_K, PRECISION)
        b_code = tl.load(code + first + o_out, mask=m_out, other=255)
        out = tl.where(b_code == window, acc, out)

    b_v = tl.load(v_bias + o_o, mask=o_o < O, other=0.0)
    b_code = tl.load(code + first + o_out, mask=m_out, other=255)
    out = tl.where(b_code == 255, 0.0, out + b_v[None, :])
    tl.store(z_next_dot + first + o_out, out, mask=m_out)


@planner("conv_jvp")
def _plan(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("forward", request)
    positions = request.n_images * layer.out_height * layer.out_width
    count = traffic("conv_jvp", request)
    pointer = f"*{request.dtype}"
    return [
        Launch(
            "conv_jvp",
            _conv_jvp_kernel,
            {
                "z": pointer,
                "z_dot": pointer,
                "w": pointer,
                "v": pointer,
                "v_bias": pointer,
                "code": "*u8",
                "z_next_dot": pointer,
                "n_images": "i32",
            },
            {
                **geometry(layer),
                "BLOCK_P": tile.p,
                "BLOCK_O": tile.c,
                "BLOCK_K": tile.k,
                "ACC": accumulator(request),
                "PRECISION": arithmetic(request),
                "HAS_TANGENT": not request.is_first,
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


def conv_jvp(
    z: Tensor,
    z_dot: Tensor | None,
    w: Tensor,
    v: Tensor,
    v_bias: Tensor,
    selection: Tensor,
    layer: ConvLayer,
    *,
    precision: str = "tf32",
) -> Tensor:
    """Derivative of the layer's output along (z_dot, v, v_bias): W * z_dot + V * z, selected.

    Parameters
    ----------
    z, z_dot : Tensor of shape (N, H, W, C)
        Input and its tangent; None where the tangent is zero, as in the first layer.
    w, v : Tensor of shape (O, KH, KW, C)
        Weight and its tangent.
    v_bias : Tensor of shape (O,)
        Tangent of the bias.
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        `conv_forward`'s.
    layer : ConvLayer
        The layer's geometry.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32.

    Returns
    -------
    Tensor of shape (N, Hp, Wp, O)

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous.
    """
    n_images = check_images(z, layer, precision)
    check_tensors(z, w=(w, layer.weight_shape), v=(v, layer.weight_shape), v_bias=(v_bias, (layer.filters,)))
    if z_dot is not None:
        check_tensors(z, z_dot=(z_dot, z.shape))
    out = torch.empty((n_images, *layer.output_shape), dtype=z.dtype, device=z.device)
    check_selection(selection, z, out.shape)
    (launch,) = plan("conv_jvp", layer, z, n_images, precision, is_first=z_dot is None)
    launch.run(z, z if z_dot is None else z_dot, w, v, v_bias, selection, out, n_images)
    return out

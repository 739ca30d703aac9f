"""Gradient of a layer in its input: the adjoint of z -> select(W phi(pad(z))) (58), (68).

g (N, Hp, Wp, O), or (N, K, Hp, Wp, O) with K rows an image that share its code, w (O, KH, KW, C) and the code
(N, Hp, Wp, O) give (N, H, W, C) or (N, K, H, W, C). An input position gathers from the outputs that its taps
reached; g is expanded by the code while it loads, so no pre-pool array exists.

torch masks g, scatters it into a pre-pool array and reads that again: 2 r^2 + 4 elements and an index an
output and row where this kernel reads one element and a byte. Reference: hfcnn.ops.conv_vjp_input.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import check_cotangent, check_selection, check_tensors
from .device import multiply, tile_of
from .launch import Launch, Request, plan, planner
from .shapes import ceil_divide, geometry, traffic
from .tiles import accumulator, arithmetic, tile_for

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_vjp_input"]


@triton.jit(do_not_specialize=["n_rows"])
def _conv_vjp_input_kernel(
    g,
    w,
    code,
    g_input,
    n_rows,
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
    ROWS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n_first, i_n, o_p, m_p = tile_of(tl.program_id(0), n_rows, H * W, BLOCK_P)
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    m_c = (o_c < C)[None, :]
    g += n_first * (HP * WP * O)
    code += n_first // ROWS * (HP * WP * O)
    i_code = ((n_first % ROWS).to(tl.int32) + i_n) // ROWS
    row = o_p // W + PH
    column = o_p % W + PW

    acc = tl.full((BLOCK_P, BLOCK_C), 0.0, ACC)
    DEPTH: tl.constexpr = KH * KW * O
    for k in range(0, DEPTH, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        if O % BLOCK_K == 0:
            tap = k // O
            o_o = k % O + tl.arange(0, BLOCK_K)
            r = row - tap // KW
            s = column - tap % KW
            m_g = m_p & (r >= 0) & (r % SH == 0) & (r // SH < HP * RH)
            m_g = (m_g & (s >= 0) & (s % SW == 0) & (s // SW < WP * RW))[:, None]
            r = r // SH
            s = s // SW
            window = (r % RH * RW + s % RW)[:, None]
            place = r // RH * WP + s // RW
            o_g = (i_n * (HP * WP) + place)[:, None] * O + o_o[None, :]
            o_code = (i_code * (HP * WP) + place)[:, None] * O + o_o[None, :]
            b_w = tl.load(w + (o_o * (KH * KW) + tap)[:, None] * C + o_c[None, :], mask=m_c, other=0.0)
        else:
            tap = o_k // O
            o_o = o_k % O
            r = row[:, None] - (tap // KW)[None, :]
            s = column[:, None] - (tap % KW)[None, :]
            m_g = m_p[:, None] & (o_k < DEPTH)[None, :] & (r >= 0) & (r % SH == 0) & (r // SH < HP * RH)
            m_g = m_g & (s >= 0) & (s % SW == 0) & (s // SW < WP * RW)
            r = r // SH
            s = s // SW
            window = r % RH * RW + s % RW
            place = r // RH * WP + s // RW
            o_g = (i_n[:, None] * (HP * WP) + place) * O + o_o[None, :]
            o_code = (i_code[:, None] * (HP * WP) + place) * O + o_o[None, :]
            m_w = (o_k < DEPTH)[:, None] & m_c
            b_w = tl.load(w + (o_o * (KH * KW) + tap)[:, None] * C + o_c[None, :], mask=m_w, other=0.0)
        b_g = tl.load(g + o_g, mask=m_g, other=0.0)  # [BP, BK]
        b_code = tl.load(code + o_code, mask=m_g, other=255)
        acc = multiply(tl.where(b_code == window, b_g, 0.0), b_w, acc, PRECISION)

    o_out = (i_n * (H * W) + o_p)[:, None] * C + o_c[None, :]
    tl.store(g_input + n_first * (H * W * C) + o_out, acc, mask=m_p[:, None] & m_c)


@planner("conv_vjp_input")
def _plan(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("vjp_input", request)
    positions = request.n_images * request.n_outputs * layer.height * layer.width
    count = traffic("conv_vjp_input", request)
    pointer = f"*{request.dtype}"
    return [
        Launch(
            "conv_vjp_input",
            _conv_vjp_input_kernel,
            {"g": pointer, "w": pointer, "code": "*u8", "g_input": pointer, "n_rows": "i32"},
            {
                **geometry(layer),
                "ROWS": request.n_outputs,
                "BLOCK_P": tile.p,
                "BLOCK_C": tile.c,
                "BLOCK_K": tile.k,
                "ACC": accumulator(request),
                "PRECISION": arithmetic(request),
            },
            tile.num_warps,
            tile.num_stages,
            (ceil_divide(positions, tile.p), ceil_divide(layer.channels, tile.c)),
            count.flops,
            count.bytes_read,
            count.bytes_written,
            count.bytes_unfused,
        )
    ]


def conv_vjp_input(
    g: Tensor, w: Tensor, selection: Tensor, layer: ConvLayer, *, precision: str = "tf32"
) -> Tensor:
    """Carry cotangents back to the layer's input (58), one or K of them an image (68).

    Parameters
    ----------
    g : Tensor of shape (N, Hp, Wp, O) or (N, K, Hp, Wp, O)
        Cotangents of the output.
    w : Tensor of shape (O, KH, KW, C)
        Weight.
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        `conv_forward`'s.
    layer : ConvLayer
        The layer's geometry.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32.

    Returns
    -------
    Tensor of shape (N, H, W, C) or (N, K, H, W, C)

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous.
    """
    leading = check_cotangent(g, layer, precision)
    check_tensors(g, w=(w, layer.weight_shape))
    check_selection(selection, g, (leading[0], *layer.output_shape))
    out = torch.empty((*leading, *layer.input_shape), dtype=g.dtype, device=g.device)
    n_images, rows = leading[0], leading[1] if len(leading) > 1 else 1
    (launch,) = plan("conv_vjp_input", layer, g, n_images, precision, n_outputs=rows)
    launch.run(g, w, selection, out, n_images * rows)
    return out

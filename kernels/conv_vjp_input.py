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
from .shapes import BLOCK_E, ceil_divide, filled, traffic
from .tiles import accumulator, arithmetic, elements, tile_for
from .weights import form_of

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_vjp_input"]


@triton.jit
def _transpose_kernel(
    w,
    w_t,
    SIZE: tl.constexpr,
    TAPS: tl.constexpr,
    C: tl.constexpr,
    O: tl.constexpr,
    OZ: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    o_e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    o = o_e % OZ
    b_w = tl.load(w + o * (TAPS * C) + o_e // OZ, mask=(o_e < SIZE) & (o < O), other=0.0)
    tl.store(w_t + o_e, b_w, mask=o_e < SIZE)


@triton.jit(do_not_specialize=["n_rows"])
def _conv_vjp_input_kernel(
    g,
    w_t,
    code,
    g_input,
    n_rows,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    O: tl.constexpr,
    OZ: tl.constexpr,
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
    # the input in blocks as large as what a window covers; a program owns the same place d of many blocks
    DH: tl.constexpr = RH * SH
    DW: tl.constexpr = RW * SW
    ACROSS: tl.constexpr = (W + DW - 1) // DW
    BLOCKS: tl.constexpr = (H + DH - 1) // DH * ACROSS
    d = tl.program_id(0) % (DH * DW)
    n_first, i_n, o_b, m_p = tile_of(tl.program_id(0) // (DH * DW), n_rows, BLOCKS, BLOCK_P)
    row = o_b // ACROSS
    column = o_b % ACROSS
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_k = tl.arange(0, BLOCK_K)
    g += n_first * (HP * WP * O)
    code += n_first // ROWS * (HP * WP * O)
    i_code = ((n_first % ROWS).to(tl.int32) + i_n) // ROWS
    place = row * WP + column
    p_g = g + (((i_n * (HP * WP) + place) * O)[:, None] + o_k[None, :])
    p_code = code + (((i_code * (HP * WP) + place) * O)[:, None] + o_k[None, :])
    p_w = w_t + ((tl.minimum(o_c, C - 1) * OZ)[None, :] + o_k[:, None])

    # every SH-th row of the filter reaches this place, from the position (dy + PH - kh) / SH before pooling,
    # counted from the block's first: a window to the left or right of the block's own, and a place in it
    dy = d // DW + PH
    dx = d % DW + PW
    TAPS_H: tl.constexpr = (KH + SH - 1) // SH
    TAPS_W: tl.constexpr = (KW + SW - 1) // SW
    K_BLOCKS: tl.constexpr = (O + BLOCK_K - 1) // BLOCK_K
    acc = tl.full((BLOCK_P, BLOCK_C), 0.0, ACC)
    # Triton 3.9's interpreter spreads one bool over a block as integers, which no load takes as a mask
    zeros = tl.zeros((BLOCK_P,), tl.int32)
    for i in range(TAPS_H * TAPS_W * K_BLOCKS):
        k = i % K_BLOCKS * BLOCK_K
        tap = i // K_BLOCKS
        kh = dy % SH + tap // TAPS_W * SH
        kw = dx % SW + tap % TAPS_W * SW
        # floors: positions are above -KH and -KW
        r = dy // SH - tap // TAPS_W + KH * RH
        s = dx // SW - tap % TAPS_W + KW * RW
        up = r // RH - KH
        across = s // RW - KW
        is_here = (row >= -up) & (row < HP - up) & (column >= -across) & (column < WP - across)
        if TAPS_H * SH > KH:
            is_here = is_here & (kh + zeros < KH)
            kh = tl.minimum(kh, KH - 1)
        if TAPS_W * SW > KW:
            is_here = is_here & (kw + zeros < KW)
            kw = tl.minimum(kw, KW - 1)
        m_g = (is_here & m_p)[:, None]
        shift = (up * WP + across) * O + k
        o_w = (kh * KW + kw) * (C * OZ) + k
        if O % BLOCK_K == 0:
            b_w = tl.load(p_w + o_w)  # [BK, BC]
        else:
            m_g = m_g & (o_k < O - k)[None, :]
            b_w = tl.load(p_w + o_w, mask=(o_k < O - k)[:, None], other=0.0)
        b_g = tl.load(p_g + shift, mask=m_g, other=0.0)  # [BP, BK]
        b_code = tl.load(p_code + shift, mask=m_g, other=255)
        b_u = tl.where(b_code == r % RH * RW + s % RW, b_g, 0.0)
        acc = multiply(b_u, b_w, acc, PRECISION)

    y = row * DH + d // DW
    x = column * DW + d % DW
    o_out = ((i_n * H + y) * W + x)[:, None] * C + o_c[None, :]
    m_out = (m_p & (y < H) & (x < W))[:, None] & (o_c < C)[None, :]
    tl.store(g_input + n_first * (H * W * C) + o_out, acc, mask=m_out)


@planner("conv_vjp_input")
def _plan(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("vjp_input", request)
    block = (layer.pool[0] * layer.stride[0], layer.pool[1] * layer.stride[1])
    blocks = ceil_divide(layer.height, block[0]) * ceil_divide(layer.width, block[1])
    tiles = ceil_divide(request.n_images * request.n_outputs * blocks, tile.p)
    count = traffic("conv_vjp_input", request)
    pointer, block_e = f"*{request.dtype}", elements(request, BLOCK_E)
    taps = layer.kernel[0] * layer.kernel[1]
    size = taps * layer.channels * filled(layer.filters)
    shared = {"C": layer.channels, "O": layer.filters, "OZ": filled(layer.filters)}
    transpose = Launch(
        "conv_vjp_input",
        _transpose_kernel,
        {"w": pointer, "w_t": pointer},
        {"SIZE": size, "TAPS": taps, **shared, "BLOCK_E": block_e},
        4,
        1,
        (ceil_divide(size, block_e),),
        0,
        layer.filters * layer.fan_in * request.item_size,
        size * request.item_size,
        0,
    )
    return [
        transpose,
        Launch(
            "conv_vjp_input",
            _conv_vjp_input_kernel,
            {"g": pointer, "w_t": pointer, "code": "*u8", "g_input": pointer, "n_rows": "i32"},
            {
                **shared,
                "H": layer.height,
                "W": layer.width,
                "KH": layer.kernel[0],
                "KW": layer.kernel[1],
                "SH": layer.stride[0],
                "SW": layer.stride[1],
                "PH": layer.padding[0],
                "PW": layer.padding[1],
                "RH": layer.pool[0],
                "RW": layer.pool[1],
                "HP": layer.out_height,
                "WP": layer.out_width,
                "ROWS": request.n_outputs,
                "BLOCK_P": tile.p,
                "BLOCK_C": tile.c,
                "BLOCK_K": tile.k,
                "ACC": accumulator(request),
                "PRECISION": arithmetic(request),
            },
            tile.num_warps,
            tile.num_stages,
            (tiles * block[0] * block[1], ceil_divide(layer.channels, tile.c)),
            count.flops,
            count.bytes_read,
            count.bytes_written,
            count.bytes_unfused,
        ),
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
    transpose, launch = plan("conv_vjp_input", layer, g, n_images, precision, n_outputs=rows)
    launch.run(g, form_of(w, "transposed", transpose), selection, out, n_images * rows)
    return out

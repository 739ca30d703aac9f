"""A layer's block of the stored Jacobian, transposed, times q: the weight gradient of g = sum_k q_k D_k (80).

z (N, H, W, C), D (N, K, Hp, Wp, O), q (N, K) and the code (N, Hp, Wp, O) give (O, KH, KW, C) and (O,).
D is K times larger than g, so it must be read once. Where one program holds all taps and channels of its
filters, g is formed from D in registers and never written. Where they need several programs, a first kernel
writes g, 1/K of D, and `conv_vjp_weight` reads it. Both split positions over programs and add partial sums in
order.
Reference: hfcnn.ops.jacobian_vjp.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import check_images, check_rows, check_selection, check_tensors
from .conv_vjp_weight import run_split, splits
from .device import multiply, tile_of
from .launch import ITEM_SIZES, Launch, Request, launches, plan, planner
from .partials import plan_sum_columns
from .shapes import ceil_divide, geometry, power_of_two, traffic
from .tiles import SMALLEST, accumulator, arithmetic, tile_for

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["jacobian_vjp"]

#: Most taps and channels that one program's accumulator holds beside 32 filters.
LARGEST_FAN_IN = 128
#: Elements of g a program forms.
BLOCK_E = 1024


@triton.jit(do_not_specialize=["n_images"])
def _jacobian_vjp_kernel(
    D,
    q,
    z,
    code,
    partial,
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
    ROWS: tl.constexpr,
    N_SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    FAN_IN: tl.constexpr = KH * KW * C
    PLANE: tl.constexpr = HP * WP
    o_k = tl.arange(0, BLOCK_K)
    o_o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    i_s = tl.program_id(1)
    kh = (o_k // (KW * C))[None, :]
    kw = (o_k // C % KW)[None, :]
    m_k = (o_k < FAN_IN)[None, :]

    acc = tl.full((BLOCK_O, BLOCK_K), 0.0, ACC)
    acc_bias = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
    n_tiles = (n_images.to(tl.int64) * PLANE + BLOCK_P - 1) // BLOCK_P
    for i_p in range(n_tiles * i_s // N_SPLITS, n_tiles * (i_s + 1) // N_SPLITS):
        n_first, i_n, o_p, m_p = tile_of(i_p, n_images, PLANE, BLOCK_P)
        m_g = m_p[:, None] & (o_o < O)[None, :]
        o_g = (i_n * PLANE + o_p)[:, None] * O + o_o[None, :]
        b_code = tl.load(code + n_first * (PLANE * O) + o_g, mask=m_g, other=255)
        o_d = (i_n * (ROWS * PLANE) + o_p)[:, None] * O + o_o[None, :]
        b_g = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
        for k in range(ROWS):
            b_q = tl.load(q + n_first * ROWS + i_n * ROWS + k, mask=m_p, other=0.0)
            b_d = tl.load(D + n_first * (ROWS * PLANE * O) + k * (PLANE * O) + o_d, mask=m_g, other=0.0)
            b_g += b_q[:, None].to(ACC) * b_d
        acc_bias += tl.where(b_code == 255, 0.0, b_g)
        for window in range(RH * RW):
            row = (o_p // WP * RH + window // RW) * SH - PH
            column = (o_p % WP * RW + window % RW) * SW - PW
            r = row[:, None] + kh
            s = column[:, None] + kw
            m_z = m_p[:, None] & m_k & (r >= 0) & (r < H) & (s >= 0) & (s < W)
            o_z = ((i_n * H + row) * W + column)[:, None] * C + ((kh * W + kw) * C + (o_k % C)[None, :])
            b_z = tl.load(z + n_first * (H * W * C) + o_z, mask=m_z, other=0.0)  # [BP, BK]
            b_u = tl.where(b_code == window, b_g, 0.0).to(b_z.dtype)
            acc = multiply(tl.trans(b_u), b_z, acc, PRECISION)

    partial += i_s.to(tl.int64) * (O * FAN_IN + O)
    tl.store(partial + o_o[:, None] * FAN_IN + o_k[None, :], acc, mask=(o_o < O)[:, None] & m_k)
    tl.store(partial + O * FAN_IN + o_o, tl.sum(acc_bias, axis=0), mask=o_o < O)


@triton.jit
def _contract_kernel(
    D, q, g, SIZE: tl.constexpr, ROWS: tl.constexpr, BLOCK_E: tl.constexpr, ACC: tl.constexpr
):
    i_n = tl.program_id(0).to(tl.int64)
    o_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    m_e = o_e < SIZE
    D += i_n * ROWS * SIZE
    acc = tl.full((BLOCK_E,), 0.0, ACC)
    for k in range(ROWS):
        b_d = tl.load(D + k * SIZE + o_e, mask=m_e, other=0.0)
        acc += tl.load(q + i_n * ROWS + k).to(ACC) * b_d
    tl.store(g + i_n * SIZE + o_e, acc, mask=m_e)


def _is_fused(request: Request) -> bool:
    """Whether one program holds all taps and channels of its filters."""
    return request.layer.fan_in <= (LARGEST_FAN_IN if arithmetic(request) != "sum" else SMALLEST)


@planner("jacobian_vjp")
def _plan(request: Request) -> list[Launch]:
    return _plan_fused(request) if _is_fused(request) else _plan_contracted(request)


def _plan_fused(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("vjp_weight", request)
    block_o, block_k = min(tile.c, 32), max(SMALLEST, power_of_two(layer.fan_in))
    n_blocks = ceil_divide(layer.filters, block_o)
    positions = request.n_images * layer.out_height * layer.out_width
    n_splits = splits(ceil_divide(positions, tile.p), n_blocks)
    n_sums = layer.filters * (layer.fan_in + 1)
    count = traffic("jacobian_vjp", request)
    pointer, sums = f"*{request.dtype}", "fp64" if request.dtype == "fp64" else "fp32"
    first = Launch(
        "jacobian_vjp",
        _jacobian_vjp_kernel,
        {
            "D": pointer,
            "q": pointer,
            "z": pointer,
            "code": "*u8",
            "partial": f"*{sums}",
            "n_images": "i32",
        },
        {
            **geometry(layer),
            "ROWS": request.n_outputs,
            "N_SPLITS": n_splits,
            "BLOCK_P": tile.p,
            "BLOCK_O": block_o,
            "BLOCK_K": block_k,
            "ACC": accumulator(request),
            "PRECISION": arithmetic(request),
        },
        tile.num_warps,
        tile.num_stages,
        (n_blocks, n_splits),
        count.flops,
        count.bytes_read,
        n_splits * n_sums * ITEM_SIZES[sums],
        count.bytes_unfused,
    )
    return [first, plan_sum_columns("jacobian_vjp", request, n_splits, n_sums)]


def _plan_contracted(request: Request) -> list[Launch]:
    layer, rows, n_images = request.layer, request.n_outputs, request.n_images
    size = layer.out_height * layer.out_width * layer.filters
    block_e = min(BLOCK_E, power_of_two(size))
    pointer = f"*{request.dtype}"
    contract = Launch(
        "jacobian_vjp",
        _contract_kernel,
        {"D": pointer, "q": pointer, "g": pointer},
        {"SIZE": size, "ROWS": rows, "BLOCK_E": block_e, "ACC": accumulator(request)},
        4,
        1,
        (n_images, ceil_divide(size, block_e)),
        2 * n_images * rows * size,
        n_images * rows * (size + 1) * request.item_size,
        n_images * size * request.item_size,
        traffic("jacobian_vjp", request).bytes_unfused,
    )
    weight = launches(
        "conv_vjp_weight",
        layer,
        n_images,
        dtype=request.dtype,
        precision=request.precision,
        target=request.target,
    )
    return [contract, *(replace(launch, op="jacobian_vjp", bytes_unfused=0) for launch in weight)]


def jacobian_vjp(
    z: Tensor, D: Tensor, q: Tensor, selection: Tensor, layer: ConvLayer, *, precision: str = "tf32"
) -> tuple[Tensor, Tensor]:
    """Apply the transpose of a layer's block of the stored Jacobian to q (80), summed over images.

    Parameters
    ----------
    z : Tensor of shape (N, H, W, C)
        Input.
    D : Tensor of shape (N, K, Hp, Wp, O)
        dz^{L+1} / dZ^{m+1}, zero where the ReLU is off.
    q : Tensor of shape (N, K)
        Cotangent of the outputs.
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        `conv_forward`'s.
    layer : ConvLayer
        The layer's geometry.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32; the sum over k is in float32 throughout.

    Returns
    -------
    g_weight : Tensor of shape (O, KH, KW, C)
    g_bias : Tensor of shape (O,)

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous.
    """
    n_images = check_images(z, layer, precision)
    rows = check_rows(D, z, layer)
    check_tensors(z, q=(q, (n_images, rows)))
    check_selection(selection, z, (n_images, *layer.output_shape))
    *contract, first, second = plan("jacobian_vjp", layer, z, n_images, precision, n_outputs=rows)
    if not contract:
        return run_split(first, second, layer, z, D, q, z, selection)
    g = torch.empty((n_images, *layer.output_shape), dtype=z.dtype, device=z.device)
    contract[0].run(D, q, g)
    return run_split(first, second, layer, z, g, z, selection)

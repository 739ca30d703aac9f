"""Gradient of a layer in its weight and bias, summed over images (50), (51).

g (N, Hp, Wp, O), z (N, H, W, C) and the code (N, Hp, Wp, O) give (O, KH, KW, C) and (O,): the product of the
expanded g with phi(pad(z)), of which neither is written. Positions before pooling, window by window, are the
inner axis; it is split over programs, whose partial sums `partials` adds in order.

torch masks g, scatters it into a pre-pool array and reads that twice: 3 r^2 + 4 elements and an index an
output where this kernel reads one element and a byte.
Reference: hfcnn.ops.conv_vjp_weight, hfcnn.ops.conv_vjp.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .borders import border_images
from .checks import check_images, check_selection, check_tensors
from .conv_vjp_input import conv_vjp_input
from .device import first_taps, multiply, rows_of, tile_of
from .launch import ITEM_SIZES, Launch, Request, launches, plan, planner
from .shapes import ceil_divide, geometry, patch_of, traffic
from .tiles import accumulator, arithmetic, is_joint, splits, tile_for
from .weights import n_partial, plan_sum_gradient

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_vjp", "conv_vjp_weight"]


@triton.jit(do_not_specialize=["n_images"])
def _conv_vjp_weight_kernel(
    g,
    z,
    code,
    partial,
    n_images,
    HZ: tl.constexpr,
    WZ: tl.constexpr,
    CZ: tl.constexpr,
    N_RUNS: tl.constexpr,
    RUN: tl.constexpr,
    O: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    RH: tl.constexpr,
    RW: tl.constexpr,
    HP: tl.constexpr,
    WP: tl.constexpr,
    N_SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    AT_ONCE: tl.constexpr,
    IS_SHARED: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    SIZE: tl.constexpr = N_RUNS * RUN
    WINDOWS: tl.constexpr = AT_ONCE if IS_SHARED else 1  # groups of rows of the result
    # the newest matrix instructions need 64 rows: where filters are fewer, they are columns
    IS_TURNED: tl.constexpr = WINDOWS * BLOCK_O < 64 and BLOCK_K >= 64
    GROUPS: tl.constexpr = RH * RW // AT_ONCE
    IS_REGULAR: tl.constexpr = (HP * WP % BLOCK_P == 0) and (BLOCK_P % WP == 0 or WP % BLOCK_P == 0)
    TILES: tl.constexpr = HP * WP // BLOCK_P
    o_k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    o_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    i_s = tl.program_id(2)
    m_k = (o_k < SIZE)[None, :]
    o_patch = (o_k // RUN * (WZ * CZ) + o_k % RUN)[None, :]

    if IS_TURNED:
        acc = tl.full((BLOCK_K, WINDOWS * BLOCK_O), 0.0, ACC)
    else:
        acc = tl.full((WINDOWS * BLOCK_O, BLOCK_K), 0.0, ACC)
    n_tiles = (n_images.to(tl.int64) * (HP * WP) + BLOCK_P - 1) // BLOCK_P
    for i in range(n_tiles * i_s // N_SPLITS * GROUPS, n_tiles * (i_s + 1) // N_SPLITS * GROUPS):
        first = tl.cast(i % GROUPS, tl.int32) * AT_ONCE
        if IS_REGULAR:
            # whole rows of one image: a scalar moves the same offsets, and nothing is masked
            n_first = i // GROUPS // TILES
            start = tl.cast(i // GROUPS % TILES, tl.int32) * BLOCK_P
            o_p = tl.arange(0, BLOCK_P)
            i_n = tl.zeros_like(o_p)
            m_p = i_n == 0
            first_g = n_first * (HP * WP * O) + start * O
            first_z = n_first * (HZ * WZ * CZ) + (start // WP * (RH * SH) * WZ + start % WP * (RW * SW)) * CZ
        else:
            n_first, i_n, o_p, m_p = tile_of(i // GROUPS, n_images, HP * WP, BLOCK_P)
            first_g = n_first * (HP * WP * O)
            first_z = n_first * (HZ * WZ * CZ)
        o_g = (i_n * (HP * WP) + o_p)[:, None] * O + o_o[None, :]
        m_g = m_p[:, None] & (o_o < O)[None, :]
        b_g = tl.load(g + first_g + o_g, mask=m_g, other=0.0)  # [BP, BO]
        b_code = tl.load(code + first_g + o_g, mask=m_g, other=255)
        o_z = first_taps(i_n, o_p, m_p, HZ, WZ, CZ, SH, SW, RH, RW, WP)
        if IS_SHARED:
            is_taken = b_code[:, None, :] == first + tl.arange(0, AT_ONCE)[None, :, None]
            b_u = tl.reshape(tl.where(is_taken, b_g[:, None, :], 0.0), (BLOCK_P, AT_ONCE * BLOCK_O))
        else:
            o_z = rows_of(o_z, first, WZ, CZ, SH, SW, RW, AT_ONCE, BLOCK_P)
            is_taken = b_code[None, :, :] == first + tl.arange(0, AT_ONCE)[:, None, None]
            b_u = tl.reshape(tl.where(is_taken, b_g[None, :, :], 0.0), (AT_ONCE * BLOCK_P, BLOCK_O))
        b_z = tl.load(z + first_z + (o_z[:, None] + o_patch), mask=m_k, other=0.0)
        if IS_TURNED:
            acc = multiply(tl.trans(b_z), b_u, acc, PRECISION)
        else:
            acc = multiply(tl.trans(b_u), b_z, acc, PRECISION)

    partial += i_s.to(tl.int64) * (O * (WINDOWS * SIZE + 1))
    if IS_TURNED:
        acc = tl.trans(acc)
    # rows of a window, then of the next, O apart: with an axis each, one address serves them all
    o_n = (tl.arange(0, WINDOWS) * O)[:, None] + o_o[None, :]
    each = tl.reshape(acc, (WINDOWS, BLOCK_O, BLOCK_K))
    m_n = (o_o < O)[None, :, None] & m_k[None, :, :]
    tl.store(partial + (o_n[:, :, None] * SIZE + o_k[None, None, :]), each, mask=m_n)
    if tl.program_id(0) == 0:
        # apart, because the loop above has no registers left
        ROWS: tl.constexpr = WINDOWS * BLOCK_P
        acc_bias = tl.full((ROWS, BLOCK_O), 0.0, ACC)
        first = n_tiles * i_s // N_SPLITS * BLOCK_P
        last = tl.minimum(n_tiles * (i_s + 1) // N_SPLITS * BLOCK_P, n_images.to(tl.int64) * (HP * WP))
        o_p = tl.arange(0, ROWS)
        o_g = o_p[:, None] * O + o_o[None, :]
        for start in range(first, last, ROWS):
            m_g = (o_p < last - start)[:, None] & (o_o < O)[None, :]
            b_g = tl.load(g + start * O + o_g, mask=m_g, other=0.0)
            b_code = tl.load(code + start * O + o_g, mask=m_g, other=255)
            acc_bias += tl.where(b_code != 255, b_g, 0.0)
        tl.store(partial + O * WINDOWS * SIZE + o_o, tl.sum(acc_bias, axis=0), mask=o_o < O)


@planner("conv_vjp_weight")
def _plan(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("vjp_weight", request)
    columns = (
        ceil_divide(patch_of(layer, is_joint(request)).size, tile.k),
        ceil_divide(layer.filters, tile.c),
    )
    positions = request.n_images * layer.out_height * layer.out_width
    n_splits = splits(tile, ceil_divide(positions, tile.p), columns[0] * columns[1], request)
    count = traffic("conv_vjp_weight", request)
    pointer, sums = f"*{request.dtype}", "fp64" if request.dtype == "fp64" else "fp32"
    first = Launch(
        "conv_vjp_weight",
        _conv_vjp_weight_kernel,
        {"g": pointer, "z": pointer, "code": "*u8", "partial": f"*{sums}", "n_images": "i32"},
        {
            **geometry(layer, is_joint(request)),
            "N_SPLITS": n_splits,
            "BLOCK_P": tile.p,
            "BLOCK_O": tile.c,
            "BLOCK_K": tile.k,
            "AT_ONCE": tile.windows,
            "IS_SHARED": is_joint(request),
            "ACC": accumulator(request),
            "PRECISION": arithmetic(request),
        },
        tile.num_warps,
        tile.num_stages,
        (*columns, n_splits),
        count.flops,
        count.bytes_read,
        n_splits * n_partial(request) * ITEM_SIZES[sums],
        count.bytes_unfused,
    )
    return [first, plan_sum_gradient("conv_vjp_weight", request, n_splits)]


@planner("conv_vjp")
def _plan_both(request: Request) -> list[Launch]:
    parts = [] if request.is_first else ["conv_vjp_input"]
    return [
        launch
        for part in [*parts, "conv_vjp_weight"]
        for launch in launches(
            part,
            request.layer,
            request.n_images,
            dtype=request.dtype,
            precision=request.precision,
            target=request.target,
            n_outputs=1,
        )
    ]


def conv_vjp_weight(
    g: Tensor,
    z: Tensor,
    selection: Tensor,
    layer: ConvLayer,
    *,
    out: Tensor | None = None,
    precision: str = "tf32",
) -> tuple[Tensor, Tensor]:
    """Carry a cotangent back to the layer's weight and bias (50), (51), summed over images.

    Parameters
    ----------
    g : Tensor of shape (N, Hp, Wp, O)
        Cotangent of the output.
    z : Tensor of shape (N, H, W, C)
        Input.
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        `conv_forward`'s.
    layer : ConvLayer
        The layer's geometry.
    out : Tensor of shape (n_m,) or None
        Where to write both gradients, weight first; they are then views of it.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32.

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
    check_tensors(z, g=(g, (n_images, *layer.output_shape)))
    check_selection(selection, z, g.shape)
    first, second = plan("conv_vjp_weight", layer, z, n_images, precision)
    sums = torch.float64 if z.dtype == torch.float64 else torch.float32
    shape = (second.constexprs["N_ROWS"], second.constexprs["N_COLUMNS"])
    partial = torch.empty(shape, dtype=sums, device=z.device)
    if out is None:
        out = torch.empty(layer.n_parameters, dtype=z.dtype, device=z.device)
    check_tensors(z, out=(out, (layer.n_parameters,)))
    first.run(g, border_images(z, layer), selection, partial, n_images)
    second.run(partial, out)
    n_weights = layer.filters * layer.fan_in
    return out[:n_weights].view(layer.weight_shape), out[n_weights:]


def conv_vjp(
    g: Tensor,
    z: Tensor,
    w: Tensor,
    selection: Tensor,
    layer: ConvLayer,
    *,
    needs_input: bool = True,
    out: Tensor | None = None,
    precision: str = "tf32",
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Carry a cotangent of the layer's output back to its input, weight and bias (50), (51), (58).

    Parameters
    ----------
    g : Tensor of shape (N, Hp, Wp, O)
        Cotangent of the output.
    z : Tensor of shape (N, H, W, C)
        Input.
    w : Tensor of shape (O, KH, KW, C)
        Weight.
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        `conv_forward`'s.
    layer : ConvLayer
        The layer's geometry.
    needs_input : bool, default=True
        False skips the gradient in the input, which the first layer has no use for.
    out : Tensor of shape (n_m,) or None
        Where to write the gradients in weight and bias, as in `conv_vjp_weight`.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32.

    Returns
    -------
    g_input : Tensor of shape (N, H, W, C), or None
    g_weight : Tensor of shape (O, KH, KW, C)
        Summed over images, as is `g_bias`.
    g_bias : Tensor of shape (O,)
    """
    g_weight, g_bias = conv_vjp_weight(g, z, selection, layer, out=out, precision=precision)
    if not needs_input:
        return None, g_weight, g_bias
    return conv_vjp_input(g, w, selection, layer, precision=precision), g_weight, g_bias

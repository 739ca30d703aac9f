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

from .checks import check_images, check_selection, check_tensors
from .conv_vjp_input import conv_vjp_input
from .device import multiply, tile_of
from .launch import ITEM_SIZES, Launch, Request, launches, plan, planner
from .partials import plan_sum_columns
from .shapes import ceil_divide, geometry, traffic
from .tiles import accumulator, arithmetic, tile_for

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_vjp", "conv_vjp_weight", "run_split", "splits"]

#: Programs to split for: about four for each multiprocessor of the larger GPUs.
N_PROGRAMS = 512
#: Least tiles of positions a program sums, so that partial sums stay few beside what is read.
LEAST_TILES = 8


@triton.jit(do_not_specialize=["n_images"])
def _conv_vjp_weight_kernel(
    g,
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
    N_SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    FAN_IN: tl.constexpr = KH * KW * C
    WINDOWS: tl.constexpr = RH * RW
    PLANE: tl.constexpr = HP * WP * WINDOWS
    o_k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    o_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    i_s = tl.program_id(2)
    kh = (o_k // (KW * C))[None, :]
    kw = (o_k // C % KW)[None, :]
    m_k = (o_k < FAN_IN)[None, :]
    m_o = (o_o < O)[None, :]

    acc = tl.full((BLOCK_O, BLOCK_K), 0.0, ACC)
    acc_bias = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
    n_tiles = (n_images.to(tl.int64) * PLANE + BLOCK_P - 1) // BLOCK_P
    for i_p in range(n_tiles * i_s // N_SPLITS, n_tiles * (i_s + 1) // N_SPLITS):
        n_first, i_n, o_q, m_p = tile_of(i_p, n_images, PLANE, BLOCK_P)
        window = o_q % WINDOWS
        o_p = o_q // WINDOWS
        first = n_first * (HP * WP * O)
        o_g = (i_n * (HP * WP) + o_p)[:, None] * O + o_o[None, :]
        m_g = m_p[:, None] & m_o
        b_g = tl.load(g + first + o_g, mask=m_g, other=0.0)  # [BP, BO]
        b_code = tl.load(code + first + o_g, mask=m_g, other=255)
        row = (o_p // WP * RH + window // RW) * SH - PH
        column = (o_p % WP * RW + window % RW) * SW - PW
        r = row[:, None] + kh
        s = column[:, None] + kw
        m_z = m_p[:, None] & m_k & (r >= 0) & (r < H) & (s >= 0) & (s < W)
        o_z = ((i_n * H + row) * W + column)[:, None] * C + ((kh * W + kw) * C + (o_k % C)[None, :])
        b_z = tl.load(z + n_first * (H * W * C) + o_z, mask=m_z, other=0.0)  # [BP, BK]
        b_u = tl.where(b_code == window[:, None], b_g, 0.0)
        acc_bias += b_u
        acc = multiply(tl.trans(b_u), b_z, acc, PRECISION)

    partial += i_s.to(tl.int64) * (O * FAN_IN + O)
    tl.store(partial + o_o[:, None] * FAN_IN + o_k[None, :], acc, mask=(o_o < O)[:, None] & m_k)
    if tl.program_id(0) == 0:
        tl.store(partial + O * FAN_IN + o_o, tl.sum(acc_bias, axis=0), mask=o_o < O)


def splits(n_tiles: int, programs: int) -> int:
    """Programs along the positions, beside `programs` along the weight's axes."""
    return max(1, min(n_tiles // LEAST_TILES, ceil_divide(N_PROGRAMS, programs)))


@planner("conv_vjp_weight")
def _plan(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("vjp_weight", request)
    columns = (ceil_divide(layer.fan_in, tile.k), ceil_divide(layer.filters, tile.c))
    positions = request.n_images * layer.out_height * layer.out_width * layer.pool[0] * layer.pool[1]
    n_splits = splits(ceil_divide(positions, tile.p), columns[0] * columns[1])
    n_sums = layer.filters * (layer.fan_in + 1)
    count = traffic("conv_vjp_weight", request)
    pointer, sums = f"*{request.dtype}", "fp64" if request.dtype == "fp64" else "fp32"
    first = Launch(
        "conv_vjp_weight",
        _conv_vjp_weight_kernel,
        {"g": pointer, "z": pointer, "code": "*u8", "partial": f"*{sums}", "n_images": "i32"},
        {
            **geometry(layer),
            "N_SPLITS": n_splits,
            "BLOCK_P": tile.p,
            "BLOCK_O": tile.c,
            "BLOCK_K": tile.k,
            "ACC": accumulator(request),
            "PRECISION": arithmetic(request),
        },
        tile.num_warps,
        tile.num_stages,
        (*columns, n_splits),
        count.flops,
        count.bytes_read,
        n_splits * n_sums * ITEM_SIZES[sums],
        count.bytes_unfused,
    )
    return [first, plan_sum_columns("conv_vjp_weight", request, n_splits, n_sums)]


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


def run_split(
    first: Launch, second: Launch, layer: ConvLayer, z: Tensor, *arguments: Tensor | int
) -> tuple[Tensor, Tensor]:
    """Run both passes of a gradient in weight and bias.

    Parameters
    ----------
    first, second : Launch
        The partial sums and their sum.
    layer : ConvLayer
        The layer.
    z : Tensor
        Gives dtype and device.
    arguments : Tensor or int
        The first launch's, but for the partial sums and the images, which come last.

    Returns
    -------
    g_weight : Tensor of shape (O, KH, KW, C)
    g_bias : Tensor of shape (O,)
        Both views of one vector.
    """
    n_rows, n_sums = second.constexprs["N_ROWS"], second.constexprs["N_COLUMNS"]
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    partial = torch.empty((n_rows, n_sums), dtype=dtype, device=z.device)
    out = torch.empty(n_sums, dtype=z.dtype, device=z.device)
    first.run(*arguments, partial, len(z))
    second.run(partial, out)
    n_weights = layer.filters * layer.fan_in
    return out[:n_weights].view(layer.weight_shape), out[n_weights:]


def conv_vjp_weight(
    g: Tensor, z: Tensor, selection: Tensor, layer: ConvLayer, *, precision: str = "tf32"
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
    return run_split(first, second, layer, z, g, z, selection)


def conv_vjp(
    g: Tensor,
    z: Tensor,
    w: Tensor,
    selection: Tensor,
    layer: ConvLayer,
    *,
    needs_input: bool = True,
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
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32.

    Returns
    -------
    g_input : Tensor of shape (N, H, W, C), or None
    g_weight : Tensor of shape (O, KH, KW, C)
        Summed over images, as is `g_bias`.
    g_bias : Tensor of shape (O,)
    """
    g_weight, g_bias = conv_vjp_weight(g, z, selection, layer, precision=precision)
    if not needs_input:
        return None, g_weight, g_bias
    return conv_vjp_input(g, w, selection, layer, precision=precision), g_weight, g_bias

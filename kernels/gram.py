"""Kronecker factors of a layer's metric: sums of patches times patches, and of cotangents times cotangents.

z (N, H, W, C) gives (F + 1, F + 1), F = KH KW C: [patch, 1] [patch, 1]^T summed over images and positions of
the filter; phi(pad(z)) is never written. g (N, Hp, Wp, O) and its code give (O, O): u u^T, u = Sigma^T g,
summed over images and positions before pooling. Two channels meet where they took the same one of a window.

Both are symmetric: programs own blocks on and above the diagonal, and split the positions; their partial sums
are added in order. torch writes the patches, KH KW times as large as z, and u, r^2 times as large as g.
Reference: hfcnn.ops.conv_patch_gram, hfcnn.ops.conv_cotangent_gram.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .borders import border_images
from .checks import check_cotangent, check_images, check_selection
from .device import multiply, tile_of
from .launch import ITEM_SIZES, Launch, Request, plan, planner
from .shapes import BLOCK_E, ceil_divide, geometry, grid_sides, power_of_two, traffic
from .tiles import SMALLEST, Tile, accumulator, arithmetic, elements, splits, tile_for

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_cotangent_gram", "conv_patch_gram"]


class Order(NamedTuple):
    """Elements n of a gram's side, their places in partial sums, channels and how they are stored there."""

    n: int
    n_places: int
    channels: int
    stored_channels: int
    positions: int


@triton.jit
def _block_pair(i, N_BLOCKS: tl.constexpr):
    """Row and column of block i on or above the diagonal, column by column."""
    row, column = i, 0
    for j in tl.static_range(1, N_BLOCKS):
        is_here = i >= j * (j + 1) // 2
        column = tl.where(is_here, j, column)
        row = tl.where(is_here, i - j * (j + 1) // 2, row)
    return row, column


@triton.jit
def _patches(z, o_z, m_p, o_k, PITCH: tl.constexpr, RUN: tl.constexpr, SIZE: tl.constexpr):
    """A block of [patch, 1] at each position: [BP, BK]."""
    o_patch = (o_k // RUN * PITCH + o_k % RUN)[None, :]
    b_z = tl.load(z + (o_z[:, None] + o_patch), mask=m_p[:, None] & (o_k < SIZE)[None, :], other=0.0)
    return tl.where((o_k == SIZE)[None, :] & m_p[:, None], 1.0, b_z).to(z.dtype.element_ty)


@triton.jit(do_not_specialize=["n_images"])
def _patch_gram_kernel(
    z,
    partial,
    n_images,
    HZ: tl.constexpr,
    WZ: tl.constexpr,
    CZ: tl.constexpr,
    N_RUNS: tl.constexpr,
    RUN: tl.constexpr,
    HG: tl.constexpr,
    WG: tl.constexpr,
    DH: tl.constexpr,
    DW: tl.constexpr,
    N_BLOCKS: tl.constexpr,
    N_SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # HG by WG positions, DH and DW pixels apart
    SIZE: tl.constexpr = N_RUNS * RUN
    row, column = _block_pair(tl.program_id(0), N_BLOCKS)
    o_i = row * BLOCK_K + tl.arange(0, BLOCK_K)
    o_j = column * BLOCK_K + tl.arange(0, BLOCK_K)
    i_s = tl.program_id(1)
    acc = tl.full((BLOCK_K, BLOCK_K), 0.0, ACC)
    n_tiles = (n_images.to(tl.int64) * (HG * WG) + BLOCK_P - 1) // BLOCK_P
    for i_p in range(n_tiles * i_s // N_SPLITS, n_tiles * (i_s + 1) // N_SPLITS):
        n_first, i_n, o_p, m_p = tile_of(i_p, n_images, HG * WG, BLOCK_P)
        o_z = ((i_n * HZ + o_p // WG * DH) * WZ + o_p % WG * DW) * CZ
        first = z + n_first * (HZ * WZ * CZ)
        b_i = _patches(first, o_z, m_p, o_i, WZ * CZ, RUN, SIZE)
        b_j = _patches(first, o_z, m_p, o_j, WZ * CZ, RUN, SIZE)
        acc = multiply(tl.trans(b_i), b_j, acc, PRECISION)
    partial += i_s.to(tl.int64) * ((SIZE + 1) * (SIZE + 1))
    m = (o_i <= SIZE)[:, None] & (o_j <= SIZE)[None, :]
    tl.store(partial + o_i[:, None] * (SIZE + 1) + o_j[None, :], acc, mask=m)


@triton.jit(do_not_specialize=["n_images"])
def _cotangent_gram_kernel(
    g,
    code,
    partial,
    n_images,
    PLANE: tl.constexpr,
    O: tl.constexpr,
    WINDOWS: tl.constexpr,
    AT_ONCE: tl.constexpr,
    N_BLOCKS: tl.constexpr,
    N_SPLITS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    GROUPS: tl.constexpr = WINDOWS // AT_ONCE
    row, column = _block_pair(tl.program_id(0), N_BLOCKS)
    o_i = row * BLOCK_K + tl.arange(0, BLOCK_K)
    o_j = column * BLOCK_K + tl.arange(0, BLOCK_K)
    i_s = tl.program_id(1)
    acc = tl.full((BLOCK_K, BLOCK_K), 0.0, ACC)
    n_tiles = (n_images.to(tl.int64) * PLANE + BLOCK_P - 1) // BLOCK_P
    for i in range(n_tiles * i_s // N_SPLITS * GROUPS, n_tiles * (i_s + 1) // N_SPLITS * GROUPS):
        window = tl.cast(i % GROUPS, tl.int32) * AT_ONCE + tl.arange(0, AT_ONCE)[:, None, None]
        n_first, i_n, o_p, m_p = tile_of(i // GROUPS, n_images, PLANE, BLOCK_P)
        first = n_first * (PLANE * O)
        o_g = ((i_n * PLANE + o_p) * O)[:, None]
        m_i = m_p[:, None] & (o_i < O)[None, :]
        m_j = m_p[:, None] & (o_j < O)[None, :]
        b_i = tl.load(g + first + o_g + o_i[None, :], mask=m_i, other=0.0)  # [BP, BK]
        c_i = tl.load(code + first + o_g + o_i[None, :], mask=m_i, other=255)
        b_j = tl.load(g + first + o_g + o_j[None, :], mask=m_j, other=0.0)
        c_j = tl.load(code + first + o_g + o_j[None, :], mask=m_j, other=255)
        u_i = tl.where(c_i[None, :, :] == window, b_i[None, :, :], 0.0)
        u_j = tl.where(c_j[None, :, :] == window, b_j[None, :, :], 0.0)
        u_i = tl.reshape(u_i, (AT_ONCE * BLOCK_P, BLOCK_K))
        u_j = tl.reshape(u_j, (AT_ONCE * BLOCK_P, BLOCK_K))
        acc = multiply(tl.trans(u_i), u_j, acc, PRECISION)
    partial += i_s.to(tl.int64) * (O * O)
    m = (o_i < O)[:, None] & (o_j < O)[None, :]
    tl.store(partial + o_i[:, None] * O + o_j[None, :], acc, mask=m)


@triton.jit
def _sum_gram_kernel(
    partial,
    out,
    N: tl.constexpr,
    N_PLACES: tl.constexpr,
    C: tl.constexpr,
    CZ: tl.constexpr,
    N_SPLITS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    o_e = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    m_e = o_e < N * N
    row = o_e // N
    column = o_e % N
    # partial sums have channels filled up; of two that mirror each other both elements take the upper one, as
    # programs computed no blocks below the diagonal, and a product need not be symmetric to the last bit
    i = row // C * CZ + row % C
    j = column // C * CZ + column % C
    place = tl.minimum(i, j) * N_PLACES + tl.maximum(i, j)
    acc = tl.full((BLOCK_E,), 0.0, partial.dtype.element_ty)
    for i_s in range(N_SPLITS):
        acc += tl.load(partial + i_s * (N_PLACES * N_PLACES) + place, mask=m_e, other=0.0)
    tl.store(out + o_e, acc, mask=m_e)


def _side(request: Request) -> int:
    """Most rows and columns of a program's block: 64 are what the newest matrix instructions need."""
    most = 32 if request.dtype == "fp64" else 64  # registers hold no more
    return SMALLEST if arithmetic(request) == "sum" else min(elements(request, most), 512)


def _plan(
    op: str,
    kernel: Any,
    pointers: dict[str, str],
    constants: dict[str, Any],
    request: Request,
    order: Order,
    tile: Tile,
) -> list[Launch]:
    """List the launches of a gram: partial sums, and their sum."""
    block = min(_side(request), max(SMALLEST, power_of_two(order.n_places)))
    n_blocks = ceil_divide(order.n_places, block)
    pairs = n_blocks * (n_blocks + 1) // 2
    n_tiles = ceil_divide(order.positions, constants["BLOCK_P"])
    n_splits = splits(tile, n_tiles, pairs, request)
    sums = "fp64" if request.dtype == "fp64" else "fp32"
    count = traffic(op, request)
    first = Launch(
        op,
        kernel,
        {**pointers, "partial": f"*{sums}", "n_images": "i32"},
        {
            **constants,
            "N_BLOCKS": n_blocks,
            "N_SPLITS": n_splits,
            "BLOCK_K": block,
            "ACC": accumulator(request),
            "PRECISION": arithmetic(request),
        },
        tile.num_warps,
        tile.num_stages,
        (pairs, n_splits),
        count.flops,
        count.bytes_read,
        n_splits * order.n_places**2 * ITEM_SIZES[sums],
        count.bytes_unfused,
    )
    n_sums, block_e = order.n * order.n, elements(request, BLOCK_E)
    second = Launch(
        op,
        _sum_gram_kernel,
        {"partial": f"*{sums}", "out": f"*{request.dtype}"},
        {
            "N": order.n,
            "N_PLACES": order.n_places,
            "C": order.channels,
            "CZ": order.stored_channels,
            "N_SPLITS": n_splits,
            "BLOCK_E": block_e,
        },
        4,
        1,
        (ceil_divide(n_sums, block_e),),
        n_splits * n_sums,
        n_splits * n_sums * ITEM_SIZES[sums],
        n_sums * request.item_size,
        0,
    )
    return [first, second]


@planner("conv_patch_gram")
def _plan_patches(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("patch_gram", request)
    sizes = geometry(layer, joint=False)
    gap, first = request.grid
    rows, columns = grid_sides(layer, gap, first)
    constants = {name: sizes[name] for name in ("HZ", "WZ", "CZ", "N_RUNS", "RUN")}
    constants |= {"HG": rows, "WG": columns, "DH": layer.stride[0] * gap[0], "DW": layer.stride[1] * gap[1]}
    constants["BLOCK_P"] = tile.p * tile.windows
    size = sizes["N_RUNS"] * sizes["RUN"]
    positions = request.n_images * rows * columns
    order = Order(layer.fan_in + 1, size + 1, layer.channels, sizes["CZ"], positions)
    pointers = {"z": f"*{request.dtype}"}
    return _plan("conv_patch_gram", _patch_gram_kernel, pointers, constants, request, order, tile)


@planner("conv_cotangent_gram")
def _plan_cotangents(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("gram", request)
    windows, n = layer.pool[0] * layer.pool[1], layer.filters
    plane = layer.out_height * layer.out_width
    constants = {"PLANE": plane, "O": n, "WINDOWS": windows, "BLOCK_P": tile.p}
    constants["AT_ONCE"] = min(tile.windows, windows & -windows)
    order = Order(n, n, n, n, request.n_images * plane)
    pointers = {"g": f"*{request.dtype}", "code": "*u8"}
    return _plan("conv_cotangent_gram", _cotangent_gram_kernel, pointers, constants, request, order, tile)


def _run(launches: tuple[Launch, ...], like: Tensor, n_images: int, *arguments: Tensor) -> Tensor:
    """Run both launches of a gram on the arguments of the first."""
    first, second = launches
    n, n_places = second.constexprs["N"], second.constexprs["N_PLACES"]
    sums = torch.float64 if like.dtype == torch.float64 else torch.float32
    partial = torch.empty((first.grid[1], n_places, n_places), dtype=sums, device=like.device)
    out = torch.empty((n, n), dtype=like.dtype, device=like.device)
    first.run(*arguments, partial, n_images)
    second.run(partial, out)
    return out


def conv_patch_gram(
    z: Tensor,
    layer: ConvLayer,
    *,
    gap: tuple[int, int] = (1, 1),
    first: tuple[int, int] = (0, 0),
    precision: str = "tf32",
) -> Tensor:
    """Sum [patch, 1] [patch, 1]^T over images and positions of the filter: a layer's input factor.

    Parameters
    ----------
    z : Tensor of shape (N, H, W, C)
        Input.
    layer : ConvLayer
        The layer's geometry.
    gap, first : (int, int)
        Every how many-th position is taken, down and across, and which is the first.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32.

    Returns
    -------
    Tensor of shape (F + 1, F + 1), F = KH KW C
        In theta's order: a filter's weights, then its bias.

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous, or no position is
        left.
    """
    n_images = check_images(z, layer, precision)
    if min(gap) < 1 or min(first) < 0 or min(grid_sides(layer, gap, first)) < 1:
        raise ValueError(f"gap {gap} and first {first} leave no position of {layer}")
    launches = plan("conv_patch_gram", layer, z, n_images, precision, grid=(gap, first))
    images, sizes = border_images(z, layer), launches[0].constexprs
    skipped = first[0] * layer.stride[0] * sizes["WZ"] + first[1] * layer.stride[1]
    return _run(launches, z, n_images, images.view(-1)[skipped * sizes["CZ"] :])


def conv_cotangent_gram(g: Tensor, selection: Tensor, layer: ConvLayer, *, precision: str = "tf32") -> Tensor:
    """Sum u u^T, u = Sigma^T g, over images and positions before pooling: a layer's output factor.

    Parameters
    ----------
    g : Tensor of shape (N, Hp, Wp, O)
        Cotangent of the output.
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        `conv_forward`'s.
    layer, precision
        As in `conv_patch_gram`.

    Returns
    -------
    Tensor of shape (O, O)

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous.
    """
    if len(shape := check_cotangent(g, layer, precision)) > 1:
        raise ValueError(f"g must be of shape (N, {str(layer.output_shape)[1:]}; got {tuple(g.shape)}")
    check_selection(selection, g, (shape[0], *layer.output_shape))
    launches = plan("conv_cotangent_gram", layer, g, shape[0], precision)
    return _run(launches, g, shape[0], g, selection)

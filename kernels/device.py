"""Device functions that several kernels share.

Programs own a tile of positions, flattened over images; a tile may begin in one image and end in another.
Its first image is an int64 scalar that moves the base pointers; offsets from there are int32.

Images are read with a border of zeros in place (`borders`), so that no tap falls outside: the patch under a
filter is KH runs of KW C neighbouring floats, one per row, and the same for every position. A loop step then
moves one tensor of pointers by one scalar, and nothing is masked.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of(i_p, n_images, PLANE: tl.constexpr, BLOCK_P: tl.constexpr):
    """First image of tile i_p (int64); each position's image from there, place in its plane, and mask."""
    start = tl.cast(i_p, tl.int64) * BLOCK_P
    n_first = start // PLANE
    o_p = (start - n_first * PLANE).to(tl.int32) + tl.arange(0, BLOCK_P)  # [BP]
    i_n = o_p // PLANE
    m_p = i_n < n_images - n_first.to(tl.int32)
    return n_first, i_n, o_p % PLANE, m_p


@triton.jit
def first_taps(
    i_n,
    o_p,
    m_p,
    HZ: tl.constexpr,
    WZ: tl.constexpr,
    CZ: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    RH: tl.constexpr,
    RW: tl.constexpr,
    WP: tl.constexpr,
):
    """Offset of the first tap of each pooled position's first window position, in bordered images.

    Positions beyond the last image read the tile's first, so that loads need no mask.
    """
    i_n = tl.where(m_p, i_n, 0)
    return ((i_n * HZ + o_p // WP * (RH * SH)) * WZ + o_p % WP * (RW * SW)) * CZ


@triton.jit
def multiply(a, b, acc, PRECISION: tl.constexpr):
    """Add a b to acc, by the `input_precision` of `tl.dot` or one of `tiles.arithmetic`'s ways around it."""
    if PRECISION == "wide":
        acc = tl.dot(a.to(acc.dtype), b.to(acc.dtype), acc, input_precision="ieee", out_dtype=acc.dtype)
    elif PRECISION == "sum":
        acc += tl.sum(a[:, :, None] * b[None, :, :], axis=1)
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=acc.dtype)
    return acc


@triton.jit
def convolve(
    acc,
    z,
    o_z,
    w,
    o_w,
    N_RUNS: tl.constexpr,
    RUN: tl.constexpr,
    PITCH: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add phi(z) w to acc [BP, BN]: o_z is of each position's first tap, o_w of each column's weights.

    A patch is N_RUNS runs of RUN elements, PITCH apart; a column's weights are the same without the gaps.
    """
    o_k = tl.arange(0, BLOCK_K)
    p_z = z + (o_z[:, None] + o_k[None, :])
    p_w = w + (o_w[None, :] + o_k[:, None])
    if RUN % BLOCK_K == 0:
        for k in range(0, N_RUNS * RUN, BLOCK_K):
            b_z = tl.load(p_z + (k // RUN * (PITCH - RUN) + k))  # [BP, BK]
            b_w = tl.load(p_w + k)  # [BK, BN]
            acc = multiply(b_z, b_w, acc, PRECISION)
    else:
        BLOCKS: tl.constexpr = (RUN + BLOCK_K - 1) // BLOCK_K
        for i in range(N_RUNS * BLOCKS):
            k = i % BLOCKS * BLOCK_K
            m_k = o_k < RUN - k
            b_z = tl.load(p_z + (i // BLOCKS * PITCH + k), mask=m_k[None, :], other=0.0)
            b_w = tl.load(p_w + (i // BLOCKS * RUN + k), mask=m_k[:, None], other=0.0)
            acc = multiply(b_z, b_w, acc, PRECISION)
    return acc


@triton.jit
def rows_of(
    o_z,
    first,
    WZ: tl.constexpr,
    CZ: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    RW: tl.constexpr,
    AT_ONCE: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Offsets of first taps at AT_ONCE positions of each window, from `first`, position by position."""
    window = first + tl.arange(0, AT_ONCE)
    shift = (window // RW * SH * WZ + window % RW * SW) * CZ
    o_s = tl.reshape(shift[:, None] + o_z[None, :], (AT_ONCE * BLOCK_P,))
    return tl.multiple_of(o_s, CZ & -CZ)  # which a reshape forgets


@triton.jit
def windows_of(
    z,
    o_z,
    w,
    o_o,
    first,
    z_dot,
    v,
    HAS_TANGENT: tl.constexpr,
    N_RUNS: tl.constexpr,
    RUN: tl.constexpr,
    WZ: tl.constexpr,
    CZ: tl.constexpr,
    O: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    RW: tl.constexpr,
    AT_ONCE: tl.constexpr,
    IS_SHARED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Convolve z with w (and z_dot with v) at AT_ONCE positions of each window, from `first`: [A, BP, BO].

    They are one product, so that what they share is loaded once: the weights, where each position is a group
    of rows; the images, where each is a group of columns, its weights shifted to its place in the patch.
    """
    PITCH: tl.constexpr = WZ * CZ
    SIZE: tl.constexpr = N_RUNS * RUN
    if IS_SHARED:
        o_n = tl.arange(0, AT_ONCE * BLOCK_O)
        column = tl.minimum(tl.program_id(1) * BLOCK_O + o_n % BLOCK_O, O - 1)
        o_w = ((first + o_n // BLOCK_O) * O + column) * SIZE
        o_s = o_z
        acc = tl.full((BLOCK_P, AT_ONCE * BLOCK_O), 0.0, ACC)
    else:
        o_w = tl.minimum(o_o, O - 1) * SIZE
        o_s = rows_of(o_z, first, WZ, CZ, SH, SW, RW, AT_ONCE, BLOCK_P)
        acc = tl.full((AT_ONCE * BLOCK_P, BLOCK_O), 0.0, ACC)
    acc = convolve(acc, z, o_s, w, o_w, N_RUNS, RUN, PITCH, BLOCK_K, PRECISION)
    if HAS_TANGENT:
        acc = convolve(acc, z_dot, o_s, v, o_w, N_RUNS, RUN, PITCH, BLOCK_K, PRECISION)
    if IS_SHARED:
        acc = tl.trans(tl.reshape(acc, (BLOCK_P, AT_ONCE, BLOCK_O)), 1, 0, 2)
    return tl.reshape(acc, (AT_ONCE, BLOCK_P, BLOCK_O))


@triton.jit
def add_coded(out, each, first, b_code, AT_ONCE: tl.constexpr):
    """Add what the code picks of the window positions from `first` on, each [A, BP, BO], to out [BP, BO]."""
    is_taken = b_code[None, :, :] == first + tl.arange(0, AT_ONCE)[:, None, None]
    return out + tl.sum(tl.where(is_taken, each, 0.0), axis=0)


@triton.jit
def store_output(
    z_next,
    value,
    n_first,
    i_n,
    o_p,
    m_p,
    o_o,
    i_p,
    n_images,
    HP: tl.constexpr,
    WP: tl.constexpr,
    O: tl.constexpr,
    BH: tl.constexpr,
    BW: tl.constexpr,
    OZ: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Store a tile of a layer's output, its share of the border, and zeros in channels that only fill up."""
    HO: tl.constexpr = HP + 2 * BH
    WO: tl.constexpr = WP + 2 * BW
    m_o = (o_o < OZ)[None, :]
    o_out = ((i_n * HO + o_p // WP + BH) * WO + o_p % WP + BW)[:, None] * OZ + o_o[None, :]
    if OZ > O:
        value = tl.where((o_o < O)[None, :], value, 0.0)
    tl.store(z_next + n_first * (HO * WO * OZ) + o_out, value, mask=m_p[:, None] & m_o)
    if HO * WO > HP * WP:
        n_border, e_n, o_e, m_e = tile_of(i_p, n_images, HO * WO - HP * WP, BLOCK_E)
        # rows above, rows below, then the columns left and right of each row
        is_above = o_e < BH * WO
        is_below = (o_e >= BH * WO) & (o_e < 2 * BH * WO)
        o_side = o_e - 2 * BH * WO
        SIDES: tl.constexpr = 2 * BW if BW > 0 else 1
        row = tl.where(is_above, o_e // WO, tl.where(is_below, HP + o_e // WO, BH + o_side // SIDES))
        side = o_side % SIDES
        side = tl.where(side < BW, side, side + WP)
        column = tl.where(is_above | is_below, o_e % WO, side)
        o_out = ((e_n * HO + row) * WO + column)[:, None] * OZ + o_o[None, :]
        zeros = tl.full((BLOCK_E, value.shape[1]), 0.0, z_next.dtype.element_ty)
        tl.store(z_next + n_border * (HO * WO * OZ) + o_out, zeros, mask=m_e[:, None] & m_o)

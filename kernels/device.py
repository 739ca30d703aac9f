"""Device functions that several kernels share.

Programs own a tile of positions, flattened over images; a tile may begin in one image and end in another.
Its first image is an int64 scalar that moves the base pointers; offsets from there are int32.
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
    w,
    i_n,
    row,
    column,
    m_p,
    o_o,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    O: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add phi(pad(z)) w to acc [BP, BO], where row and column are of each position's first tap.

    The taps and channels are one axis k = (kh KW + kw) C + c. A block of it within one tap takes the tap as
    a scalar, so that channels load as vectors; with few channels a block covers several taps.
    """
    FAN_IN: tl.constexpr = KH * KW * C
    p_w = w + o_o[None, :] * FAN_IN
    m_o = (o_o < O)[None, :]
    origin = (i_n * H + row) * W + column
    for k in range(0, FAN_IN, BLOCK_K):
        o_k = k + tl.arange(0, BLOCK_K)
        if C % BLOCK_K == 0:
            tap = k // C
            r = row + tap // KW
            s = column + tap % KW
            m_z = (m_p & (r >= 0) & (r < H) & (s >= 0) & (s < W))[:, None]
            o_z = (origin + (tap // KW * W + tap % KW))[:, None] * C + (k % C + tl.arange(0, BLOCK_K))[
                None, :
            ]
            b_w = tl.load(p_w + o_k[:, None], mask=m_o, other=0.0)  # [BK, BO]
        else:
            kh = o_k // (KW * C)
            kw = o_k // C % KW
            r = row[:, None] + kh[None, :]
            s = column[:, None] + kw[None, :]
            m_k = o_k < FAN_IN
            m_z = m_p[:, None] & (r >= 0) & (r < H) & (s >= 0) & (s < W) & m_k[None, :]
            o_z = origin[:, None] * C + ((kh * W + kw) * C + o_k % C)[None, :]
            b_w = tl.load(p_w + o_k[:, None], mask=m_o & m_k[:, None], other=0.0)
        b_z = tl.load(z + o_z, mask=m_z, other=0.0)  # [BP, BK]
        acc = multiply(b_z, b_w, acc, PRECISION)
    return acc

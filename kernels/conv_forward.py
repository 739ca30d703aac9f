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

from .borders import border_images, empty_output
from .checks import check_images, check_tensors
from .device import first_taps, store_output, tile_of, windows_of
from .launch import Launch, Request, plan, planner
from .shapes import ceil_divide, geometry, output_geometry, traffic
from .tiles import accumulator, arithmetic, is_joint, tile_for
from .weights import pack_weight, plan_pack

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["conv_forward", "conv_value"]


@triton.jit
def _keep_larger(best, taken, each, first, AT_ONCE: tl.constexpr):
    """Running maximum [BP, BO] and the first position that has it, with the positions of each [A, BP, BO]."""
    position = first + tl.arange(0, AT_ONCE)[:, None, None]
    is_nan = tl.max((each != each).to(tl.int32), axis=0) > 0  # as in torch, NaN wins
    most = tl.max(tl.where(each == each, each, float("-inf")), axis=0)
    where = tl.min(tl.where(each == most[None, :, :], position, 255), axis=0)
    most = tl.where(is_nan, float("nan"), most)
    is_more = (most > best) | is_nan
    return tl.where(is_more, most, best), tl.where(is_more, where, taken)


@triton.jit(do_not_specialize=["n_images"])
def _conv_forward_kernel(
    z,
    w,
    b,
    z_next,
    code,
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
    BH: tl.constexpr,
    BW: tl.constexpr,
    OZ: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    AT_ONCE: tl.constexpr,
    IS_SHARED: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEPS_CODE: tl.constexpr,
):
    i_p = tl.program_id(0)
    n_first, i_n, o_p, m_p = tile_of(i_p, n_images, HP * WP, BLOCK_P)
    o_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    z += n_first * (HZ * WZ * CZ)
    o_z = first_taps(i_n, o_p, m_p, HZ, WZ, CZ, SH, SW, RH, RW, WP)
    b_b = tl.load(b + tl.minimum(o_o, O - 1))[None, :]

    best = tl.full((BLOCK_P, BLOCK_O), float("-inf"), ACC)
    taken = tl.full((BLOCK_P, BLOCK_O), 0, tl.int32)
    for first in range(0, RH * RW, AT_ONCE):
        each = windows_of(
            z,
            o_z,
            w,
            o_o,
            first,
            z,
            w,
            False,
            N_RUNS,
            RUN,
            WZ,
            CZ,
            O,
            SH,
            SW,
            RW,
            AT_ONCE,
            IS_SHARED,
            BLOCK_P,
            BLOCK_O,
            BLOCK_K,
            ACC,
            PRECISION,
        )
        best, taken = _keep_larger(best, taken, each + b_b[None, :, :], first, AT_ONCE)

    is_off = best <= 0
    store_output(
        z_next,
        tl.where(is_off, 0.0, best),
        n_first,
        i_n,
        o_p,
        m_p,
        o_o,
        i_p,
        n_images,
        HP,
        WP,
        O,
        BH,
        BW,
        OZ,
        BLOCK_P,
        BLOCK_E,
    )
    if KEEPS_CODE:
        o_code = (i_n * (HP * WP) + o_p)[:, None] * O + o_o[None, :]
        b_code = tl.where(is_off, 255, taken).to(tl.uint8)
        tl.store(code + n_first * (HP * WP * O) + o_code, b_code, mask=m_p[:, None] & (o_o < O)[None, :])


def _plan(op: str, request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("forward", request)
    positions = request.n_images * layer.out_height * layer.out_width
    count = traffic(op, request)
    pointer = f"*{request.dtype}"
    return [
        *plan_pack(op, request),
        Launch(
            op,
            _conv_forward_kernel,
            {"z": pointer, "w": pointer, "b": pointer, "z_next": pointer, "code": "*u8", "n_images": "i32"},
            {
                **geometry(layer, is_joint(request)),
                **output_geometry(layer, tile.p),
                "BLOCK_P": tile.p,
                "BLOCK_O": tile.c,
                "BLOCK_K": tile.k,
                "AT_ONCE": tile.windows,
                "IS_SHARED": is_joint(request),
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
        ),
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
    out, z_next = empty_output(n_images, layer, z)
    code = torch.empty(z_next.shape, dtype=torch.uint8, device=z.device)
    *pack, launch = plan("conv_forward", layer, z, n_images, precision)
    launch.run(border_images(z, layer), pack_weight(w, pack), b, out, code, n_images)
    return z_next, code


def conv_value(z: Tensor, w: Tensor, b: Tensor, layer: ConvLayer, *, precision: str = "tf32") -> Tensor:
    """Evaluate a convolutional layer without its selection: `conv_forward`'s z_next, with the same bits.

    Returns
    -------
    Tensor of shape (N, Hp, Wp, O)
    """
    n_images = check_images(z, layer, precision)
    check_tensors(z, w=(w, layer.weight_shape), b=(b, (layer.filters,)))
    out, z_next = empty_output(n_images, layer, z)
    *pack, launch = plan("conv_value", layer, z, n_images, precision)
    launch.run(border_images(z, layer), pack_weight(w, pack), b, out, out, n_images)
    return z_next

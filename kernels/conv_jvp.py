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

import triton
import triton.language as tl
from torch import Tensor

from .borders import border_images, empty_output
from .checks import check_images, check_selection, check_tensors
from .device import add_coded, first_taps, store_output, tile_of, windows_of
from .launch import Launch, Request, plan, planner
from .shapes import ceil_divide, geometry, output_geometry, traffic
from .tiles import accumulator, arithmetic, is_joint, tile_for
from .weights import pack_weight, plan_pack

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
    HAS_TANGENT: tl.constexpr,
):
    i_p = tl.program_id(0)
    n_first, i_n, o_p, m_p = tile_of(i_p, n_images, HP * WP, BLOCK_P)
    o_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    z += n_first * (HZ * WZ * CZ)
    z_dot += n_first * (HZ * WZ * CZ)
    o_z = first_taps(i_n, o_p, m_p, HZ, WZ, CZ, SH, SW, RH, RW, WP)
    o_code = (i_n * (HP * WP) + o_p)[:, None] * O + o_o[None, :]
    m_code = m_p[:, None] & (o_o < O)[None, :]
    b_code = tl.load(code + n_first * (HP * WP * O) + o_code, mask=m_code, other=255)
    out = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
    for first in range(0, RH * RW, AT_ONCE):
        each = windows_of(
            z,
            o_z,
            v,
            o_o,
            first,
            z_dot,
            w,
            HAS_TANGENT,
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
        out = add_coded(out, each, first, b_code, AT_ONCE)
    b_v = tl.load(v_bias + tl.minimum(o_o, O - 1))
    out = tl.where(b_code == 255, 0.0, out + b_v[None, :])
    store_output(
        z_next_dot, out, n_first, i_n, o_p, m_p, o_o, i_p, n_images, HP, WP, O, BH, BW, OZ, BLOCK_P, BLOCK_E
    )


@planner("conv_jvp")
def _plan(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("forward", request)
    positions = request.n_images * layer.out_height * layer.out_width
    count = traffic("conv_jvp", request)
    pointer = f"*{request.dtype}"
    return [
        *plan_pack("conv_jvp", request),
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
                **geometry(layer, is_joint(request)),
                **output_geometry(layer, tile.p),
                "BLOCK_P": tile.p,
                "BLOCK_O": tile.c,
                "BLOCK_K": tile.k,
                "AT_ONCE": tile.windows,
                "IS_SHARED": is_joint(request),
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
        ),
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
    n_images = check_images(z, layer, precision, z_dot)
    check_tensors(z, w=(w, layer.weight_shape), v=(v, layer.weight_shape), v_bias=(v_bias, (layer.filters,)))
    out, z_next_dot = empty_output(n_images, layer, z)
    check_selection(selection, z, z_next_dot.shape)
    *pack, launch = plan("conv_jvp", layer, z, n_images, precision, is_first=z_dot is None)
    images, directions = border_images(z, layer), pack_weight(v, pack)
    # the first layer's kernel reads neither of the other two
    tangents = images if z_dot is None else border_images(z_dot, layer)
    weights = directions if z_dot is None else pack_weight(w, pack)
    launch.run(images, tangents, weights, directions, v_bias, selection, out, n_images)
    return z_next_dot

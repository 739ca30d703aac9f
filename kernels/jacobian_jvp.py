"""A layer's block of the stored Jacobian times (v, v_bias): D vec(select(V phi(pad(z)) + v_bias)) (76).

z (N, H, W, C), D (N, K, Hp, Wp, O), v (O, KH, KW, C) and v_bias (O,) give (N, K). A tile of the selected
convolution stays in registers and meets the K tiles of D there; what leaves is one sum a position, row and
block of channels, 1/O of D, which `partials` adds in order.

torch writes a pre-pool array, gathers it, and reads the result again beside D.
Reference: hfcnn.ops.jacobian_jvp.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .borders import border_images
from .checks import check_images, check_rows, check_selection, check_tensors
from .device import add_coded, first_taps, tile_of, windows_of
from .launch import ITEM_SIZES, Launch, Request, plan, planner
from .partials import plan_sum_rows
from .shapes import ceil_divide, geometry, traffic
from .tiles import accumulator, arithmetic, is_joint, tile_for
from .weights import pack_weight, plan_pack

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["jacobian_jvp"]


@triton.jit(do_not_specialize=["n_images"])
def _jacobian_jvp_kernel(
    z,
    D,
    v,
    v_bias,
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
    ROWS: tl.constexpr,
    N_BLOCKS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_K: tl.constexpr,
    AT_ONCE: tl.constexpr,
    IS_SHARED: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    PLANE: tl.constexpr = HP * WP
    n_first, i_n, o_p, m_p = tile_of(tl.program_id(0), n_images, PLANE, BLOCK_P)
    o_o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    z += n_first * (HZ * WZ * CZ)
    o_z = first_taps(i_n, o_p, m_p, HZ, WZ, CZ, SH, SW, RH, RW, WP)
    o_code = (i_n * PLANE + o_p)[:, None] * O + o_o[None, :]
    m = m_p[:, None] & (o_o < O)[None, :]
    b_code = tl.load(code + n_first * (PLANE * O) + o_code, mask=m, other=255)
    y = tl.full((BLOCK_P, BLOCK_O), 0.0, ACC)
    for first in range(0, RH * RW, AT_ONCE):
        each = windows_of(
            z,
            o_z,
            v,
            o_o,
            first,
            z,
            v,
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
        y = add_coded(y, each, first, b_code, AT_ONCE)
    b_v = tl.load(v_bias + tl.minimum(o_o, O - 1))
    y = tl.where(b_code == 255, 0.0, y + b_v[None, :])

    # partial (N, K, channel blocks, positions)
    D += n_first * (ROWS * PLANE * O)
    partial += n_first * (ROWS * N_BLOCKS * PLANE)
    o_d = (i_n * (ROWS * PLANE) + o_p)[:, None] * O + o_o[None, :]
    o_sum = (i_n * (ROWS * N_BLOCKS) + tl.program_id(1)) * PLANE + o_p
    for k in range(ROWS):
        b_d = tl.load(D + k * (PLANE * O) + o_d, mask=m, other=0.0)
        tl.store(partial + k * (N_BLOCKS * PLANE) + o_sum, tl.sum(y * b_d, axis=1), mask=m_p)


@planner("jacobian_jvp")
def _plan(request: Request) -> list[Launch]:
    layer, tile = request.layer, tile_for("forward", request)
    plane, rows = layer.out_height * layer.out_width, request.n_outputs
    n_blocks = ceil_divide(layer.filters, tile.c)
    n_sums = request.n_images * rows
    count = traffic("jacobian_jvp", request)
    pointer, sums = f"*{request.dtype}", "fp64" if request.dtype == "fp64" else "fp32"
    first = Launch(
        "jacobian_jvp",
        _jacobian_jvp_kernel,
        {
            "z": pointer,
            "D": pointer,
            "v": pointer,
            "v_bias": pointer,
            "code": "*u8",
            "partial": f"*{sums}",
            "n_images": "i32",
        },
        {
            **geometry(layer, is_joint(request)),
            "ROWS": rows,
            "N_BLOCKS": n_blocks,
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
        (ceil_divide(request.n_images * plane, tile.p), n_blocks),
        count.flops,
        count.bytes_read,
        n_sums * n_blocks * plane * ITEM_SIZES[sums],
        count.bytes_unfused,
    )
    return [
        *plan_pack("jacobian_jvp", request),
        first,
        plan_sum_rows("jacobian_jvp", request, n_sums, n_blocks * plane),
    ]


def jacobian_jvp(
    z: Tensor,
    D: Tensor,
    v: Tensor,
    v_bias: Tensor,
    selection: Tensor,
    layer: ConvLayer,
    *,
    precision: str = "tf32",
) -> Tensor:
    """Apply a layer's block of the stored Jacobian to (v, v_bias) (76).

    Parameters
    ----------
    z : Tensor of shape (N, H, W, C)
        Input.
    D : Tensor of shape (N, K, Hp, Wp, O)
        dz^{L+1} / dZ^{m+1}, zero where the ReLU is off.
    v : Tensor of shape (O, KH, KW, C)
        Direction in the weight.
    v_bias : Tensor of shape (O,)
        Direction in the bias.
    selection : Tensor of shape (N, Hp, Wp, O), uint8
        `conv_forward`'s.
    layer : ConvLayer
        The layer's geometry.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32; the sum with D is in float32 throughout.

    Returns
    -------
    Tensor of shape (N, K)

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous.
    """
    n_images = check_images(z, layer, precision)
    rows = check_rows(D, z, layer)
    check_tensors(z, v=(v, layer.weight_shape), v_bias=(v_bias, (layer.filters,)))
    check_selection(selection, z, (n_images, *layer.output_shape))
    *pack, first, second = plan("jacobian_jvp", layer, z, n_images, precision, n_outputs=rows)
    dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
    n_sums = n_images * rows
    partial = torch.empty((n_sums, second.constexprs["N_COLUMNS"]), dtype=dtype, device=z.device)
    out = torch.empty((n_images, rows), dtype=z.dtype, device=z.device)
    first.run(border_images(z, layer), D, pack_weight(v, pack), v_bias, selection, partial, n_images)
    second.run(partial, out, n_sums)
    return out

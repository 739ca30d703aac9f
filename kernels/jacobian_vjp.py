"""A layer's block of the stored Jacobian, transposed, times q: the weight gradient of g = sum_k q_k D_k (80).

z (N, H, W, C), D (N, K, Hp, Wp, O), q (N, K) and the code (N, Hp, Wp, O) give (O, KH, KW, C) and (O,).
D is K times larger than g, so it must be read once: a first kernel writes g, 1/K of D, and `conv_vjp_weight`
reads it. Reference: hfcnn.ops.jacobian_vjp.
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
from .conv_vjp_weight import conv_vjp_weight
from .launch import Launch, Request, launches, plan, planner
from .shapes import BLOCK_E, ceil_divide, power_of_two, traffic
from .tiles import accumulator

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["jacobian_vjp"]


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


@planner("jacobian_vjp")
def _plan(request: Request) -> list[Launch]:
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
    z: Tensor,
    D: Tensor,
    q: Tensor,
    selection: Tensor,
    layer: ConvLayer,
    *,
    out: Tensor | None = None,
    precision: str = "tf32",
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
    out : Tensor of shape (n_m,) or None
        Where to write both gradients, as in `hfcnn.kernels.conv_vjp_weight`.
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
    contract, *_ = plan("jacobian_vjp", layer, z, n_images, precision, n_outputs=rows)
    g = torch.empty((n_images, *layer.output_shape), dtype=z.dtype, device=z.device)
    contract.run(D, q, g)
    return conv_vjp_weight(g, z, selection, layer, out=out, precision=precision)

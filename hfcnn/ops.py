"""The layer operations in plain torch: the truth for every kernel, and the fast path on a CPU.

A convolutional layer is pad, convolution, ReLU and pooling as one operation (20), linearised at theta by what
pooling and ReLU decided there, its *selection* (see `hfcnn.selection`). Images are NHWC and contiguous;
weights (O, KH, KW, C). Shapes: z (N, H, W, C); z_next and g (N, Hp, Wp, O); D (N, K, Hp, Wp, O). Sums, never
means, over images. Every function works in the dtype of its arguments, on their device.

Selections of max pooling have two forms that mean the same. `conv_forward` returns a `Selection`: the
position in the plane that each pooled output took, and the outputs themselves, whose sign is the ReLU's mask
(84). `encode` turns it into one uint8 per pooled output, the form of the Triton kernels: which position of
its window was taken (row-major, the first wins ties), or 255 where the ReLU is off. Every function here takes
either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from hfcnn.selection import (
    RELU_OFF,
    AverageSelection,
    BaseSelection,
    Selection,
    decode,
    encode,
    mask,
    nchw,
    nhwc,
)

if TYPE_CHECKING:
    from hfcnn.layers.conv import ConvLayer

__all__ = [
    "RELU_OFF", "Selection", "cg_update", "conv_cotangent", "conv_cotangent_gram", "conv_forward", "conv_jvp",
    "conv_patch_gram", "conv_transpose", "conv_value", "conv_vjp", "conv_vjp_input", "conv_vjp_weight",
    "decode", "encode", "jacobian_jvp", "jacobian_vjp", "mask", "parameter_jacobian", "unfold",
]  # fmt: skip

#: Either form of a selection.
AnySelection: TypeAlias = BaseSelection | Tensor


def conv_forward(z: Tensor, w: Tensor, b: Tensor, layer: ConvLayer) -> tuple[Tensor, BaseSelection]:
    """Evaluate a convolutional layer and keep its selection (21), (22).

    Max pooling comes before the ReLU: the two commute, and the ReLU then sees r^2 times fewer values. Average
    pooling, which does not commute with it, comes after.

    Returns
    -------
    z_next : Tensor of shape (N, Hp, Wp, O)
    selection : Selection or AverageSelection
    """
    s = _convolve(z, w, b, layer)
    if not layer.is_pooled:
        z_next = s.relu_()
        return z_next, Selection(z_next, None, layer)
    if layer.pooling == "average":
        off = s <= 0
        return nhwc(F.avg_pool2d(nchw(s.relu_()), layer.pool)), AverageSelection(off, layer)
    pooled, positions = F.max_pool2d(nchw(s), layer.pool, return_indices=True)
    z_next = nhwc(pooled).relu_()
    return z_next, Selection(z_next, nhwc(positions), layer)


def conv_value(z: Tensor, w: Tensor, b: Tensor, layer: ConvLayer) -> Tensor:
    """Evaluate a convolutional layer without what derivatives need: shape (N, Hp, Wp, O)."""
    s = _convolve(z, w, b, layer)
    if not layer.is_pooled:
        return s.relu_()
    if layer.pooling == "average":
        return nhwc(F.avg_pool2d(nchw(s.relu_()), layer.pool))
    # strided maxima are some three times faster than max_pool2d on a CPU in channels-last order
    rows, columns = layer.out_height * layer.pool[0], layer.out_width * layer.pool[1]
    windows = [
        s[:, i : rows : layer.pool[0], j : columns : layer.pool[1]]
        for i in range(layer.pool[0])
        for j in range(layer.pool[1])
    ]
    z_next = windows[0].relu()
    for window in windows[1:]:
        torch.maximum(z_next, window, out=z_next)
    return z_next


def conv_jvp(
    z: Tensor,
    z_dot: Tensor | None,
    w: Tensor,
    v: Tensor,
    v_bias: Tensor,
    selection: AnySelection,
    layer: ConvLayer,
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

    Returns
    -------
    Tensor of shape (N, Hp, Wp, O)
    """
    if z_dot is None:
        s_dot = _convolve(z, v, v_bias, layer)
    else:
        s_dot = _convolve(z, v, v_bias, layer).add_(_convolve(z_dot, w, None, layer))
    selection = _as_selection(selection, layer, z.dtype)
    return selection.mask(selection.pool(s_dot))


def conv_vjp(
    g: Tensor,
    z: Tensor,
    w: Tensor,
    selection: AnySelection,
    layer: ConvLayer,
    *,
    needs_input: bool = True,
    out: Tensor | None = None,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Carry a cotangent of the layer's output back to its input, weight and bias (50), (51), (58).

    Parameters
    ----------
    g : Tensor of shape (N, Hp, Wp, O)
        Cotangent of the output.
    needs_input : bool, default=True
        False skips the gradient in the input, which the first layer has no use for.
    out : Tensor of shape (n_m,) or None
        Where to write the gradients in weight and bias, which are then views of it.

    Returns
    -------
    g_input : Tensor of shape (N, H, W, C), or None
    g_weight : Tensor of shape (O, KH, KW, C)
        Summed over images, as is `g_bias`.
    g_bias : Tensor of shape (O,)
    """
    selection = _as_selection(selection, layer, z.dtype)
    g = selection.mask(g)
    u = selection.expand(g)
    g_input, g_weight = _convolution_backward(u, z, w, layer, [needs_input, True])
    # over the pooled positions: the library's own bias gradient reads the r^2 times larger array once more
    g_weight, g_bias = nhwc(g_weight), selection.smaller(g, u).flatten(0, 2).sum(0)
    if out is not None:
        weight, bias = out[: g_weight.numel()].view(g_weight.shape), out[g_weight.numel() :]
        g_weight, g_bias = weight.copy_(g_weight), bias.copy_(g_bias)
    return (nhwc(g_input) if needs_input else None), g_weight, g_bias


def conv_vjp_input(g: Tensor, w: Tensor, selection: AnySelection, layer: ConvLayer) -> Tensor:
    """Carry cotangents back to the layer's input (58), one or K of them an image (68).

    Parameters
    ----------
    g : Tensor of shape (N, Hp, Wp, O) or (N, K, Hp, Wp, O)

    Returns
    -------
    Tensor of shape (N, H, W, C) or (N, K, H, W, C)
    """
    selection = _as_selection(selection, layer, w.dtype)
    if g.dim() == 5:
        rows = [conv_vjp_input(row.contiguous(), w, selection, layer).unsqueeze(1) for row in g.unbind(1)]
        return rows[0] if len(rows) == 1 else torch.cat(rows, 1)
    return conv_transpose(conv_cotangent(g, selection, layer), w, layer)


def conv_cotangent(g: Tensor, selection: AnySelection, layer: ConvLayer) -> Tensor:
    """Carry a cotangent of the layer's output back to before ReLU and pooling: shape (N, Hc, Wc, O)."""
    selection = _as_selection(selection, layer, g.dtype)
    return selection.expand(selection.mask(g))


def conv_cotangent_gram(g: Tensor, selection: AnySelection, layer: ConvLayer) -> Tensor:
    """Sum u u^T over images and positions before pooling; u is `conv_cotangent`'s. Shape (O, O)."""
    u = conv_cotangent(g, selection, layer).flatten(0, 2)
    return u.t() @ u


def conv_patch_gram(
    z: Tensor, layer: ConvLayer, *, gap: tuple[int, int] = (1, 1), first: tuple[int, int] = (0, 0)
) -> Tensor:
    """Sum [patch, 1] [patch, 1]^T over images and every `gap`-th position of the filter, from `first`.

    Shape (F + 1, F + 1), F = KH KW C, in theta's order: a filter's weights, then its bias.
    """
    phi = unfold(z, layer).view(len(z), layer.channels, -1, layer.conv_height, layer.conv_width)
    phi = phi[..., first[0] :: gap[0], first[1] :: gap[1]].permute(0, 3, 4, 2, 1).reshape(-1, layer.fan_in)
    patches = torch.cat((phi, phi.new_ones(len(phi), 1)), 1)
    return patches.t() @ patches


def conv_transpose(u: Tensor, w: Tensor, layer: ConvLayer) -> Tensor:
    """Carry a cotangent from before ReLU and pooling to the layer's input: shape (N, H, W, C)."""
    z_shape = u.new_empty((len(u), *layer.input_shape))
    return nhwc(_convolution_backward(u, z_shape, w, layer, [True, False])[0])


def conv_vjp_weight(
    g: Tensor, z: Tensor, selection: AnySelection, layer: ConvLayer, *, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Carry a cotangent back to the layer's weight and bias (50), (51), summed over images.

    Returns their gradients, of shapes (O, KH, KW, C) and (O,); `out` is as in `conv_vjp`.
    """
    w_shape = z.new_empty(layer.weight_shape)
    _, g_weight, g_bias = conv_vjp(g, z, w_shape, selection, layer, needs_input=False, out=out)
    return g_weight, g_bias


def jacobian_jvp(
    z: Tensor, D: Tensor, v: Tensor, v_bias: Tensor, selection: AnySelection, layer: ConvLayer
) -> Tensor:
    """Apply a layer's block of the stored Jacobian to (v, v_bias) (76).

    Parameters
    ----------
    D : Tensor of shape (N, K, Hp, Wp, O)
        dz^{L+1} / dZ^{m+1}; after max pooling, zero where the ReLU is off.

    Returns
    -------
    Tensor of shape (N, K)
    """
    y = _as_selection(selection, layer, z.dtype).pool(_convolve(z, v, v_bias, layer))
    # y D^T and not D y: MKL takes three times as long for a batch of the latter
    return torch.bmm(y.view(len(y), 1, -1), D.flatten(2).transpose(1, 2)).squeeze(1)


def jacobian_vjp(
    z: Tensor,
    D: Tensor,
    q: Tensor,
    selection: AnySelection,
    layer: ConvLayer,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Apply the transpose of a layer's block of the stored Jacobian to q (N, K) (80), summed over images.

    D is as in `jacobian_jvp`, `out` and the result as in `conv_vjp_weight`.
    """
    g = torch.bmm(q.unsqueeze(1), D.flatten(2)).view(len(D), *D.shape[2:])
    return conv_vjp_weight(g, z, selection, layer, out=out)


def parameter_jacobian(phi: Tensor, D: Tensor, selection: AnySelection, layer: ConvLayer) -> Tensor:
    """Multiply a layer's block of the Jacobian out, image by image: dz^{L+1} / d(W, b) (64).

    Parameters
    ----------
    phi : Tensor of shape (N, C KH KW, Hc Wc)
        Patches of the layer's input, of `unfold`.
    D : Tensor of shape (N, K, Hp, Wp, O)
        dz^{L+1} / dZ^{m+1}; after max pooling, zero where the ReLU is off.

    Returns
    -------
    Tensor of shape (N, K, O (KH KW C + 1))
        In theta's order: weight (O, KH, KW, C), then bias.
    """
    selection = _as_selection(selection, layer, phi.dtype)
    n_weights = layer.filters * layer.fan_in
    block = D.new_empty((*D.shape[:2], layer.n_parameters))
    for k, row in enumerate(D.unbind(1)):
        row = row.contiguous()
        u = selection.expand(row)
        g_weight = torch.bmm(phi, u.flatten(1, 2)).view(len(D), layer.channels, *layer.kernel, layer.filters)
        block[:, k, :n_weights] = g_weight.permute(0, 4, 2, 3, 1).flatten(1)
        block[:, k, n_weights:] = selection.smaller(row, u).sum((1, 2))
    return block


def unfold(z: Tensor, layer: ConvLayer) -> Tensor:
    """phi(pad(Z)) (7): the patches under a layer's filter, (N, H, W, C) to (N, C KH KW, Hc Wc)."""
    return F.unfold(nchw(z), layer.kernel, padding=layer.padding, stride=layer.stride)


def cg_update(
    x: Tensor, r: Tensor, p: Tensor, Ap: Tensor, status: Tensor, before: Tensor | None = None
) -> None:
    """Take one conjugate-gradient step in place: x, r and p become the next ones.

    Parameters
    ----------
    x, r, p, Ap : Tensor of shape (n,)
        Solution, residual, direction, and the matrix times the direction. x, r and p are overwritten.
    status : Tensor of shape (2,)
        r @ r before the step, which becomes that after it; beside it is written p @ Ap before the step. Where
        that is not positive, x, r and p must not be used.
    before : Tensor of shape (2, n) or None
        x and r before the step are written here.
    """
    if before is not None:
        before[0].copy_(x)
        before[1].copy_(r)
    rr, curvature = status[0].clone(), p @ Ap
    alpha = rr / curvature
    x.add_(alpha * p)
    r.sub_(alpha * Ap)
    rr_next = r @ r
    p.mul_(rr_next / rr).add_(r)
    status.copy_(torch.stack((rr_next, curvature)))


def _convolve(z: Tensor, w: Tensor, b: Tensor | None, layer: ConvLayer) -> Tensor:
    """W phi(pad(z)) + b (21), before pooling: shape (N, Hc, Wc, O)."""
    return nhwc(F.conv2d(nchw(z), nchw(w), b, layer.stride, layer.padding))


def _convolution_backward(
    u: Tensor, z: Tensor, w: Tensor, layer: ConvLayer, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients in z and w, as NCHW views, of a cotangent of the output before pooling."""
    no_dilation, no_shift, stride = (1, 1), (0, 0), layer.stride
    if layer.kernel == (1, 1) != stride:  # oneDNN 3.12 for AVX2 writes past its memory
        sides = [side + 2 * padding for side, padding in zip(z.shape[1:3], layer.padding, strict=True)]
        spread = u.new_zeros(len(u), *sides, layer.filters)
        spread[:, :: stride[0], :: stride[1]] = u
        u, stride = spread, (1, 1)
    g_input, g_weight, _ = torch.ops.aten.convolution_backward(
        *map(nchw, (u, z, w)),
        None,
        stride,
        layer.padding,
        no_dilation,
        False,
        no_shift,
        1,
        [*needs, False],
    )
    return g_input, g_weight


def _as_selection(selection: AnySelection, layer: ConvLayer, dtype: torch.dtype) -> BaseSelection:
    return selection if isinstance(selection, BaseSelection) else decode(selection, layer, dtype)

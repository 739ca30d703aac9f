"""The layer operations in plain torch: the truth for every kernel, and the fast path on a CPU.

A convolutional layer is pad, convolution, ReLU and max pool as one operation (20), linearised at theta by
what pooling and ReLU decided there, its *selection*. Images are NHWC and contiguous; weights (O, KH, KW, C).
Shapes: z (N, H, W, C); z_next and g (N, Hp, Wp, O); D (N, K, Hp, Wp, O). Sums, never means, over images.
Every function works in the dtype of its arguments, on their device.

Selections have two forms that mean the same. `conv_forward` returns a `Selection`: the position in the plane
that each pooled output took, and the outputs themselves, whose sign is the ReLU's mask (84). `encode` turns
it into one uint8 a pooled output, the form of the Triton kernels: which position of its window was taken
(row-major, the first wins ties), or 255 where the ReLU is off. Every function here takes either.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from hfcnn.network import ConvLayer

__all__ = [
    "RELU_OFF",
    "Selection",
    "cg_update",
    "conv_forward",
    "conv_jvp",
    "conv_value",
    "conv_vjp",
    "conv_vjp_input",
    "conv_vjp_weight",
    "decode",
    "dense_forward",
    "dense_jvp",
    "dense_vjp",
    "encode",
    "jacobian_jvp",
    "jacobian_vjp",
    "mask",
    "parameter_jacobian",
    "unfold",
]

#: Selection code of an output whose ReLU is off.
RELU_OFF = 255


class Selection:
    """What ReLU and max pooling decided at theta, for one batch and layer.

    Parameters
    ----------
    live : Tensor of shape (N, Hp, Wp, O)
        The ReLU is on where this is positive; the layer's output serves.
    positions : Tensor of shape (N, Hp, Wp, O), int64, or None
        Row-major position in the convolution's output plane that pooling took; None without pooling.
    layer : ConvLayer
        The layer.
    """

    def __init__(self, live: Tensor, positions: Tensor | None, layer: ConvLayer) -> None:
        self.live = live
        self.positions = positions
        self.layer = layer

    @cached_property
    def flat(self) -> Tensor:
        """Positions in the flattened (N, Hc, Wc, O) array, of the shape of `positions`."""
        assert self.positions is not None
        n_images, plane = len(self.positions), self.layer.conv_height * self.layer.conv_width
        n_filters, device = self.layer.filters, self.positions.device
        images = torch.arange(n_images, device=device).view(-1, 1, 1, 1) * (plane * n_filters)
        return (self.positions * n_filters).add_(images + torch.arange(n_filters, device=device))


def encode(selection: Selection) -> Tensor:
    """Turn a `Selection` into uint8 codes of shape (N, Hp, Wp, O)."""
    layer = selection.layer
    if selection.positions is None:
        code = torch.zeros_like(selection.live, dtype=torch.uint8)
    else:
        row, column = selection.positions // layer.conv_width, selection.positions % layer.conv_width
        code = ((row % layer.pool[0]) * layer.pool[1] + column % layer.pool[1]).to(torch.uint8)
    return code.masked_fill_(selection.live <= 0, RELU_OFF)


def decode(code: Tensor, layer: ConvLayer, dtype: torch.dtype) -> Selection:
    """Turn uint8 codes of shape (N, Hp, Wp, O) into a `Selection`; `dtype` is that of the later operands."""
    live = (code != RELU_OFF).to(dtype)
    if not layer.is_pooled:
        return Selection(live, None, layer)
    offset = code.to(torch.int64).masked_fill_(code == RELU_OFF, 0)
    rows = torch.arange(layer.out_height, device=code.device).view(1, -1, 1, 1) * layer.pool[0]
    columns = torch.arange(layer.out_width, device=code.device).view(1, 1, -1, 1) * layer.pool[1]
    rows = rows + offset // layer.pool[1]
    positions = rows * layer.conv_width + columns + offset % layer.pool[1]
    return Selection(live, positions, layer)


def conv_forward(z: Tensor, w: Tensor, b: Tensor, layer: ConvLayer) -> tuple[Tensor, Selection]:
    """Evaluate a convolutional layer and keep its selection (21), (22).

    Max pooling comes before the ReLU: the two commute, and the ReLU then sees r^2 times fewer values.

    Returns
    -------
    z_next : Tensor of shape (N, Hp, Wp, O)
    selection : Selection
    """
    s = _convolve(z, w, b, layer)
    if not layer.is_pooled:
        z_next = s.relu_()
        return z_next, Selection(z_next, None, layer)
    pooled, positions = F.max_pool2d(_nchw(s), layer.pool, return_indices=True)
    z_next = _nhwc(pooled).relu_()
    return z_next, Selection(z_next, _nhwc(positions), layer)


def conv_value(z: Tensor, w: Tensor, b: Tensor, layer: ConvLayer) -> Tensor:
    """Evaluate a convolutional layer without what derivatives need: shape (N, Hp, Wp, O)."""
    s = _convolve(z, w, b, layer)
    if not layer.is_pooled:
        return s.relu_()
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
    selection: Selection | Tensor,
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
    return _select(s_dot, _as_selection(selection, layer, z.dtype))


def conv_vjp(
    g: Tensor,
    z: Tensor,
    w: Tensor,
    selection: Selection | Tensor,
    layer: ConvLayer,
    *,
    needs_input: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Carry a cotangent of the layer's output back to its input, weight and bias (50), (51), (58).

    Parameters
    ----------
    g : Tensor of shape (N, Hp, Wp, O)
        Cotangent of the output.
    needs_input : bool, default=True
        False skips the gradient in the input, which the first layer has no use for.

    Returns
    -------
    g_input : Tensor of shape (N, H, W, C), or None
    g_weight : Tensor of shape (O, KH, KW, C)
        Summed over images, as is `g_bias`.
    g_bias : Tensor of shape (O,)
    """
    selection = _as_selection(selection, layer, z.dtype)
    g = mask(g, selection.live)
    g_input, g_weight = _convolution_backward(_expand(g, selection), z, w, layer, [needs_input, True])
    # over the pooled positions: the library's own bias gradient reads the r^2 times larger array once more
    return (_nhwc(g_input) if needs_input else None), _nhwc(g_weight), g.flatten(0, 2).sum(0)


def conv_vjp_input(g: Tensor, w: Tensor, selection: Selection | Tensor, layer: ConvLayer) -> Tensor:
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
    u = _expand(mask(g, selection.live), selection)
    z_shape = g.new_empty((len(g), *layer.input_shape))
    return _nhwc(_convolution_backward(u, z_shape, w, layer, [True, False])[0])


def conv_vjp_weight(
    g: Tensor, z: Tensor, selection: Selection | Tensor, layer: ConvLayer
) -> tuple[Tensor, Tensor]:
    """Carry a cotangent back to the layer's weight and bias (50), (51), summed over images.

    Returns
    -------
    g_weight : Tensor of shape (O, KH, KW, C)
    g_bias : Tensor of shape (O,)
    """
    w_shape = z.new_empty(layer.weight_shape)
    _, g_weight, g_bias = conv_vjp(g, z, w_shape, selection, layer, needs_input=False)
    return g_weight, g_bias


def jacobian_jvp(
    z: Tensor, D: Tensor, v: Tensor, v_bias: Tensor, selection: Selection | Tensor, layer: ConvLayer
) -> Tensor:
    """Apply a layer's block of the stored Jacobian to (v, v_bias) (76).

    Parameters
    ----------
    D : Tensor of shape (N, K, Hp, Wp, O)
        dz^{L+1} / dZ^{m+1}, zero where the ReLU is off.

    Returns
    -------
    Tensor of shape (N, K)
    """
    y = _pool(_convolve(z, v, v_bias, layer), _as_selection(selection, layer, z.dtype))
    # y D^T and not D y: MKL takes three times as long for a batch of the latter
    return torch.bmm(y.view(len(y), 1, -1), D.flatten(2).transpose(1, 2)).squeeze(1)


def jacobian_vjp(
    z: Tensor, D: Tensor, q: Tensor, selection: Selection | Tensor, layer: ConvLayer
) -> tuple[Tensor, Tensor]:
    """Apply the transpose of a layer's block of the stored Jacobian to q (80), summed over images.

    Parameters
    ----------
    D : Tensor of shape (N, K, Hp, Wp, O)
        dz^{L+1} / dZ^{m+1}, zero where the ReLU is off.
    q : Tensor of shape (N, K)

    Returns
    -------
    g_weight : Tensor of shape (O, KH, KW, C)
    g_bias : Tensor of shape (O,)
    """
    g = torch.bmm(q.unsqueeze(1), D.flatten(2)).view(len(D), *D.shape[2:])
    return conv_vjp_weight(g, z, selection, layer)


def parameter_jacobian(phi: Tensor, D: Tensor, selection: Selection | Tensor, layer: ConvLayer) -> Tensor:
    """Multiply a layer's block of the Jacobian out, image by image: dz^{L+1} / d(W, b) (64).

    Parameters
    ----------
    phi : Tensor of shape (N, C KH KW, Hc Wc)
        Patches of the layer's input, of `unfold`.
    D : Tensor of shape (N, K, Hp, Wp, O)
        dz^{L+1} / dZ^{m+1}, zero where the ReLU is off.

    Returns
    -------
    Tensor of shape (N, K, O (KH KW C + 1))
        In theta's order: weight (O, KH, KW, C), then bias.
    """
    selection = _as_selection(selection, layer, phi.dtype)
    n_weights = layer.filters * layer.fan_in
    block = D.new_empty((*D.shape[:2], layer.n_parameters))
    for k, row in enumerate(D.unbind(1)):
        u = _expand(row.contiguous(), selection)
        g_weight = torch.bmm(phi, u.flatten(1, 2)).view(len(D), layer.channels, *layer.kernel, layer.filters)
        block[:, k, :n_weights] = g_weight.permute(0, 4, 2, 3, 1).flatten(1)
        block[:, k, n_weights:] = row.sum((1, 2))
    return block


def unfold(z: Tensor, layer: ConvLayer) -> Tensor:
    """phi(pad(Z)) (7): the patches under a layer's filter, (N, H, W, C) to (N, C KH KW, Hc Wc)."""
    return F.unfold(_nchw(z), layer.kernel, padding=layer.padding, stride=layer.stride)


def dense_forward(z: Tensor, w: Tensor, b: Tensor, *, is_linear: bool) -> Tensor:
    """Evaluate a fully-connected layer (24), (25): shape (N, units). Its own sign is its selection."""
    s = torch.addmm(b, z, w.t())
    return s if is_linear else s.relu_()


def dense_jvp(
    z: Tensor, z_dot: Tensor | None, w: Tensor, v: Tensor, v_bias: Tensor, live: Tensor | None
) -> Tensor:
    """Derivative of a fully-connected layer's output: shape (N, units).

    Parameters
    ----------
    live : Tensor of shape (N, units) or None
        The layer's output, whose sign is the ReLU's mask; None for the linear layer.
    """
    s_dot = torch.addmm(v_bias, z, v.t())
    if z_dot is not None:
        s_dot.addmm_(z_dot, w.t())
    return s_dot if live is None else mask(s_dot, live)


def dense_vjp(
    g: Tensor, z: Tensor, w: Tensor, live: Tensor | None, *, needs_input: bool = True
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Carry a cotangent back through a fully-connected layer (59)-(61).

    Returns
    -------
    g_input : Tensor of shape (N, inputs), or None
    g_weight : Tensor of shape (units, inputs)
        Summed over images, as is `g_bias`.
    g_bias : Tensor of shape (units,)
    """
    if live is not None:
        g = mask(g, live)
    return (g @ w if needs_input else None), g.t() @ z, g.sum(0)


def mask(x: Tensor, live: Tensor) -> Tensor:
    """X where live > 0, else 0, in one vectorised pass."""
    out: Tensor = torch.ops.aten.threshold_backward(x, live, 0)
    return out


def cg_update(x: Tensor, r: Tensor, p: Tensor, Ap: Tensor, rr: Tensor) -> tuple[Tensor, Tensor]:
    """Take one conjugate-gradient step in place: x, r and p become the next ones.

    Parameters
    ----------
    x, r, p, Ap : Tensor of shape (n,)
        Solution, residual, direction, and the matrix times the direction. x, r and p are overwritten.
    rr : Tensor of shape ()
        r @ r before the step.

    Returns
    -------
    rr_next : Tensor of shape ()
        r @ r after the step.
    curvature : Tensor of shape ()
        p @ Ap before the step. Where it is not positive, x, r and p must not be used.
    """
    curvature = p @ Ap
    alpha = rr / curvature
    x.add_(alpha * p)
    r.sub_(alpha * Ap)
    rr_next = r @ r
    p.mul_(rr_next / rr).add_(r)
    return rr_next, curvature


def _nchw(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _convolve(z: Tensor, w: Tensor, b: Tensor | None, layer: ConvLayer) -> Tensor:
    """W phi(pad(z)) + b (21), before pooling: shape (N, Hc, Wc, O)."""
    return _nhwc(F.conv2d(_nchw(z), _nchw(w), b, layer.stride, layer.padding))


def _convolution_backward(
    u: Tensor, z: Tensor, w: Tensor, layer: ConvLayer, needs: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients in z and w, as NCHW views, of a cotangent of the output before pooling."""
    g_input, g_weight, _ = torch.ops.aten.convolution_backward(
        _nchw(u),
        _nchw(z),
        _nchw(w),
        None,
        layer.stride,
        layer.padding,
        (1, 1),
        False,
        (0, 0),
        1,
        [*needs, False],
    )
    return g_input, g_weight


def _as_selection(selection: Selection | Tensor, layer: ConvLayer, dtype: torch.dtype) -> Selection:
    return selection if isinstance(selection, Selection) else decode(selection, layer, dtype)


def _pool(s: Tensor, selection: Selection) -> Tensor:
    """P_pool s: the positions taken at theta, ReLU aside. (N, Hc, Wc, O) to (N, Hp, Wp, O)."""
    if selection.positions is None:
        return s
    return s.take(selection.flat)


def _select(s: Tensor, selection: Selection) -> Tensor:
    """P_pool applied to sigma'(S) * s: (N, Hc, Wc, O) to (N, Hp, Wp, O)."""
    return mask(_pool(s, selection), selection.live)


def _expand(g: Tensor, selection: Selection) -> Tensor:
    """Transpose of `_pool`: zero but at the positions taken (84). (N, Hp, Wp, O) to (N, Hc, Wc, O)."""
    if selection.positions is None:
        return g
    layer = selection.layer
    shape = _nchw(g.new_empty((len(g), layer.conv_height, layer.conv_width, layer.filters)))
    u = torch.ops.aten.max_pool2d_with_indices_backward(
        _nchw(g), shape, layer.pool, layer.pool, (0, 0), (1, 1), False, _nchw(selection.positions)
    )
    return _nhwc(u)

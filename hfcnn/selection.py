"""What ReLU and pooling decided at theta: the linear map that a convolutional layer's tail is there.

A convolutional layer is a convolution, then ReLU and pooling. At a given theta these two are linear: they
keep some positions of the convolution's output, and drop or average the others. A *selection* is that linear
map for one batch and one layer; derivatives apply it and its transpose.

Shapes: s and u, before pooling, are (N, Hc, Wc, O); g and z_next, after it, are (N, Hp, Wp, O).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from hfcnn.layers.conv import ConvLayer

__all__ = [
    "RELU_OFF",
    "AverageSelection",
    "BaseSelection",
    "Selection",
    "decode",
    "encode",
    "mask",
    "nchw",
    "nhwc",
]

#: Selection code of an output whose ReLU is off.
RELU_OFF = 255


class BaseSelection(ABC):
    """The tail of a convolutional layer at theta, for one batch, as a linear map and its transpose."""

    @abstractmethod
    def pool(self, s: Tensor) -> Tensor:
        """Apply what comes before the mask of `mask`: (N, Hc, Wc, O) to (N, Hp, Wp, O)."""

    @abstractmethod
    def mask(self, g: Tensor) -> Tensor:
        """Apply what comes after pooling, which is its own transpose: (N, Hp, Wp, O) to the same."""

    @abstractmethod
    def expand(self, g: Tensor) -> Tensor:
        """Apply the transpose of `pool`: (N, Hp, Wp, O) to (N, Hc, Wc, O)."""

    @abstractmethod
    def __getitem__(self, images: slice) -> BaseSelection:
        """Selection of some of the images, as views."""

    @abstractmethod
    def smaller(self, g: Tensor, u: Tensor) -> Tensor:
        """Of a masked g and its u = expand(g): the smaller one that has the same sums over positions."""


class Selection(BaseSelection):
    """What ReLU and max pooling decided at theta, for one batch and layer.

    The two commute, so the ReLU is taken after pooling, where it sees r^2 times fewer values.

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

    def __getitem__(self, images: slice) -> Selection:
        """Selection of some of the images, as views."""
        positions = None if self.positions is None else self.positions[images]
        return Selection(self.live[images], positions, self.layer)

    @cached_property
    def flat(self) -> Tensor:
        """Positions in the flattened (N, Hc, Wc, O) array, of the shape of `positions`."""
        assert self.positions is not None
        n_images, plane = len(self.positions), self.layer.conv_height * self.layer.conv_width
        n_filters, device = self.layer.filters, self.positions.device
        images = torch.arange(n_images, device=device).view(-1, 1, 1, 1) * (plane * n_filters)
        return (self.positions * n_filters).add_(images + torch.arange(n_filters, device=device))

    def pool(self, s: Tensor) -> Tensor:
        """Read the positions taken at theta, P_pool s."""
        return s if self.positions is None else s.take(self.flat)

    def mask(self, g: Tensor) -> Tensor:
        """Set to zero where the ReLU is off."""
        return mask(g, self.live)

    def expand(self, g: Tensor) -> Tensor:
        """Write to the positions taken; zero elsewhere (84)."""
        if self.positions is None:
            return g
        layer = self.layer
        shape = nchw(g.new_empty((len(g), layer.conv_height, layer.conv_width, layer.filters)))
        u = torch.ops.aten.max_pool2d_with_indices_backward(
            nchw(g), shape, layer.pool, layer.pool, (0, 0), (1, 1), False, nchw(self.positions)
        )
        return nhwc(u)

    def smaller(self, g: Tensor, u: Tensor) -> Tensor:
        """g: each of its entries went to one position."""
        return g


class AverageSelection(BaseSelection):
    """What the ReLU decided at theta before average pooling, for one batch and layer.

    Parameters
    ----------
    off : Tensor of shape (N, Hc, Wc, O), bool
        Where the ReLU is off.
    layer : ConvLayer
        The layer.
    """

    def __init__(self, off: Tensor, layer: ConvLayer) -> None:
        self.off = off
        self.layer = layer

    def __getitem__(self, images: slice) -> AverageSelection:
        """Selection of some of the images, as views."""
        return AverageSelection(self.off[images], self.layer)

    def pool(self, s: Tensor) -> Tensor:
        """Average what the ReLU lets through over each window."""
        return nhwc(F.avg_pool2d(nchw(s.masked_fill(self.off, 0)), self.layer.pool))

    def mask(self, g: Tensor) -> Tensor:
        """G as it is: nothing comes after the average."""
        return g

    def expand(self, g: Tensor) -> Tensor:
        """Spread over each window in equal parts, zero where the ReLU is off."""
        shape = nchw(g.new_empty(self.off.shape))
        u = torch.ops.aten.avg_pool2d_backward(
            nchw(g), shape, self.layer.pool, self.layer.pool, (0, 0), False, True, None
        )
        return nhwc(u).masked_fill_(self.off, 0)

    def smaller(self, g: Tensor, u: Tensor) -> Tensor:
        """u: an entry of g went to those positions of its window alone at which the ReLU is on."""
        return u


def encode(selection: BaseSelection) -> Tensor:
    """Turn a `Selection` into uint8 codes of shape (N, Hp, Wp, O).

    Raises
    ------
    TypeError
        If it is one of average pooling, which has no codes.
    """
    if not isinstance(selection, Selection):
        raise TypeError(f"only a selection of max pooling has codes; got {type(selection).__name__}")
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


def mask(x: Tensor, live: Tensor) -> Tensor:
    """X where live > 0, else 0, in one vectorised pass."""
    out: Tensor = torch.ops.aten.threshold_backward(x, live, 0)
    return out


def nchw(x: Tensor) -> Tensor:
    """View images of shape (N, H, W, C) as (N, C, H, W), without a copy."""
    return x.permute(0, 3, 1, 2)


def nhwc(x: Tensor) -> Tensor:
    """Turn images of shape (N, C, H, W) into contiguous ones of shape (N, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()

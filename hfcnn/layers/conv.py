"""The convolutional layer: convolution, ReLU and pooling as one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfcnn.layers.base import Layer, LayerDescription, LayerShape, Pair, as_pair
from hfcnn.ops import conv_cotangent, conv_transpose, mask, parameter_jacobian, unfold

if TYPE_CHECKING:
    from hfcnn.backend import LayerOps

__all__ = ["Conv", "ConvLayer"]

#: Bytes of a position that max pooling's selection keeps on torch, an int64.
POSITION_BYTES = 8
#: Channels are filled up to a multiple of these where kernels read an input.
LOAD_CHANNELS = 4
#: Positions along a side of the grid on which `factor_rows` takes patches.
GRID = 8
#: Sides up to which it takes every position.
SMALL_SIDE = 4


@dataclass(frozen=True)
class Conv(LayerDescription):
    """A convolutional layer: pad, convolve, ReLU, then pool (20).

    Parameters
    ----------
    filters : int
        Number of filters, the channels of the output.
    kernel : int or (int, int), default=3
        Height and width of a filter.
    stride : int or (int, int), default=1
        Step of the filter, down and across.
    padding : "same", int or (int, int), default="same"
        Zeros added on each side; "same" is (kernel - 1) / 2, the paper's choice (89), for odd kernels.
    pool : int or (int, int), default=1
        Size of the non-overlapping pooling windows; rows and columns that do not fill a window are
        dropped (16). 1 is no pooling.
    pooling : {"max", "average"}, default="max"
        What a window becomes: its largest value, as in the paper, or its mean. Either is taken after the
        ReLU. Average pooling needs ``backend="torch"``.
    """

    filters: int
    kernel: int | Pair = 3
    stride: int | Pair = 1
    padding: Literal["same"] | int | Pair = "same"
    pool: int | Pair = 1
    pooling: Literal["max", "average"] = "max"

    def on(self, number: int, input_shape: LayerShape) -> ConvLayer:
        """Build the layer for images of a given shape."""
        if len(input_shape) != 3:
            raise ValueError(f"layer {number}: a Conv cannot follow a Dense layer")
        kernel, stride, pool = as_pair(self.kernel), as_pair(self.stride), as_pair(self.pool)
        if self.filters < 1 or min(*kernel, *stride, *pool) < 1:
            raise ValueError(
                f"layer {number}: filters, kernel, stride and pool must be at least 1; got {self}"
            )
        if self.pooling not in ("max", "average"):
            raise ValueError(f'layer {number}: pooling must be "max" or "average"; got {self.pooling!r}')
        if self.pooling == "max" and pool[0] * pool[1] > 255:
            raise ValueError(
                f"layer {number}: a window of max pooling may hold at most 255 positions; got {pool}"
            )
        height, width, channels = input_shape
        pooling = "max" if pool == (1, 1) else self.pooling  # without pooling there is one layer, not two
        padding = self._padding(number, kernel)
        layer = ConvLayer(
            height, width, channels, self.filters, kernel, stride, padding, pool, pooling=pooling
        )
        for what, size in (
            ("convolution", (layer.conv_height, layer.conv_width)),
            ("pooling", (layer.out_height, layer.out_width)),
        ):
            if min(size) < 1:
                raise ValueError(
                    f"layer {number} shrinks the image to nothing: {self} turns {height} x {width} "
                    f"into {max(size[0], 0)} x {max(size[1], 0)} by its {what}; "
                    "use fewer or smaller pooling windows, more padding, or larger images"
                )
        return layer

    def _padding(self, number: int, kernel: Pair) -> Pair:
        if self.padding == "same":
            if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
                raise ValueError(f'layer {number}: padding "same" needs an odd kernel; got {kernel}')
            return ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        padding = as_pair(self.padding)
        if min(padding) < 0:
            raise ValueError(f"layer {number}: padding must not be negative; got {padding}")
        return padding


@dataclass(frozen=True)
class ConvLayer(Layer):
    """A convolutional layer whose shapes are known: the ``layer`` argument of the layer operations.

    Pairs are (down, across). The names follow Table 1: input, convolution output, pooled output.
    """

    height: int
    width: int
    channels: int
    filters: int
    kernel: Pair
    stride: Pair
    padding: Pair
    pool: Pair
    #: Padding of the convolution that reads the output; None if none does. An implementation may keep outputs
    #: with that many zeros around them: their shape stays `output_shape`.
    border: Pair | None = None
    pooling: str = "max"

    @property
    def conv_height(self) -> int:
        """Rows of the convolution's output (4)."""
        return (self.height + 2 * self.padding[0] - self.kernel[0]) // self.stride[0] + 1

    @property
    def conv_width(self) -> int:
        """Columns of the convolution's output (4)."""
        return (self.width + 2 * self.padding[1] - self.kernel[1]) // self.stride[1] + 1

    @property
    def out_height(self) -> int:
        """Rows after pooling (16)."""
        return self.conv_height // self.pool[0]

    @property
    def out_width(self) -> int:
        """Columns after pooling (16)."""
        return self.conv_width // self.pool[1]

    @property
    def is_pooled(self) -> bool:
        """Whether a pooling window holds more than one position."""
        return self.pool != (1, 1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the input image."""
        return (self.height, self.width, self.channels)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(Hp, Wp, O) of the output image."""
        return (self.out_height, self.out_width, self.filters)

    @property
    def weight_shape(self) -> LayerShape:
        """(O, KH, KW, C)."""
        return (self.filters, *self.kernel, self.channels)

    @property
    def fan_in(self) -> int:
        """Inputs of one filter."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @property
    def positions(self) -> int:
        """Positions of the filter, a_conv b_conv."""
        return self.conv_height * self.conv_width

    @property
    def selection_bytes(self) -> int:
        """A position per pooled output, or a byte per output of the convolution before an average."""
        if not self.is_pooled:
            return 0
        return self.unpooled_size if self.pooling == "average" else self.output_size * POSITION_BYTES

    @property
    def product_selection_bytes(self) -> int:
        """Positions are kept in two forms."""
        return self.selection_bytes if self.pooling == "average" else 2 * self.selection_bytes

    @property
    def bordered_size(self) -> int:
        """With zeros around, and channels filled up to loads of 16 bytes."""
        height, width = self.height + 2 * self.padding[0], self.width + 2 * self.padding[1]
        return height * width * -(-self.channels // LOAD_CHANNELS) * LOAD_CHANNELS

    @property
    def code_bytes(self) -> int:
        """One byte an output."""
        return self.output_size

    @property
    def wanted_border(self) -> Pair:
        """Its padding."""
        return self.padding

    def read_by(self, reader: Layer) -> ConvLayer:
        """Return the layer, knowing the border that the next one wants."""
        return replace(self, border=reader.wanted_border)

    def images(self, z: Tensor, ops: LayerOps) -> Tensor:
        """Return the network's images as the convolutions of `ops` read them fastest."""
        return ops.conv_images(z, self)

    def weight(self, w: Tensor, ops: LayerOps) -> Tensor:
        """Return the weight as the convolutions of `ops` keep it for several products."""
        return ops.conv_weight(w, self)

    def check_backend(self, name: str) -> None:
        """Refuse average pooling where there are no kernels for it."""
        if self.pooling == "average" and name != "torch":
            raise ValueError(
                f'average pooling has no kernels for backend="{name}"; use backend="torch", which runs on a '
                'GPU too, or pooling="max"'
            )

    def value(self, z: Tensor, w: Tensor, b: Tensor, ops: LayerOps) -> Tensor:
        """Evaluate the layer (21), (22)."""
        z_next: Tensor = ops.conv_value(z, w, b, self)
        return z_next

    def forward(self, z: Tensor, w: Tensor, b: Tensor, ops: LayerOps) -> tuple[Tensor, Any]:
        """Evaluate the layer and keep what ReLU and pooling decided."""
        z_next, selection = ops.conv_forward(z, w, b, self)
        return z_next, selection

    def jvp(
        self,
        z: Tensor,
        z_dot: Tensor | None,
        w: Tensor,
        v: Tensor,
        v_bias: Tensor,
        selection: Any,
        ops: LayerOps,
    ) -> Tensor:
        """Derivative of the output along (z_dot, v, v_bias)."""
        z_next_dot: Tensor = ops.conv_jvp(z, z_dot, w, v, v_bias, selection, self)
        return z_next_dot

    def vjp(
        self,
        g: Tensor,
        z: Tensor,
        w: Tensor,
        selection: Any,
        ops: LayerOps,
        out: Tensor,
        *,
        needs_input: bool,
    ) -> Tensor | None:
        """Carry a cotangent back to the input, weight and bias (50), (51), (58)."""
        g_input: Tensor | None = ops.conv_vjp(g, z, w, selection, self, needs_input=needs_input, out=out)[0]
        return g_input

    def cotangent(self, g: Tensor, selection: Any) -> Tensor:
        """Carry a cotangent of the output back to before ReLU and pooling: (N, Hc, Wc, O)."""
        return conv_cotangent(g, selection, self)

    def cotangent_input(self, u: Tensor, w: Tensor) -> Tensor:
        """Carry it on to the input."""
        return conv_transpose(u, w, self)

    def draw_first(self, rng: np.random.Generator) -> Pair:
        """Draw the offset of the grid."""
        return int(rng.integers(self._gaps[0])), int(rng.integers(self._gaps[1]))

    @property
    def _gaps(self) -> Pair:
        """Steps of the grid, down and across."""
        sides = (self.conv_height, self.conv_width)
        down, across = (1 if side <= SMALL_SIDE else max(2, -(-side // GRID)) for side in sides)
        return down, across

    def factor_rows(self, z: Tensor, u: Tensor, first: Pair) -> tuple[Tensor, Tensor]:
        """Patches on a coarse grid of random offset, with a one, and cotangents at all positions.

        The grid has about `GRID` positions along a side: neighbouring patches are nearly the same.
        """
        windows = F.pad(z, (0, 0, self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        for axis, gap in enumerate(self._gaps):
            start = first[axis] * self.stride[axis]
            windows = windows.narrow(axis + 1, start, windows.shape[axis + 1] - start)
            windows = windows.unfold(axis + 1, self.kernel[axis], gap * self.stride[axis])
        # (N, rows, columns, C, KH, KW) to patches in the weight's order
        patches = z.new_ones((*windows.shape[:3], self.fan_in + 1))
        in_order = patches[..., :-1].view(*windows.shape[:3], *self.kernel, self.channels)
        in_order.copy_(windows.permute(0, 1, 2, 4, 5, 3))
        return patches.flatten(0, 2), u.flatten(0, 2)

    def masked_rows(self, rows: Tensor, z_next: Tensor) -> Tensor:
        """Rows, zero where the ReLU is off; before an average that cannot be said of a pooled output."""
        return rows if self.pooling == "average" else mask(rows, z_next.unsqueeze(1).expand_as(rows))

    def input_rows(self, rows: Tensor, w: Tensor, selection: Any, ops: LayerOps) -> Tensor:
        """Carry rows (N, K, Hp, Wp, O) back to the input (68): (N, K, H, W, C)."""
        result: Tensor = ops.conv_vjp_input(rows, w, selection, self)
        return result

    def rows_jvp(
        self, z: Tensor, rows: Tensor | None, v: Tensor, v_bias: Tensor, selection: Any, ops: LayerOps
    ) -> Tensor:
        """Apply its block of the stored Jacobian (76)."""
        product: Tensor = ops.jacobian_jvp(z, rows, v, v_bias, selection, self)
        return product

    def rows_vjp(
        self, z: Tensor, rows: Tensor | None, q: Tensor, selection: Any, ops: LayerOps, out: Tensor
    ) -> None:
        """Apply its block's transpose (80)."""
        ops.jacobian_vjp(z, rows, q, selection, self, out=out)

    def patches(self, z: Tensor) -> Tensor:
        """phi(pad(Z)) (7)."""
        return unfold(z, self)

    def parameter_rows(self, patches: Tensor, rows: Tensor, selection: Any) -> Tensor:
        """Multiply its block of the Jacobian out (64)."""
        return parameter_jacobian(patches, rows, selection, self)

    def to_modules(self, w: Tensor, b: Tensor, image_shape: LayerShape) -> list[nn.Module]:
        """Build Conv2d, ReLU and a pooling module."""
        conv = nn.Conv2d(self.channels, self.filters, self.kernel, self.stride, self.padding, dtype=w.dtype)
        with torch.no_grad():
            conv.weight.copy_(w.permute(0, 3, 1, 2))
            assert conv.bias is not None
            conv.bias.copy_(b)
        modules: list[nn.Module] = [conv, nn.ReLU()]
        if self.is_pooled:
            modules.append({"max": nn.MaxPool2d, "average": nn.AvgPool2d}[self.pooling](self.pool))
        return modules

    def weight_from_torch(self, weight: Tensor, image_shape: LayerShape) -> Tensor:
        """Bring (O, C, KH, KW) into (O, KH, KW, C)."""
        if weight.shape[1] != self.channels:
            raise ValueError(
                f"a Conv2d gets {self.channels} channels here, "
                f"but its weight is of shape {tuple(weight.shape)}"
            )
        return weight.permute(0, 2, 3, 1)

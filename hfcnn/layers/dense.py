"""The fully-connected layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from hfcnn.layers.base import Layer, LayerDescription, LayerShape, Pair, multiply_into
from hfcnn.selection import mask

if TYPE_CHECKING:
    from hfcnn.backend import LayerOps

__all__ = ["Dense", "DenseLayer"]


@dataclass(frozen=True)
class Dense(LayerDescription):
    """A fully-connected layer with ReLU (24), (25).

    Parameters
    ----------
    units : int
        Number of outputs.
    """

    units: int

    def on(self, number: int, input_shape: LayerShape) -> DenseLayer:
        """Build the layer for an input of a given shape, which it flattens."""
        if self.units < 1:
            raise ValueError(f"layer {number}: units must be at least 1; got {self.units}")
        return DenseLayer(math.prod(input_shape), self.units)


@dataclass(frozen=True)
class DenseLayer(Layer):
    """A fully-connected layer whose shapes are known; the last one is linear.

    Its selection is its output, whose sign is the ReLU's mask; None for the linear layer.
    """

    inputs: int
    units: int
    is_linear: bool = False

    @property
    def input_shape(self) -> LayerShape:
        """(inputs,)."""
        return (self.inputs,)

    @property
    def output_shape(self) -> LayerShape:
        """(units,)."""
        return (self.units,)

    @property
    def weight_shape(self) -> LayerShape:
        """(units, inputs)."""
        return (self.units, self.inputs)

    @property
    def filters(self) -> int:
        """Number of outputs, by the name that convolutional layers use."""
        return self.units

    @property
    def fan_in(self) -> int:
        """Inputs of one unit."""
        return self.inputs

    @property
    def positions(self) -> int:
        """1: a unit sees the whole input at once."""
        return 1

    @property
    def selection_bytes(self) -> int:
        """None: the output is the selection."""
        return 0

    @property
    def product_selection_bytes(self) -> int:
        """None: the output is the selection."""
        return 0

    def value(self, z: Tensor, w: Tensor, b: Tensor, ops: LayerOps) -> Tensor:
        """Evaluate the layer."""
        s = torch.addmm(b, z, w.t())
        return s if self.is_linear else s.relu_()

    def forward(self, z: Tensor, w: Tensor, b: Tensor, ops: LayerOps) -> tuple[Tensor, Tensor | None]:
        """Evaluate the layer; its output is its selection, unless it is linear."""
        z_next = self.value(z, w, b, ops)
        return z_next, None if self.is_linear else z_next

    def jvp(
        self,
        z: Tensor,
        z_dot: Tensor | None,
        w: Tensor,
        v: Tensor,
        v_bias: Tensor,
        selection: Tensor | None,
        ops: LayerOps,
    ) -> Tensor:
        """Derivative of the output along (z_dot, v, v_bias)."""
        s_dot = torch.addmm(v_bias, z, v.t())
        if z_dot is not None:
            s_dot.addmm_(z_dot, w.t())
        return s_dot if selection is None else mask(s_dot, selection)

    def vjp(
        self,
        g: Tensor,
        z: Tensor,
        w: Tensor,
        selection: Tensor | None,
        ops: LayerOps,
        out: Tensor,
        *,
        needs_input: bool,
    ) -> Tensor | None:
        """Carry a cotangent back to the input, weight and bias (59)-(61)."""
        if selection is not None:
            g = mask(g, selection)
        self._sum_gradient(g, z, out)
        return g @ w if needs_input else None

    def _sum_gradient(self, g: Tensor, z: Tensor, out: Tensor) -> None:
        """Write g^T z and the sum of g, one after the other."""
        n_weights = self.units * self.inputs
        multiply_into(g.t(), z, out[:n_weights].view(self.weight_shape))
        torch.sum(g, 0, out=out[n_weights:])

    def cotangent(self, g: Tensor, selection: Tensor | None) -> Tensor:
        """Carry a cotangent of the output back to before the ReLU."""
        return g if selection is None else mask(g, selection)

    def cotangent_input(self, u: Tensor, w: Tensor) -> Tensor:
        """Carry it on to the input."""
        return u @ w

    def draw_first(self, rng: np.random.Generator) -> Pair:
        """There is one position: nothing is drawn."""
        return (0, 0)

    def factor_rows(self, z: Tensor, u: Tensor, first: Pair) -> tuple[Tensor, Tensor]:
        """Inputs with a one, and cotangents: a row per image."""
        return torch.cat([z, z.new_ones((len(z), 1))], 1), u

    def masked_rows(self, rows: Tensor, z_next: Tensor) -> Tensor:
        """Rows, zero where the ReLU is off."""
        return rows if self.is_linear else mask(rows, z_next.unsqueeze(1).expand_as(rows))

    def input_rows(self, rows: Tensor, w: Tensor, selection: Tensor | None, ops: LayerOps) -> Tensor:
        """Carry rows (N, K, units) back to the input: (N, K, inputs)."""
        return rows @ w

    def rows_jvp(
        self,
        z: Tensor,
        rows: Tensor | None,
        v: Tensor,
        v_bias: Tensor,
        selection: Tensor | None,
        ops: LayerOps,
    ) -> Tensor:
        """Apply its block of the stored Jacobian (76), (81)."""
        s_dot = torch.addmm(v_bias, z, v.t())
        return s_dot if rows is None else torch.bmm(rows, s_dot.unsqueeze(2)).squeeze(2)

    def rows_vjp(
        self,
        z: Tensor,
        rows: Tensor | None,
        q: Tensor,
        selection: Tensor | None,
        ops: LayerOps,
        out: Tensor,
    ) -> None:
        """Apply its block's transpose (80), (82)."""
        self._sum_gradient(q if rows is None else torch.bmm(q.unsqueeze(1), rows).squeeze(1), z, out)

    def patches(self, z: Tensor) -> Tensor:
        """The input as it is."""
        return z

    def parameter_rows(self, patches: Tensor, rows: Tensor, selection: Tensor | None) -> Tensor:
        """Multiply its block of the Jacobian out: (N, K, units (inputs + 1))."""
        weight = rows.unsqueeze(3) * patches[:, None, None, :]
        return torch.cat((weight.flatten(2), rows), 2)

    def to_modules(self, w: Tensor, b: Tensor, image_shape: LayerShape) -> list[nn.Module]:
        """Build Linear and ReLU; after images, a Flatten before them, and columns in NCHW's order."""
        linear = nn.Linear(self.inputs, self.units, dtype=w.dtype)
        modules: list[nn.Module] = [linear] if self.is_linear else [linear, nn.ReLU()]
        if len(image_shape) == 3:
            modules.insert(0, nn.Flatten())
            w = w.view(-1, *image_shape).permute(0, 3, 1, 2).flatten(1)
        with torch.no_grad():
            linear.weight.copy_(w)
            linear.bias.copy_(b)
        return modules

    def weight_from_torch(self, weight: Tensor, image_shape: LayerShape) -> Tensor:
        """Bring the columns from flattened NCHW to flattened NHWC, where images come in."""
        if weight.shape[1] != self.inputs:
            raise ValueError(
                f"a Linear gets {self.inputs} inputs here, but its weight is of shape {tuple(weight.shape)}"
            )
        if len(image_shape) == 3:
            height, width, channels = image_shape
            weight = weight.view(-1, channels, height, width).permute(0, 2, 3, 1)
        return weight.reshape(self.weight_shape)

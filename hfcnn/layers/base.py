"""What every kind of layer can do: the interface by which a network's layers are used."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from hfcnn.backend import LayerOps

__all__ = ["Layer", "LayerDescription", "Pair", "LayerShape", "aligned", "as_pair", "multiply_into"]

Pair: TypeAlias = tuple[int, int]

#: Of one image: (H, W, C), or (units,) once it is flat.
LayerShape: TypeAlias = tuple[int, ...]

#: Bytes that torch aligns its arrays to.
ALIGNMENT = 64


def aligned(a: Tensor) -> Tensor:
    """Return an array as it is where torch could have put it; else a copy, by which MKL rounds alike."""
    return a.clone() if a.data_ptr() % ALIGNMENT else a


def multiply_into(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a @ b to `out`, of its shape: at once where that is aligned as arrays of torch are.

    Elsewhere MKL may round otherwise than it does into an array of its own, which is then copied.
    """
    if out.data_ptr() % ALIGNMENT:
        out.copy_(a @ b)
    else:
        torch.matmul(a, b, out=out)


@dataclass(frozen=True)
class LayerDescription(ABC):
    """A layer as the user writes it; its input's shape is not known yet."""

    @abstractmethod
    def on(self, number: int, input_shape: LayerShape) -> Layer:
        """Build the layer for an input of a given shape.

        Parameters
        ----------
        number : int
            Which layer of the network it is, from 1, for the message.
        input_shape : tuple of int
            (H, W, C), or (units,) after a fully-connected layer.

        Raises
        ------
        ValueError
            If a setting is not valid or does not fit the input.
        """


class Layer(ABC):
    """A layer whose shapes are known. It holds no parameters: they are arguments, as is all that it computes.

    Conventions: w is the weight, of `weight_shape`, b the bias (O,); v and v_bias are their tangents. z is
    the input of N images, (N, *input_shape); z_next the output, and g a cotangent of it,
    (N, *output_shape). `ops` is the backend's implementation of the convolutions. `selection` is what
    `forward` kept beside z: what the ReLU and pooling decided. Everything is summed over images, never
    averaged.
    """

    # -- shapes and sizes, of one image ------------------------------------------------------------------

    @property
    @abstractmethod
    def input_shape(self) -> LayerShape:
        """LayerShape of the input of one image."""

    @property
    @abstractmethod
    def output_shape(self) -> LayerShape:
        """LayerShape of the output of one image."""

    @property
    @abstractmethod
    def weight_shape(self) -> LayerShape:
        """LayerShape of the weight: outputs first."""

    @property
    @abstractmethod
    def fan_in(self) -> int:
        """Inputs of one filter or unit."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """Positions at which each filter is applied; 1 in a fully-connected layer."""

    if TYPE_CHECKING:  # a field of some kinds, which a property here would not let them set

        @property
        def filters(self) -> int:
            """Number of filters or units."""

    @property
    def n_parameters(self) -> int:
        """Number n_m of weights and biases."""
        return self.filters * (self.fan_in + 1)

    @property
    def input_size(self) -> int:
        """Elements of the input of one image."""
        return math.prod(self.input_shape)

    @property
    def output_size(self) -> int:
        """Elements of the output of one image."""
        return math.prod(self.output_shape)

    @property
    def unpooled_size(self) -> int:
        """Elements of the output before pooling, of one image."""
        return self.filters * self.positions

    @property
    def patches_size(self) -> int:
        """Elements of what `patches` makes of one image."""
        return self.fan_in * self.positions

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the forward pass, for one image."""
        return self.filters * self.fan_in * self.positions

    @property
    @abstractmethod
    def selection_bytes(self) -> int:
        """Bytes of a selection on torch beside the input and output, for one image."""

    @property
    @abstractmethod
    def product_selection_bytes(self) -> int:
        """The same once a Jacobian product was made, which may keep a second form."""

    @property
    def bordered_size(self) -> int:
        """Elements of the input as the Triton kernels keep it, of one image."""
        return self.input_size

    @property
    def code_bytes(self) -> int:
        """Bytes of a selection of the Triton kernels, for one image."""
        return 0

    @property
    def block_is_smaller(self) -> bool:
        """Whether its part of the stored Jacobian is smaller as dz/dtheta^m than as dz/dZ^{m+1}."""
        return self.n_parameters < self.output_size

    @property
    def wanted_border(self) -> Pair | None:
        """Zeros that it wants around its input, down and across; None where it reads no images."""
        return None

    def read_by(self, reader: Layer) -> Layer:
        """Return the layer as it is when its output goes to `reader`."""
        return self

    def images(self, z: Tensor, ops: LayerOps) -> Tensor:
        """Return the network's images in the form that this layer, the first, reads fastest."""
        return z

    def weight(self, w: Tensor, ops: LayerOps) -> Tensor:
        """Return the weight in a form that several products read: what they make of it is made once."""
        return w

    def check_backend(self, name: str) -> None:  # noqa: B027, most kinds have nothing to refuse
        """Raise a ValueError if the backend of that name cannot compute this layer."""

    # -- values and products ------------------------------------------------------------------------------

    @abstractmethod
    def value(self, z: Tensor, w: Tensor, b: Tensor, ops: LayerOps) -> Tensor:
        """Evaluate the layer without what derivatives need."""

    @abstractmethod
    def forward(self, z: Tensor, w: Tensor, b: Tensor, ops: LayerOps) -> tuple[Tensor, Any]:
        """Evaluate the layer; return its output and its selection, None where there is nothing to decide."""

    @abstractmethod
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
        """Derivative of the output along (z_dot, v, v_bias); z_dot is None where it is zero."""

    @abstractmethod
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
        """Carry a cotangent of the output back to the input; None if that is not needed.

        The gradients in weight and bias, one after the other, are written to `out` (n_m,).
        """

    # -- Kronecker factors ----------------------------------------------------------------------------------

    @abstractmethod
    def cotangent(self, g: Tensor, selection: Any) -> Tensor:
        """Carry a cotangent of the output back to u, of the values before ReLU and pooling."""

    @abstractmethod
    def cotangent_input(self, u: Tensor, w: Tensor) -> Tensor:
        """Carry such a u back to the input."""

    @abstractmethod
    def draw_first(self, rng: np.random.Generator) -> Pair:
        """Draw the first position, down and across, of those that `factor_rows` takes."""

    @abstractmethod
    def factor_rows(self, z: Tensor, u: Tensor, first: Pair) -> tuple[Tensor, Tensor]:
        """Rows whose outer products make the layer's two Kronecker factors.

        Parameters
        ----------
        u : Tensor
            Cotangent of the values before ReLU and pooling.
        first : (int, int)
            Of `draw_first`: where the positions begin, where not all are taken.

        Returns
        -------
        inputs : Tensor of shape (N M, fan_in + 1)
            What a filter sees at M of the positions, in the weight's order, and a one for the bias.
        cotangents : Tensor of shape (N positions, filters)
            u at all positions. Both go image by image.
        """

    # -- the stored Jacobian --------------------------------------------------------------------------------

    @abstractmethod
    def masked_rows(self, rows: Tensor, z_next: Tensor) -> Tensor:
        """Rows dz^{L+1} / dZ^{m+1} as they are stored: zero where the ReLU after pooling is off.

        Parameters
        ----------
        rows : Tensor of shape (N, K, *output_shape)
        z_next : Tensor of shape (N, *output_shape)
            The layer's output.
        """

    @abstractmethod
    def input_rows(self, rows: Tensor, w: Tensor, selection: Any, ops: LayerOps) -> Tensor:
        """Carry masked rows (N, K, *output_shape) back to the input (68): (N, K, *input_shape)."""

    @abstractmethod
    def rows_jvp(
        self, z: Tensor, rows: Tensor | None, v: Tensor, v_bias: Tensor, selection: Any, ops: LayerOps
    ) -> Tensor:
        """Apply its block of the stored Jacobian to (v, v_bias) (76); rows None is the identity: (N, K)."""

    @abstractmethod
    def rows_vjp(
        self, z: Tensor, rows: Tensor | None, q: Tensor, selection: Any, ops: LayerOps, out: Tensor
    ) -> None:
        """Apply its block's transpose to q (N, K) (80): gradients of weight and bias go to `out` (n_m,)."""

    @abstractmethod
    def patches(self, z: Tensor) -> Tensor:
        """Bring the input into the form in which `parameter_rows` reads it K times."""

    @abstractmethod
    def parameter_rows(self, patches: Tensor, rows: Tensor, selection: Any) -> Tensor:
        """Multiply its block of the Jacobian out (64): dz^{L+1} / dtheta^m, (N, K, n_m), weight then bias."""

    # -- torch ----------------------------------------------------------------------------------------------

    @abstractmethod
    def to_modules(self, w: Tensor, b: Tensor, image_shape: LayerShape) -> list[nn.Module]:
        """Build torch modules that compute the same from NCHW images, or from flattened ones.

        Parameters
        ----------
        image_shape : tuple of int
            LayerShape of what comes in, before it is flattened.
        """

    @abstractmethod
    def weight_from_torch(self, weight: Tensor, image_shape: LayerShape) -> Tensor:
        """Bring a torch module's weight into this layer's order.

        Raises
        ------
        ValueError
            If it is not of the layer's size.
        """


def as_pair(value: int | Pair) -> Pair:
    """Turn an integer into a pair of it, and check that a pair is one.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if isinstance(value, int | np.integer):
        return (int(value), int(value))
    if len(value) != 2:
        raise ValueError(f"expected an integer or a pair of them; got {value!r}")
    return (int(value[0]), int(value[1]))

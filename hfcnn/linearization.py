"""The network's linearisation at theta by the R-operator: one forward pass that serves many products."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from hfcnn.backend import TORCH_OPS, LayerOps
from hfcnn.network import LayerParameters, Network

__all__ = ["Linearization"]


class Linearization:
    """J = d outputs / d theta at theta for a batch of images, as products with it.

    Keeps each layer's input Z^m and selection. A `jvp` is two convolutions a layer (one in the first), a
    `vjp` two (one in the first): nothing of the forward pass is repeated.

    Parameters
    ----------
    network : Network
        The network.
    theta : Tensor of shape (n,)
        Parameters.
    images : Tensor of shape (N, H, W, C)
        A batch, contiguous, of theta's dtype and device.
    ops : LayerOps, default=TORCH_OPS
        Implementation of the layer operations.

    Attributes
    ----------
    outputs : Tensor of shape (N, K)
        The network's outputs z^{L+1}.
    inputs : list of Tensor
        Each layer's input Z^m.
    selections : list
        What each layer's ReLU and pooling decided, in the form of `ops`; None for the linear layer.

    Notes
    -----
    Sums, not means, over images. Exact to rounding: tests compare with torch.func in float64 at 1e-10.
    """

    def __init__(self, network: Network, theta: Tensor, images: Tensor, ops: LayerOps = TORCH_OPS) -> None:
        self.network = network
        self.ops = ops
        self.parameters = [
            LayerParameters(layer.weight(w, ops), b)
            for layer, (w, b) in zip(network.layers, network.parameters(theta), strict=True)
        ]
        self.inputs: list[Tensor] = []
        self.selections: list[Any] = []
        z = network.layers[0].images(images, ops)
        for layer, (w, b) in zip(network.layers, self.parameters, strict=True):
            z = z.view(len(z), *layer.input_shape)
            z_next, selection = layer.forward(z, w, b, ops)
            self.inputs.append(z)
            self.selections.append(selection)
            z = z_next
        self.outputs = z

    def jvp(self, v: Tensor) -> Tensor:
        """Derivative of the outputs along `v`: J v.

        Parameters
        ----------
        v : Tensor of shape (n,)
            Direction.

        Returns
        -------
        Tensor of shape (N, K)
            In theta's dtype.
        """
        z_dot: Tensor | None = None
        tangents = self.network.parameters(v.to(self.outputs.dtype))
        for layer, z, selection, (w, _), (v_w, v_b) in zip(
            self.network.layers, self.inputs, self.selections, self.parameters, tangents, strict=True
        ):
            if z_dot is not None:
                z_dot = z_dot.view(z.shape)
            z_dot = layer.jvp(z, z_dot, w, v_w, v_b, selection, self.ops)
        assert z_dot is not None
        return z_dot

    def vjp(self, q: Tensor) -> Tensor:
        """Gradient in theta of sum(q * outputs): J^T q, summed over images (Sec. 3.2).

        Parameters
        ----------
        q : Tensor of shape (N, K)
            Cotangent of the outputs.

        Returns
        -------
        Tensor of shape (n,)
            In theta's dtype.
        """
        g: Tensor | None = q.to(self.outputs.dtype)
        result = self.outputs.new_empty(self.network.n_parameters)
        gradients = self.network.split(result)
        for m in range(len(self.network.layers) - 1, -1, -1):
            layer, z, selection = self.network.layers[m], self.inputs[m], self.selections[m]
            w = self.parameters[m].weight
            assert g is not None
            g = g.view(len(z), *layer.output_shape)
            g = layer.vjp(g, z, w, selection, self.ops, gradients[m], needs_input=m > 0)
        return result

    def cotangents(self, q: Tensor) -> list[Tensor]:
        """Carry cotangents of the outputs back to each layer's values before ReLU and pooling.

        Parameters
        ----------
        q : Tensor of shape (N, K)
            Cotangent of the outputs.

        Returns
        -------
        list of Tensor
            One per layer: shape (N, Hc, Wc, O) or (N, units).
        """
        g = q.to(self.outputs.dtype)
        result: list[Tensor] = []
        for m in range(len(self.network.layers) - 1, -1, -1):
            layer, selection, w = self.network.layers[m], self.selections[m], self.parameters[m].weight
            u = layer.cotangent(g.view(len(g), *layer.output_shape), selection)
            if m > 0:
                g = layer.cotangent_input(u, w)
            result.append(u)
        return result[::-1]

    def part(self, start: int, stop: int) -> Linearization:
        """Linearisation of the images `start` to `stop` of the batch: views, nothing is computed."""
        part = copy.copy(self)
        part.inputs = [z[start:stop] for z in self.inputs]
        part.selections = [None if s is None else s[start:stop] for s in self.selections]
        part.outputs = self.outputs[start:stop]
        return part

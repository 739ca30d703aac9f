"""The network's linearisation in the paper's form: the stored Jacobian of Sections 3.3 and 3.4."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hfcnn.backend import TORCH_OPS, LayerOps
from hfcnn.cost import rows_at_once
from hfcnn.layers.base import aligned, multiply_into
from hfcnn.linearization import Linearization
from hfcnn.network import Network

__all__ = ["StoredJacobian"]


class StoredJacobian:
    """J = d outputs / d theta at theta for a batch of images, by the stored dz^{L+1} / dZ^{m+1}.

    The same interface as `Linearization`. Setting up costs K backward passes (68), and the K rows an image
    are kept for every layer; a product then costs one convolution a layer and a contraction (76), (80).
    The rows are kept after pooling and so are r^2 times smaller than the paper's dz^{L+1} / dS^m. Where a
    layer has fewer parameters than outputs, as the first one does, its block dz^{L+1} / dtheta^m is
    smaller still: it is kept in their place, and a product with it costs no convolution.

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
    inputs, selections : list
        Each layer's input Z^m and selection, as in `Linearization`; None where there is a block.
    rows : list of Tensor or None
        For each layer, dz^{L+1} / dZ^{m+1} where the ReLU is on, else 0: (N, K, Hp, Wp, O) or (N, K, units).
        None for the output layer, where it is the identity, and where there is a block.
    blocks : list of Tensor or None
        dz^{L+1} / dtheta^m, (N, K, n_m), for the layers for which that is smaller; in theta's order.
    """

    def __init__(self, network: Network, theta: Tensor, images: Tensor, ops: LayerOps = TORCH_OPS) -> None:
        forward = Linearization(network, theta, images, ops)
        self.network = network
        self.ops = ops
        self.outputs = forward.outputs
        self.inputs: list[Any] = list(forward.inputs)
        self.selections: list[Any] = list(forward.selections)
        self.rows: list[Tensor | None] = [None] * len(network.layers)
        self.blocks: list[Tensor | None] = [None] * len(network.layers)
        patches: dict[int, Tensor] = {}
        for m, layer in enumerate(network.layers[:-1]):
            if layer.block_is_smaller:
                self.blocks[m] = self.outputs.new_empty((*self.outputs.shape, layer.n_parameters))
                patches[m] = layer.patches(forward.inputs[m])
                self.inputs[m] = self.selections[m] = None
            else:
                self.rows[m] = self.outputs.new_empty((*self.outputs.shape, *layer.output_shape))
        step = rows_at_once(network, len(images), images.dtype.itemsize, images.device)
        for k in range(0, network.n_outputs, step):
            self._keep_rows(slice(k, k + step), forward, patches)

    def _keep_rows(self, which: slice, forward: Linearization, patches: dict[int, Tensor]) -> None:
        """Carry some of the K rows back from layer to layer (68), and keep them."""
        # the output layer's rows are its weight, the same for every image (72)
        rows = forward.parameters[-1].weight[which].expand(len(self.outputs), -1, -1)
        for m in range(len(self.network.layers) - 2, -1, -1):
            layer, w, selection = self.network.layers[m], forward.parameters[m].weight, forward.selections[m]
            rows = rows.reshape(*rows.shape[:2], *layer.output_shape)
            rows = layer.masked_rows(rows, forward.inputs[m + 1].view(len(rows), *layer.output_shape))
            if (block := self.blocks[m]) is not None:
                block[:, which] = layer.parameter_rows(patches[m], rows, selection)
            elif (kept := self.rows[m]) is not None:
                kept[:, which] = rows
            if m == 0:
                break
            rows = layer.input_rows(rows, w, selection, self.ops)

    def jvp(self, v: Tensor) -> Tensor:
        """Derivative of the outputs along `v`: J v (74), (76), (81).

        Parameters
        ----------
        v : Tensor of shape (n,)
            Direction.

        Returns
        -------
        Tensor of shape (N, K)
            In theta's dtype.
        """
        v = v.to(self.outputs.dtype)
        tangents, flat = self.network.parameters(v), self.network.split(v)
        result: Tensor | None = None
        for m, layer in enumerate(self.network.layers):
            z, rows, block, (v_w, v_b) = self.inputs[m], self.rows[m], self.blocks[m], tangents[m]
            if block is not None:
                product = torch.mv(block.flatten(0, 1), aligned(flat[m])).view_as(self.outputs)
            else:
                product = layer.rows_jvp(z, rows, v_w, v_b, self.selections[m], self.ops)
            result = product if result is None else result.add_(product)
        assert result is not None
        return result

    def vjp(self, q: Tensor) -> Tensor:
        """J^T q, summed over images (80), (82).

        Parameters
        ----------
        q : Tensor of shape (N, K)
            Cotangent of the outputs.

        Returns
        -------
        Tensor of shape (n,)
            In theta's dtype.
        """
        q = q.to(self.outputs.dtype)
        result = self.outputs.new_empty(self.network.n_parameters)
        for m, (layer, out) in enumerate(zip(self.network.layers, self.network.split(result), strict=True)):
            if (block := self.blocks[m]) is not None:
                multiply_into(block.flatten(0, 1).t(), q.view(-1), out)
            else:
                layer.rows_vjp(self.inputs[m], self.rows[m], q, self.selections[m], self.ops, out)
        return result

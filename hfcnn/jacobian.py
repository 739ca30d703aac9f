"""The network's linearisation in the paper's form: the stored Jacobian of Sections 3.3 and 3.4."""

from __future__ import annotations

import torch
from torch import Tensor

from hfcnn.backend import TORCH_OPS, LayerOps
from hfcnn.linearize import Linearization
from hfcnn.network import ConvLayer, Network

__all__ = ["StoredJacobian"]


class StoredJacobian:
    """J = d outputs / d theta at theta for a batch of images, by the stored dz^{L+1} / dZ^{m+1}.

    The same interface as `Linearization`. Setting up costs K backward passes (68), and the K rows an image
    are kept for every layer; a product then costs one convolution a layer and a contraction (76), (80).
    The rows are kept after pooling and so are r^2 times smaller than the paper's dz^{L+1} / dS^m.

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
    rows : list of Tensor or None
        For each layer, dz^{L+1} / dZ^{m+1} where the ReLU is on, else 0: (N, K, Hp, Wp, O) or (N, K, units).
        None for the output layer, where it is the identity.
    """

    def __init__(self, network: Network, theta: Tensor, images: Tensor, ops: LayerOps = TORCH_OPS) -> None:
        forward = Linearization(network, theta, images, ops)
        self.network = network
        self.ops = ops
        self.outputs = forward.outputs
        self.inputs = forward.inputs
        self.selections = forward.selections
        n_layers, n_images = len(network.layers), len(images)
        self.rows: list[Tensor | None] = [None] * n_layers
        # the output layer's rows are its weight, the same for every image (72)
        last = forward.parameters[-1].weight
        rows = last.expand(n_images, *last.shape)
        for m in range(n_layers - 2, -1, -1):
            layer, w = network.layers[m], forward.parameters[m].weight
            live = (forward.inputs[m + 1] > 0).view(n_images, 1, *layer.output_shape)
            stored = rows.reshape(n_images, -1, *layer.output_shape) * live
            self.rows[m] = stored
            if m == 0:
                break
            if isinstance(layer, ConvLayer):
                rows = ops.conv_vjp_input(stored, w, self.selections[m], layer)
            else:
                rows = stored @ w

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
        tangents = self.network.parameters(v.to(self.outputs.dtype))
        result = torch.zeros_like(self.outputs)
        for m, layer in enumerate(self.network.layers):
            z, rows, (v_w, v_b) = self.inputs[m], self.rows[m], tangents[m]
            if isinstance(layer, ConvLayer):
                result += self.ops.jacobian_jvp(z, rows, v_w, v_b, self.selections[m], layer)
                continue
            s_dot = torch.addmm(v_b, z, v_w.t())
            result += s_dot if rows is None else torch.bmm(rows, s_dot.unsqueeze(2)).squeeze(2)
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
        gradients = self.network.parameters(result)
        for m, layer in enumerate(self.network.layers):
            z, rows = self.inputs[m], self.rows[m]
            if isinstance(layer, ConvLayer):
                g_w, g_b = self.ops.jacobian_vjp(z, rows, q, self.selections[m], layer)
            else:
                g = q if rows is None else torch.bmm(q.unsqueeze(1), rows).squeeze(1)
                g_w, g_b = g.t() @ z, g.sum(0)
            gradients[m].weight.copy_(g_w)
            gradients[m].bias.copy_(g_b)
        return result

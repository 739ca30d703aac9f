"""A network: its layers with their shapes, the layout of its parameters, and their first values.

A network is data: a list of layers with known shapes. It holds no parameters; every function that needs
them takes the flat vector ``theta`` (Wang, Tan & Lin, Sec. 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hfcnn.layers import Conv, ConvLayer, Dense, DenseLayer, Layer, LayerDescription
from hfcnn.layers.base import LayerShape, as_pair
from hfcnn.torch_modules import read_modules, to_modules

__all__ = ["PRESETS", "Conv", "ConvLayer", "Dense", "DenseLayer", "Layer", "LayerParameters", "Network"]

#: Table 4, without the output layer, whose size is the number of classes.
PRESETS: dict[str, tuple[Conv, ...]] = {
    "cnn3": (Conv(32, 5, pool=2), Conv(64, 3, pool=2), Conv(64, 3, pool=2)),
    "cnn5": (Conv(32, 5, pool=2), Conv(32, 3), Conv(64, 3, pool=2), Conv(64, 3), Conv(128, 3, pool=2)),
}


class LayerParameters(NamedTuple):
    """A layer's weight and bias: views into a flat vector."""

    weight: Tensor
    bias: Tensor


class Network:
    """A CNN's layers and their shapes; the parameters are elsewhere, in a flat vector ``theta``.

    Parameters
    ----------
    layers : sequence of Conv and Dense
        Convolutional layers, then fully-connected ones. The linear output layer is added.
    input_shape : (int, int, int)
        (H, W, C) of an image.
    n_outputs : int
        Number of outputs K, one a class.

    Attributes
    ----------
    layers : tuple of ConvLayer and DenseLayer
        The layers with their shapes, the linear output layer last.
    n_parameters : int
        Length n of theta.

    Raises
    ------
    ValueError
        If a layer shrinks the image to nothing, a number is not positive, or a convolution follows a
        fully-connected layer.
    """

    def __init__(
        self, layers: Sequence[LayerDescription], input_shape: tuple[int, int, int], n_outputs: int
    ) -> None:
        if len(input_shape) != 3 or min(input_shape) < 1:
            raise ValueError(
                f"input_shape must be (height, width, channels), all positive; got {input_shape}"
            )
        if n_outputs < 1:
            raise ValueError(f"n_outputs must be at least 1; got {n_outputs}")
        self.specs = tuple(layers)
        self.input_shape = (int(input_shape[0]), int(input_shape[1]), int(input_shape[2]))
        self.n_outputs = int(n_outputs)
        layers_alone = list(_with_shapes(self.specs, self.input_shape, self.n_outputs))
        readers = pairwise(layers_alone)
        self.layers = (*(layer.read_by(reader) for layer, reader in readers), layers_alone[-1])
        self.n_parameters = sum(layer.n_parameters for layer in self.layers)

    @classmethod
    def preset(cls, name: str, input_shape: tuple[int, int, int], n_outputs: int) -> Network:
        """Build the paper's 3-layer ("cnn3") or 5-layer ("cnn5") network of Table 4.

        On images too small for it, a pooling window is cut to what is left of the image, so that a preset
        fits any image: a row of 30 pixels is pooled along the row only.

        Raises
        ------
        ValueError
            If there is no preset of that name.
        """
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}; the presets are {', '.join(PRESETS)}")
        specs, (height, width, _) = [], input_shape
        for spec in PRESETS[name]:
            pool = (min(as_pair(spec.pool)[0], height), min(as_pair(spec.pool)[1], width))
            specs.append(replace(spec, pool=pool[0] if pool[0] == pool[1] else pool))
            height, width = height // pool[0], width // pool[1]
        return cls(specs, input_shape, n_outputs)

    def __repr__(self) -> str:
        specs = ", ".join(map(repr, self.specs))
        return f"Network([{specs}], input_shape={self.input_shape}, n_outputs={self.n_outputs})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and (self.layers, self.input_shape) == (
            other.layers,
            other.input_shape,
        )

    def __hash__(self) -> int:
        return hash((self.layers, self.input_shape))

    def parameters(self, theta: Tensor) -> list[LayerParameters]:
        """Split a flat vector into each layer's weight and bias.

        Parameters
        ----------
        theta : Tensor of shape (n,)
            Parameters, a gradient or a direction: layer by layer, weight before bias.

        Returns
        -------
        list of LayerParameters
            Views of `theta`: weights (O, KH, KW, C) or (units, inputs), biases (O,).

        Raises
        ------
        ValueError
            If `theta` is not of shape (n,).
        """
        if theta.shape != (self.n_parameters,):
            raise ValueError(f"expected a vector of shape ({self.n_parameters},), got {tuple(theta.shape)}")
        views, start = [], 0
        for layer in self.layers:
            middle = start + layer.filters * layer.fan_in
            stop = middle + layer.filters
            views.append(LayerParameters(theta[start:middle].view(layer.weight_shape), theta[middle:stop]))
            start = stop
        return views

    def split(self, theta: Tensor) -> list[Tensor]:
        """Views of a flat vector (n,): each layer's part, its weight and then its bias."""
        return list(theta.split_with_sizes([layer.n_parameters for layer in self.layers]))

    def init(self, seed: int | np.random.Generator = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw initial parameters: weights N(0, 2 / fan_in), biases 0 (Sec. 6.1).

        Parameters
        ----------
        seed : int or numpy.random.Generator, default=0
            Seed of the draw. The draw is in float64, so that float32 and float64 start alike.
        dtype : torch.dtype, default=torch.float32
            Type of the result.

        Returns
        -------
        Tensor of shape (n,)
            On the CPU.
        """
        rng = np.random.default_rng(seed)
        parts = []
        for layer in self.layers:
            weight = rng.standard_normal(layer.filters * layer.fan_in) * np.sqrt(2.0 / layer.fan_in)
            parts += [weight, np.zeros(layer.filters)]
        return torch.from_numpy(np.concatenate(parts)).to(dtype)

    def to_torch(self, theta: Tensor) -> nn.Sequential:
        """Build the same network as a ``torch.nn.Sequential``: NCHW images in, logits out.

        Parameters
        ----------
        theta : Tensor of shape (n,)
            Parameters; the module holds copies.
        """
        weights = [(w, b) for w, b in self.parameters(theta.detach())]
        return to_modules(self.layers, weights, self.input_shape)

    @classmethod
    def from_torch(cls, module: nn.Sequential, input_shape: tuple[int, int, int]) -> tuple[Network, Tensor]:
        """Read a network and its parameters from a ``torch.nn.Sequential``.

        Parameters
        ----------
        module : torch.nn.Sequential
            Blocks of Conv2d, ReLU and optionally MaxPool2d (before or after the ReLU, which is the same) or
            AvgPool2d (after it), a Flatten, blocks of Linear and ReLU, and a last Linear. A missing bias
            becomes one of zeros.
        input_shape : (int, int, int)
            (H, W, C) of an image.

        Returns
        -------
        network : Network
        theta : Tensor of shape (n,)
            A copy, in the module's dtype.

        Raises
        ------
        ValueError
            If a module, its order or its options are not among these; the message names it.
        """
        *hidden, last = read = read_modules(module)
        network = cls([layer.description for layer in hidden], input_shape, len(last.bias))
        parts = []
        shape: LayerShape = network.input_shape
        for layer, found in zip(network.layers, read, strict=True):
            parts += [found.weight_for(layer, shape).flatten(), found.bias]
            shape = layer.output_shape
        return network, torch.cat(parts).clone()


def _with_shapes(
    descriptions: Sequence[LayerDescription], input_shape: tuple[int, int, int], n_outputs: int
) -> Iterator[Layer]:
    shape: LayerShape = input_shape
    for number, description in enumerate(descriptions, start=1):
        if not isinstance(description, LayerDescription):
            raise ValueError(f"layer {number} must be a Conv or a Dense; got {description!r}")
        layer = description.on(number, shape)
        yield layer
        shape = layer.output_shape
    yield DenseLayer(math.prod(shape), n_outputs, is_linear=True)

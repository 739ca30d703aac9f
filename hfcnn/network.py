"""Layer specifications, shapes, parameter layout, initialisation, and conversion from and to torch.

A network is data: a list of layers with known shapes. It holds no parameters; every function that needs
them takes the flat vector ``theta`` (Wang, Tan & Lin, Sec. 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Conv:
    """A convolutional layer: pad, convolve, ReLU, max pool (20).

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
        Size of the non-overlapping max-pooling windows; rows and columns that do not fill a window are
        dropped (16). 1 is no pooling.
    """

    filters: int
    kernel: int | Pair = 3
    stride: int | Pair = 1
    padding: Literal["same"] | int | Pair = "same"
    pool: int | Pair = 1


@dataclass(frozen=True)
class Dense:
    """A fully-connected layer with ReLU (24), (25).

    Parameters
    ----------
    units : int
        Number of outputs.
    """

    units: int


@dataclass(frozen=True)
class ConvLayer:
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
    def weight_shape(self) -> tuple[int, ...]:
        """(O, KH, KW, C)."""
        return (self.filters, *self.kernel, self.channels)

    @property
    def fan_in(self) -> int:
        """Inputs of one filter."""
        return self.kernel[0] * self.kernel[1] * self.channels

    @property
    def n_parameters(self) -> int:
        """Number n_m of weights and biases."""
        return self.filters * (self.fan_in + 1)


@dataclass(frozen=True)
class DenseLayer:
    """A fully-connected layer whose shapes are known; the last one is linear."""

    inputs: int
    units: int
    is_linear: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(units, inputs)."""
        return (self.units, self.inputs)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(units,)."""
        return (self.units,)

    @property
    def filters(self) -> int:
        """Number of outputs, by the name that convolutional layers use."""
        return self.units

    @property
    def fan_in(self) -> int:
        """Inputs of one unit."""
        return self.inputs

    @property
    def n_parameters(self) -> int:
        """Number n_m of weights and biases."""
        return self.filters * (self.fan_in + 1)


Layer: TypeAlias = ConvLayer | DenseLayer

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
        self, layers: Sequence[Conv | Dense], input_shape: tuple[int, int, int], n_outputs: int
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
        self.layers = _with_borders(list(_with_shapes(self.specs, self.input_shape, self.n_outputs)))
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
            pool = (min(_pair(spec.pool)[0], height), min(_pair(spec.pool)[1], width))
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
        modules: list[nn.Module] = []
        previous: Layer | None = None
        for layer, (weight, bias) in zip(self.layers, self.parameters(theta.detach()), strict=True):
            module: nn.Conv2d | nn.Linear
            if isinstance(layer, ConvLayer):
                module = nn.Conv2d(
                    layer.channels,
                    layer.filters,
                    layer.kernel,
                    layer.stride,
                    layer.padding,
                    dtype=theta.dtype,
                )
                weight = weight.permute(0, 3, 1, 2)
            else:
                module = nn.Linear(layer.inputs, layer.units, dtype=theta.dtype)
                if not isinstance(previous, DenseLayer):
                    modules.append(nn.Flatten())
                    weight = self._flat_columns(weight, to_channels_first=True)
            with torch.no_grad():
                module.weight.copy_(weight)
                module.bias.copy_(bias)  # type: ignore[union-attr]
            modules.append(module)
            if not (isinstance(layer, DenseLayer) and layer.is_linear):
                modules.append(nn.ReLU())
            if isinstance(layer, ConvLayer) and layer.is_pooled:
                modules.append(nn.MaxPool2d(layer.pool))
            previous = layer
        return nn.Sequential(*modules)

    @classmethod
    def from_torch(cls, module: nn.Sequential, input_shape: tuple[int, int, int]) -> tuple[Network, Tensor]:
        """Read a network and its parameters from a ``torch.nn.Sequential``.

        Parameters
        ----------
        module : torch.nn.Sequential
            Blocks of Conv2d, ReLU and optionally MaxPool2d (before or after the ReLU, which is the same),
            a Flatten, blocks of Linear and ReLU, and a last Linear. A missing bias becomes one of zeros.
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
        specs, weights = _read_sequential(module)
        *hidden, (last, _) = zip(specs, weights, strict=True)
        if not isinstance(last, Dense):
            raise ValueError("the last layer must be a Linear without ReLU")
        network = cls([spec for spec, _ in hidden], input_shape, last.units)
        parts, previous = [], None
        for layer, (weight, bias) in zip(network.layers, weights, strict=True):
            if weight.shape[1] != (layer.channels if isinstance(layer, ConvLayer) else layer.inputs):
                raise ValueError(
                    f"{type(layer).__name__} gets {layer} from images of shape {input_shape}, "
                    f"but its weight is of shape {tuple(weight.shape)}"
                )
            if isinstance(layer, ConvLayer):
                weight = weight.permute(0, 2, 3, 1)
            elif not isinstance(previous, DenseLayer):
                weight = network._flat_columns(weight, to_channels_first=False)
            parts += [weight.reshape(-1), bias]
            previous = layer
        return network, torch.cat(parts).clone()

    def _flat_columns(self, weight: Tensor, *, to_channels_first: bool) -> Tensor:
        """Reorder the inputs of the first dense layer between flattened NHWC and flattened NCHW."""
        convs = [layer for layer in self.layers if isinstance(layer, ConvLayer)]
        height, width, channels = convs[-1].output_shape if convs else self.input_shape
        if to_channels_first:
            return weight.view(-1, height, width, channels).permute(0, 3, 1, 2).reshape(len(weight), -1)
        return weight.view(-1, channels, height, width).permute(0, 2, 3, 1).reshape(len(weight), -1)


def _with_shapes(
    specs: Sequence[Conv | Dense], input_shape: tuple[int, int, int], n_outputs: int
) -> Iterator[Layer]:
    height, width, channels = input_shape
    inputs = height * width * channels
    is_dense = False
    for number, spec in enumerate(specs, start=1):
        if isinstance(spec, Conv):
            if is_dense:
                raise ValueError(f"layer {number}: a Conv cannot follow a Dense layer")
            layer = _conv_layer(number, spec, (height, width, channels))
            yield layer
            height, width, channels = layer.output_shape
            inputs = height * width * channels
        elif isinstance(spec, Dense):
            is_dense = True
            if spec.units < 1:
                raise ValueError(f"layer {number}: units must be at least 1; got {spec.units}")
            yield DenseLayer(inputs, spec.units)
            inputs = spec.units
        else:
            raise ValueError(f"layer {number} must be a Conv or a Dense; got {spec!r}")
    yield DenseLayer(inputs, n_outputs, is_linear=True)


def _with_borders(layers: list[Layer]) -> tuple[Layer, ...]:
    """Tell each convolution which padding the next one wants around its output."""
    for m, (layer, reader) in enumerate(pairwise(layers)):
        if isinstance(layer, ConvLayer) and isinstance(reader, ConvLayer):
            layers[m] = replace(layer, border=reader.padding)
    return tuple(layers)


def _conv_layer(number: int, spec: Conv, image: tuple[int, int, int]) -> ConvLayer:
    kernel, stride, pool = _pair(spec.kernel), _pair(spec.stride), _pair(spec.pool)
    if spec.filters < 1 or min(*kernel, *stride, *pool) < 1:
        raise ValueError(f"layer {number}: filters, kernel, stride and pool must be at least 1; got {spec}")
    if pool[0] * pool[1] > 255:
        raise ValueError(f"layer {number}: a pooling window may hold at most 255 positions; got {pool}")
    if spec.padding == "same":
        if kernel[0] % 2 == 0 or kernel[1] % 2 == 0:
            raise ValueError(f'layer {number}: padding "same" needs an odd kernel; got {kernel}')
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    else:
        padding = _pair(spec.padding)
        if min(padding) < 0:
            raise ValueError(f"layer {number}: padding must not be negative; got {padding}")
    height, width, channels = image
    layer = ConvLayer(height, width, channels, spec.filters, kernel, stride, padding, pool)
    for what, size in (
        ("convolution", (layer.conv_height, layer.conv_width)),
        ("pooling", (layer.out_height, layer.out_width)),
    ):
        if min(size) < 1:
            raise ValueError(
                f"layer {number} shrinks the image to nothing: {spec} turns {height} x {width} "
                f"into {max(size[0], 0)} x {max(size[1], 0)} by its {what}; "
                "use fewer or smaller pooling windows, more padding, or larger images"
            )
    return layer


def _pair(value: int | Pair) -> Pair:
    if isinstance(value, int | np.integer):
        return (int(value), int(value))
    if len(value) != 2:
        raise ValueError(f"expected an integer or a pair of them; got {value!r}")
    return (int(value[0]), int(value[1]))


def _read_sequential(module: nn.Sequential) -> tuple[list[Conv | Dense], list[tuple[Tensor, Tensor]]]:
    """Read specs and weights of each layer, checking that every module means what ours mean."""
    specs: list[Conv | Dense] = []
    weights: list[tuple[Tensor, Tensor]] = []
    needs_relu = is_flat = has_pool = False
    for index, part in enumerate(module):
        where = f"module {index} ({part})"
        if isinstance(part, nn.Conv2d | nn.Linear):
            if needs_relu:
                raise ValueError(f"{where}: expected a ReLU before it")
            bias = part.bias if part.bias is not None else part.weight.new_zeros(part.weight.shape[0])
            weights.append((part.weight.detach(), bias.detach()))
            needs_relu, has_pool = True, False
        if isinstance(part, nn.Conv2d):
            if is_flat:
                raise ValueError(f"{where}: a Conv2d cannot follow a Flatten")
            if part.dilation != (1, 1) or part.groups != 1 or part.padding_mode != "zeros":
                raise ValueError(f"{where}: dilation, groups and padding modes are not supported")
            padding = part.padding
            if isinstance(padding, str):
                padding = (0, 0) if padding == "valid" else tuple((k - 1) // 2 for k in part.kernel_size)
                if part.padding == "same" and any(k % 2 == 0 for k in part.kernel_size):
                    raise ValueError(f'{where}: padding "same" needs an odd kernel')
            specs.append(
                Conv(
                    part.out_channels,
                    _pair(part.kernel_size),  # type: ignore[arg-type]
                    _pair(part.stride),  # type: ignore[arg-type]
                    _pair(padding),  # type: ignore[arg-type]
                )
            )
        elif isinstance(part, nn.Linear):
            if not is_flat:
                raise ValueError(f"{where}: expected a Flatten before the first Linear")
            specs.append(Dense(part.out_features))
        elif isinstance(part, nn.ReLU):
            if not needs_relu:
                raise ValueError(f"{where}: a ReLU must follow a Conv2d or a Linear")
            needs_relu = False
        elif isinstance(part, nn.MaxPool2d):
            last = specs[-1] if specs else None
            kernel, stride = _pair(part.kernel_size), _pair(part.stride)
            if not isinstance(last, Conv) or has_pool or is_flat:
                raise ValueError(f"{where}: a MaxPool2d must follow a Conv2d, one each")
            if kernel != stride or _pair(part.padding) != (0, 0) or _pair(part.dilation) != (1, 1):
                raise ValueError(f"{where}: only windows that do not overlap, without padding, are supported")
            if part.ceil_mode:
                raise ValueError(f"{where}: ceil_mode is not supported")
            specs[-1] = Conv(last.filters, last.kernel, last.stride, last.padding, kernel)
            has_pool = True
        elif isinstance(part, nn.Flatten):
            if needs_relu:
                raise ValueError(f"{where}: expected a ReLU before it")
            if part.start_dim != 1 or part.end_dim != -1:
                raise ValueError(f"{where}: only Flatten(1, -1) is supported")
            is_flat = True
        else:
            raise ValueError(f"{where}: only Conv2d, ReLU, MaxPool2d, Flatten and Linear are supported")
    if not specs or not needs_relu:
        raise ValueError("the last layer must be a Linear without ReLU")
    return specs, weights

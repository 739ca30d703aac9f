"""Networks from and to ``torch.nn.Sequential``: NCHW images in, outputs out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from hfcnn.layers import Conv, Dense, Layer, LayerDescription
from hfcnn.layers.base import LayerShape, as_pair

__all__ = ["ReadLayer", "read_modules", "to_modules"]


def to_modules(
    layers: Sequence[Layer], weights: Sequence[tuple[Tensor, Tensor]], input_shape: LayerShape
) -> nn.Sequential:
    """Build layers as a ``torch.nn.Sequential`` that holds copies of their weights and biases.

    Parameters
    ----------
    layers : sequence of Layer
        The layers.
    weights : sequence of (Tensor, Tensor)
        Each layer's weight and bias.
    input_shape : (int, int, int)
        (H, W, C) of an image.
    """
    modules: list[nn.Module] = []
    shape = input_shape
    for layer, (w, b) in zip(layers, weights, strict=True):
        modules += layer.to_modules(w, b, shape)
        shape = layer.output_shape
    return nn.Sequential(*modules)


def read_modules(module: nn.Sequential) -> list[ReadLayer]:
    """Read the layers of a ``torch.nn.Sequential``, the linear output layer last.

    Raises
    ------
    ValueError
        If a module, its order or its options mean nothing that a layer here means; the message names it.
    """
    reader = _Reader()
    for index, part in enumerate(module):
        reader.read(part, f"module {index} ({part})")
    return reader.finish()


@dataclass(frozen=True)
class ReadLayer:
    """A layer as it was read of torch modules: its weight and bias in torch's order."""

    description: LayerDescription
    weight: Tensor
    bias: Tensor
    where: str

    def weight_for(self, layer: Layer, image_shape: LayerShape) -> Tensor:
        """Bring the weight into the order of a layer, into which come images of some shape.

        Raises
        ------
        ValueError
            If the layer's weight is of another size.
        """
        try:
            return layer.weight_from_torch(self.weight, image_shape)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None


@dataclass
class _Reader:
    """Reads modules one by one, checking that each means what a layer here means.

    Attributes
    ----------
    layers : list of ReadLayer
        Read so far.
    needs_relu : bool
        The last layer has had no ReLU yet.
    conv : Conv or None
        The last layer, while a pooling module may still follow it.
    is_flat : bool
        The images are flat.
    """

    layers: list[ReadLayer] = field(default_factory=list)
    needs_relu: bool = False
    conv: Conv | None = None
    is_flat: bool = False

    def read(self, part: nn.Module, where: str) -> None:
        """Read the next module."""
        if isinstance(part, nn.Conv2d):
            self._read_conv(part, where)
        elif isinstance(part, nn.Linear):
            if not self.is_flat:
                raise ValueError(f"{where}: expected a Flatten before the first Linear")
            self._add(Dense(part.out_features), part, where)
        elif isinstance(part, nn.ReLU):
            if not self.needs_relu:
                raise ValueError(f"{where}: a ReLU must follow a Conv2d or a Linear")
            self.needs_relu = False
        elif isinstance(part, nn.MaxPool2d | nn.AvgPool2d):
            self._read_pooling(part, where)
        elif isinstance(part, nn.Flatten):
            if self.needs_relu:
                raise ValueError(f"{where}: expected a ReLU before it")
            if part.start_dim != 1 or part.end_dim != -1:
                raise ValueError(f"{where}: only Flatten(1, -1) is supported")
            self.is_flat, self.conv = True, None
        else:
            raise ValueError(
                f"{where}: only Conv2d, ReLU, MaxPool2d, AvgPool2d, Flatten and Linear are supported"
            )

    def finish(self) -> list[ReadLayer]:
        """All layers, the last of which must be a Linear without ReLU."""
        if not self.layers or not self.needs_relu or not self.is_flat:
            raise ValueError("the last layer must be a Linear without ReLU")
        return self.layers

    def _add(self, description: LayerDescription, part: nn.Conv2d | nn.Linear, where: str) -> None:
        if self.needs_relu:
            raise ValueError(f"{where}: expected a ReLU before it")
        bias = part.bias if part.bias is not None else part.weight.new_zeros(part.weight.shape[0])
        self.layers.append(ReadLayer(description, part.weight.detach(), bias.detach(), where))
        self.needs_relu = True

    def _read_conv(self, part: nn.Conv2d, where: str) -> None:
        if self.is_flat:
            raise ValueError(f"{where}: a Conv2d cannot follow a Flatten")
        if part.dilation != (1, 1) or part.groups != 1 or part.padding_mode != "zeros":
            raise ValueError(f"{where}: dilation, groups and padding modes are not supported")
        padding: Any = part.padding
        if isinstance(padding, str):
            if padding == "same" and any(k % 2 == 0 for k in part.kernel_size):
                raise ValueError(f'{where}: padding "same" needs an odd kernel')
            padding = (0, 0) if padding == "valid" else tuple((k - 1) // 2 for k in part.kernel_size)
        kernel: Any = part.kernel_size
        stride: Any = part.stride
        conv = Conv(part.out_channels, as_pair(kernel), as_pair(stride), as_pair(padding))
        self._add(conv, part, where)
        self.conv = conv

    def _read_pooling(self, part: nn.MaxPool2d | nn.AvgPool2d, where: str) -> None:
        name = type(part).__name__
        if self.conv is None:
            raise ValueError(f"{where}: a pooling module must follow a Conv2d, one each")
        kernel: Any = part.kernel_size
        stride: Any = part.stride
        padding: Any = part.padding
        dilation: Any = getattr(part, "dilation", 1)
        if as_pair(kernel) != as_pair(stride) or as_pair(padding) != (0, 0) or as_pair(dilation) != (1, 1):
            raise ValueError(f"{where}: only windows that do not overlap, without padding, are supported")
        if part.ceil_mode:
            raise ValueError(f"{where}: ceil_mode is not supported")
        is_average = isinstance(part, nn.AvgPool2d)
        if is_average and self.needs_relu:
            raise ValueError(
                f"{where}: an {name} must come after the ReLU; before it, it means another network"
            )
        if is_average and part.divisor_override is not None:
            raise ValueError(f"{where}: divisor_override is not supported")
        conv = replace(self.conv, pool=as_pair(kernel), pooling="average" if is_average else "max")
        self.layers[-1] = replace(self.layers[-1], description=conv)
        self.conv = None

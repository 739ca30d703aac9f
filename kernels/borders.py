"""Images with a border of zeros: what the kernels read, and hand to each other between layers.

A layer pads its input by zeros. Where they are in memory, a kernel's taps need no masks, and its loads are of
16 bytes: channels are filled up to a multiple of four as well. Where a convolution reads what an op returns
(`ConvLayer.border`), that is a `Bordered`: a view of shape (N, Hp, Wp, O) inside a larger array. An op that
is given one with the border it wants reads that array. Whatever else it is given, it copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .shapes import filled

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["Bordered", "border_images", "conv_images", "empty_output"]


class Bordered(Tensor):
    """The images in the middle of `whole`, which is zero around them.

    It stays one where images are taken from it, and as a view of its own shape; all else made of it is plain.
    """

    whole: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def within(cls, whole: Tensor, shape: tuple[int, ...]) -> Bordered:
        """View of `shape` (N, H, W, C) in the middle of an array (N, H + 2 b, W + 2 b', C or more)."""
        rows, columns = ((whole.shape[i] - shape[i]) // 2 for i in (1, 2))
        middle = whole[:, rows : rows + shape[1], columns : columns + shape[2], : shape[3]]
        result = middle.as_subclass(cls)
        result.whole = whole
        return result

    def view(self, *shape: Any) -> Tensor:
        """View as another shape; itself, where that is its own."""
        wanted = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return self if wanted == tuple(self.shape) else super().view(*shape)

    def __getitem__(self, index: Any) -> Tensor:
        """Index; a slice of the images keeps their border."""
        if isinstance(index, slice):
            whole = self.whole[index]
            return Bordered.within(whole, (len(whole), *self.shape[1:]))
        result: Tensor = super().__getitem__(index)
        return result


def _bordered_shape(n_images: int, image: tuple[int, int, int], border: tuple[int, int]) -> tuple[int, ...]:
    height, width, channels = image
    return (n_images, height + 2 * border[0], width + 2 * border[1], filled(channels))


def border_images(z: Tensor, layer: ConvLayer) -> Tensor:
    """Find, or make, the array (N, H + 2 PH, W + 2 PW, C filled up) that a layer reads its input from."""
    shape = _bordered_shape(len(z), layer.input_shape, layer.padding)
    if isinstance(z, Bordered) and tuple(z.whole.shape) == shape:
        return z.whole
    if tuple(z.shape) == shape and z.is_contiguous() and z.data_ptr() % 16 == 0:
        return z
    return _copy(z, shape).whole


def conv_images(z: Tensor, layer: ConvLayer) -> Tensor:
    """Put images (N, H, W, C) in the form that a layer reads, for several ops that will read them.

    Returns
    -------
    Bordered of shape (N, H, W, C)
    """
    return Bordered.within(border_images(z, layer), tuple(z.shape))


def _copy(z: Tensor, shape: tuple[int, ...]) -> Bordered:
    result = Bordered.within(z.new_zeros(shape), tuple(z.shape))
    result.copy_(z)
    return result


def empty_output(n_images: int, layer: ConvLayer, like: Tensor) -> tuple[Tensor, Tensor]:
    """Allocate a layer's output: the array that its kernel fills, and the view of it that the op returns."""
    if layer.border is None:
        out = torch.empty((n_images, *layer.output_shape), dtype=like.dtype, device=like.device)
        return out, out
    shape = _bordered_shape(n_images, layer.output_shape, layer.border)
    whole = torch.empty(shape, dtype=like.dtype, device=like.device)
    return whole, Bordered.within(whole, (n_images, *layer.output_shape))

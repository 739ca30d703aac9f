"""Checks of a launch wrapper's arguments: shape, dtype, device and contiguity, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .borders import Bordered
from .launch import DOT_PRECISIONS, DTYPES
from .shapes import filled, geometry

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = ["check_cotangent", "check_images", "check_rows", "check_selection", "check_tensors"]

#: Most positions in a tile.
LARGEST_TILE = 256


def check_tensors(like: Tensor, **tensors: tuple[Tensor, tuple[int, ...]]) -> None:
    """Check that each tensor is contiguous, of its shape, and of the dtype and device of `like`.

    Raises
    ------
    ValueError
        If one is not; the message names it.
    """
    for name, (tensor, shape) in tensors.items():
        if tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must be of shape {tuple(shape)}; got {tuple(tensor.shape)}")
        if tensor.dtype != like.dtype:
            raise ValueError(f"{name} must be of type {like.dtype}; got {tensor.dtype}")
        _check_place(name, tensor, like)


def check_selection(selection: Tensor, like: Tensor, shape: tuple[int, ...]) -> None:
    """Check that a selection is contiguous uint8 codes of `shape` on the device of `like`.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not isinstance(selection, Tensor) or selection.dtype != torch.uint8:
        what = selection.dtype if isinstance(selection, Tensor) else type(selection).__name__
        raise ValueError(f"selection must be uint8 codes; got {what}")
    if tuple(selection.shape) != tuple(shape):
        raise ValueError(f"selection must be of shape {tuple(shape)}; got {tuple(selection.shape)}")
    _check_place("selection", selection, like)


def check_images(z: Tensor, layer: ConvLayer, precision: str, z_dot: Tensor | None = None) -> int:
    """Check the images (N, H, W, C) of a layer, their tangent and the precision; return N.

    Raises
    ------
    ValueError
        If they are not as they must be.
    """
    _check_types("z", z, precision)
    if z.dim() != 4 or tuple(z.shape[1:]) != layer.input_shape:
        raise ValueError(f"z must be of shape (N, {str(layer.input_shape)[1:]}; got {tuple(z.shape)}")
    if not isinstance(z, Bordered):
        _check_place("z", z, z)
    if isinstance(z_dot, Bordered):
        check_tensors(z, z_dot=(z_dot.whole, (*z.shape[:1], *z_dot.whole.shape[1:])))
    elif z_dot is not None:
        check_tensors(z, z_dot=(z_dot, z.shape))
    _check_offsets(layer)
    return len(z)


def check_cotangent(g: Tensor, layer: ConvLayer, precision: str) -> tuple[int, ...]:
    """Check cotangents (N, Hp, Wp, O) or (N, K, Hp, Wp, O) and the precision; return (N,) or (N, K).

    Raises
    ------
    ValueError
        If they are not as they must be.
    """
    _check_types("g", g, precision)
    if g.dim() not in (4, 5) or tuple(g.shape[-3:]) != layer.output_shape:
        tail = str(layer.output_shape)[1:]
        raise ValueError(f"g must be of shape (N, {tail} or (N, K, {tail}; got {tuple(g.shape)}")
    _check_place("g", g, g)
    _check_offsets(layer)
    return tuple(g.shape[:-3])


def check_rows(D: Tensor, z: Tensor, layer: ConvLayer) -> int:
    """Check a stored Jacobian D (N, K, Hp, Wp, O) beside the images z; return K.

    Raises
    ------
    ValueError
        If it is not as it must be.
    """
    rows = D.shape[1] if D.dim() == 5 else 0
    if rows < 1 or tuple(D.shape) != (len(z), rows, *layer.output_shape):
        tail = str(layer.output_shape)[1:]
        raise ValueError(f"D must be of shape ({len(z)}, K, {tail}; got {tuple(D.shape)}")
    check_tensors(z, D=(D, tuple(D.shape)))
    _check_offsets(layer, rows)
    return int(rows)


def _check_offsets(layer: ConvLayer, rows: int = 1) -> None:
    """Check that offsets within a tile, which are int32, suffice: a few images of any realistic size."""
    plane = layer.out_height * layer.out_width
    images = LARGEST_TILE // plane + 2
    sizes = geometry(layer, joint=False)
    image = max(sizes["HZ"] * sizes["WZ"] * sizes["CZ"], rows * plane * filled(layer.filters))
    if images * image >= 2**31:
        raise ValueError(f"images are too large for the kernels: {layer} with {rows} rows")


def _check_types(name: str, tensor: Tensor, precision: str) -> None:
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} must be of type {', '.join(map(str, DTYPES))}; got {tensor.dtype}")
    if precision not in DOT_PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(DOT_PRECISIONS)}; got {precision!r}")


def _check_place(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device}; got {tensor.device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous; its strides are {tensor.stride()}")

"""A layer's geometry as the kernels' constants, and the operations and bytes of each op, counted from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .launch import Request

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = [
    "BLOCK_E",
    "LEAST_TILES",
    "Patch",
    "Traffic",
    "ceil_divide",
    "filled",
    "geometry",
    "grid_sides",
    "output_geometry",
    "patch_of",
    "power_of_two",
    "traffic",
]

#: Elements of a program that takes each by itself.
BLOCK_E = 1024
#: Least tiles of positions that a program sums, so that partial sums stay few beside what is read.
LEAST_TILES = 8
#: Channels are stored in multiples of this: 16 bytes of float32.
CHANNELS = 4


def ceil_divide(a: int, b: int) -> int:
    """Quotient, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """Smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def filled(channels: int) -> int:
    """Channels as images with a border store them."""
    return ceil_divide(channels, CHANNELS) * CHANNELS


@dataclass(frozen=True)
class Patch:
    """What a row of packed weights meets: `n_runs` runs of `run` elements, one an image row.

    Attributes
    ----------
    n_runs, run : int
        Rows, and elements a row.
    windows : int
        Positions of a pooling window that share the patch.
    """

    n_runs: int
    run: int
    windows: int

    @property
    def size(self) -> int:
        """Elements of a patch."""
        return self.n_runs * self.run


def patch_of(layer: ConvLayer, joint: bool) -> Patch:
    """Patch under a filter, or under all filters of a pooling window."""
    channels = filled(layer.channels)
    if not joint:
        return Patch(layer.kernel[0], layer.kernel[1] * channels, 1)
    height, width = (k + (r - 1) * s for k, r, s in zip(layer.kernel, layer.pool, layer.stride, strict=True))
    return Patch(height, width * channels, layer.pool[0] * layer.pool[1])


def geometry(layer: ConvLayer, joint: bool) -> dict[str, int]:
    """Constants of kernels that read bordered images: their sizes, patches, stride, pooling and outputs."""
    patch = patch_of(layer, joint)
    return {
        "HZ": layer.height + 2 * layer.padding[0],
        "WZ": layer.width + 2 * layer.padding[1],
        "CZ": filled(layer.channels),
        "N_RUNS": patch.n_runs,
        "RUN": patch.run,
        "O": layer.filters,
        "SH": layer.stride[0],
        "SW": layer.stride[1],
        "RH": layer.pool[0],
        "RW": layer.pool[1],
        "HP": layer.out_height,
        "WP": layer.out_width,
    }


def grid_sides(layer: ConvLayer, gap: tuple[int, int], first: tuple[int, int]) -> tuple[int, int]:
    """Positions of the filter, down and across, of which every `gap`-th is taken from `first`."""
    sides = (layer.conv_height, layer.conv_width)
    rows, columns = (ceil_divide(side - f, g) for side, g, f in zip(sides, gap, first, strict=True))
    return rows, columns


def output_geometry(layer: ConvLayer, block_p: int) -> dict[str, int]:
    """Constants of kernels that write images: border, stored channels, and a tile's share of the border."""
    if layer.border is None:
        return {"BH": 0, "BW": 0, "OZ": layer.filters, "BLOCK_E": 1}
    rows, columns = layer.border
    plane = layer.out_height * layer.out_width
    around = (layer.out_height + 2 * rows) * (layer.out_width + 2 * columns) - plane
    share = power_of_two(ceil_divide(block_p * around, plane)) if around else 1
    return {"BH": rows, "BW": columns, "OZ": filled(layer.filters), "BLOCK_E": share}


@dataclass(frozen=True)
class Traffic:
    """Operations and bytes of an op: fused, and as torch's version moves them."""

    flops: int
    bytes_read: int
    bytes_written: int
    bytes_unfused: int


@dataclass(frozen=True)
class _Sizes:
    """Elements of each array of a layer."""

    z: int
    pre_pool: int
    pooled: int
    w: int
    b: int
    flops: int

    @classmethod
    def of(cls, layer: ConvLayer, n_images: int) -> _Sizes:
        pooled = n_images * layer.out_height * layer.out_width * layer.filters
        return cls(
            z=n_images * layer.height * layer.width * layer.channels,
            pre_pool=n_images * layer.conv_height * layer.conv_width * layer.filters,
            pooled=pooled,
            w=layer.filters * layer.fan_in,
            b=layer.filters,
            flops=2 * pooled * layer.pool[0] * layer.pool[1] * layer.fan_in,
        )


def traffic(op: str, request: Request) -> Traffic:
    """Count an op's operations and bytes; two-pass ops without their partial sums."""
    if op == "cg_update":
        n, size = request.n_images, request.item_size
        # curvature, x and r and what they were, p; torch: what they were, two dot products, alpha p, x,
        # alpha Ap, r, beta p, p
        return Traffic(12 * n, 8 * n * size, 5 * n * size, 22 * n * size)
    count = _COUNTS[op]
    return count(_Sizes.of(request.layer, request.n_images), request, _index_bytes(request))


def _index_bytes(request: Request) -> int:
    """Bytes that torch's pooling keeps an output: an int64 index."""
    return 8 if request.layer.pool != (1, 1) else 0


def _forward(n: _Sizes, request: Request, index: int) -> Traffic:
    size = request.item_size
    # convolve; pool S; ReLU in place
    unfused = (n.z + n.w + n.b + n.pre_pool) * size + 2 * n.pooled * size
    if index:
        unfused += (n.pre_pool + n.pooled) * size + n.pooled * index
    return Traffic(n.flops, (n.z + n.w + n.b) * size, n.pooled * (size + 1), unfused)


def _value(n: _Sizes, request: Request, index: int) -> Traffic:
    forward = _forward(n, request, 0)
    windows = request.layer.pool[0] * request.layer.pool[1]
    # the maximum of each window position with the running one
    unfused = forward.bytes_unfused + 3 * (windows - 1) * n.pooled * request.item_size
    return Traffic(forward.flops, forward.bytes_read, n.pooled * request.item_size, unfused)


def _jvp(n: _Sizes, request: Request, index: int) -> Traffic:
    size, terms = request.item_size, 1 if request.is_first else 2
    # convolve; convolve and add; pick the pooled positions; mask
    unfused = terms * (n.z + n.w + n.pre_pool) * size + n.b * size
    unfused += (terms - 1) * 3 * n.pre_pool * size + 3 * n.pooled * size
    unfused += n.pooled * (2 * size + index) if index else 0
    read = terms * (n.z + n.w) * size + n.b * size + n.pooled
    return Traffic(terms * n.flops, read, n.pooled * size, unfused)


def _expand(n: _Sizes, size: int, index: int) -> int:
    """Bytes of the mask and of scattering into a pre-pool array, which the convolution then reads."""
    return 3 * n.pooled * size + (n.pooled * (size + index) + n.pre_pool * size if index else 0)


def _vjp_input(n: _Sizes, request: Request, index: int) -> Traffic:
    size, rows = request.item_size, request.n_outputs
    unfused = rows * (_expand(n, size, index) + (n.pre_pool + n.w + n.z) * size)
    unfused += 2 * rows * n.z * size if rows > 1 else 0  # stacked
    read = (rows * n.pooled + n.w) * size + n.pooled
    return Traffic(rows * n.flops, read, rows * n.z * size, unfused)


def _vjp_weight(n: _Sizes, request: Request, index: int) -> Traffic:
    size = request.item_size
    unfused = _expand(n, size, index) + (2 * n.pre_pool + n.z + n.w + n.b) * size
    read = (n.pooled + n.z) * size + n.pooled
    return Traffic(n.flops, read, (n.w + n.b) * size, unfused)


def _jacobian_jvp(n: _Sizes, request: Request, index: int) -> Traffic:
    size, rows = request.item_size, request.n_outputs
    out = request.n_images * rows
    unfused = (n.z + n.w + n.b + n.pre_pool) * size + ((1 + rows) * n.pooled + out) * size
    unfused += n.pooled * (2 * size + index) if index else 0
    read = (n.z + n.w + n.b + rows * n.pooled) * size + n.pooled
    return Traffic(n.flops + 2 * rows * n.pooled, read, out * size, unfused)


def _jacobian_vjp(n: _Sizes, request: Request, index: int) -> Traffic:
    size, rows = request.item_size, request.n_outputs
    weight = _vjp_weight(n, request, index)
    extra = (rows * n.pooled + request.n_images * rows) * size
    return Traffic(
        weight.flops + 2 * rows * n.pooled,
        weight.bytes_read - n.pooled * size + extra,
        weight.bytes_written,
        weight.bytes_unfused + extra + n.pooled * size,
    )


def _patch_gram(n: _Sizes, request: Request, index: int) -> Traffic:
    layer, size = request.layer, request.item_size
    rows, columns = grid_sides(layer, *request.grid)
    positions, side = request.n_images * rows * columns, layer.fan_in + 1
    # phi, written and read twice
    unfused = (n.z + 3 * positions * side + side * side) * size
    return Traffic(positions * side * (side + 1), n.z * size, side * side * size, unfused)


def _cotangent_gram(n: _Sizes, request: Request, index: int) -> Traffic:
    size, side = request.item_size, request.layer.filters
    unfused = _expand(n, size, index) + (n.pre_pool + side * side) * size
    read = n.pooled * (size + 1)
    return Traffic(n.pre_pool * (side + 1), read, side * side * size, unfused)


_COUNTS = {
    "conv_forward": _forward,
    "conv_value": _value,
    "conv_jvp": _jvp,
    "conv_vjp_input": _vjp_input,
    "conv_vjp_weight": _vjp_weight,
    "jacobian_jvp": _jacobian_jvp,
    "jacobian_vjp": _jacobian_vjp,
    "conv_patch_gram": _patch_gram,
    "conv_cotangent_gram": _cotangent_gram,
}

"""Tile sizes by op, layer shape, precision, dtype and GPU generation: a table, never a search at run time.

The rows were chosen by compiling every kernel at every preset shape: no spills in a hot loop and the dots on
tensor cores. A row is then cut to the layer (no wider than its channels) and to the target's shared memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton
import triton.language as tl

from .launch import INTERPRETER, Request, Target
from .shapes import LEAST_TILES, patch_of, power_of_two

__all__ = [
    "HAS_FLOAT64_DOT",
    "Tile",
    "accumulator",
    "arithmetic",
    "elements",
    "is_joint",
    "splits",
    "tile_for",
]

#: Whether a GPU's `tl.dot` takes float64 in every kernel here: before 3.9 some do not compile.
HAS_FLOAT64_DOT = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 9)
#: Most channels of images whose pooling windows are taken at once.
FEW_CHANNELS = 4
#: Kinds whose inner axis is that of positions.
SUM_POSITIONS = ("vjp_weight", "gram", "patch_gram")
#: Smallest side of a `tl.dot` operand.
SMALLEST = 16


@dataclass(frozen=True)
class Tile:
    """A program's tile.

    Attributes
    ----------
    p : int
        Positions.
    c : int
        Channels: of the layer's output, in `conv_vjp_input` of its input.
    k : int
        Block of the axis of taps and channels.
    num_warps, num_stages : int
        Warps, and stages of software pipelining.
    windows : int
        Most positions of a pooling window in one product.
    programs : int
        Programs that a multiprocessor is given at once, where the axis of positions is split over programs.
    """

    p: int
    c: int
    k: int
    num_warps: int
    num_stages: int
    windows: int = 4
    programs: int = 2


#: (kind, generation, precision): the tile. "forward" serves every kernel that convolves. Where operands pass
#: through registers, in ieee on NVIDIA's and in tf32x3, a product takes fewer positions of a window: twice as
#: many save 4 % of the instructions at best, and Triton before 3.9 spills in the loop.
_TABLE = {
    ("forward", "sm_80", "tf32"): Tile(64, 64, 32, 8, 3),
    ("forward", "sm_80", "tf32x3"): Tile(64, 64, 16, 8, 2),
    ("forward", "sm_80", "ieee"): Tile(64, 32, 16, 4, 2, 2),
    ("forward", "sm_90", "tf32"): Tile(64, 64, 32, 4, 2),
    ("forward", "sm_90", "tf32x3"): Tile(64, 64, 32, 8, 3, 1),
    ("forward", "sm_90", "ieee"): Tile(64, 32, 16, 4, 2, 2),
    ("forward", "sm_100", "tf32"): Tile(64, 64, 32, 8, 2),
    ("forward", "sm_100", "tf32x3"): Tile(64, 64, 32, 8, 2, 2),
    ("forward", "sm_100", "ieee"): Tile(64, 32, 16, 4, 2, 2),
    ("forward", "gfx942", "tf32"): Tile(64, 64, 32, 4, 2),
    ("forward", "gfx942", "ieee"): Tile(64, 64, 16, 4, 2),
    ("vjp_input", "sm_80", "tf32"): Tile(64, 64, 32, 8, 3),
    ("vjp_input", "sm_80", "tf32x3"): Tile(64, 64, 16, 8, 2),
    ("vjp_input", "sm_80", "ieee"): Tile(64, 32, 16, 4, 2),
    ("vjp_input", "sm_90", "tf32"): Tile(64, 64, 64, 4, 2),
    ("vjp_input", "sm_90", "tf32x3"): Tile(64, 64, 32, 4, 2),
    ("vjp_input", "sm_90", "ieee"): Tile(64, 32, 16, 4, 2),
    ("vjp_input", "sm_100", "tf32"): Tile(64, 64, 64, 4, 2),
    ("vjp_input", "sm_100", "tf32x3"): Tile(64, 64, 32, 4, 2),
    ("vjp_input", "sm_100", "ieee"): Tile(64, 32, 16, 4, 2),
    ("vjp_input", "gfx942", "tf32"): Tile(64, 64, 32, 4, 2),
    ("vjp_input", "gfx942", "ieee"): Tile(64, 64, 16, 4, 2),
    ("vjp_weight", "sm_80", "tf32"): Tile(16, 64, 64, 8, 3),
    ("vjp_weight", "sm_80", "tf32x3"): Tile(32, 64, 64, 8, 2, 1),
    ("vjp_weight", "sm_80", "ieee"): Tile(16, 32, 64, 4, 2, 1),
    ("vjp_weight", "sm_90", "tf32"): Tile(16, 64, 128, 4, 3),
    ("vjp_weight", "sm_90", "tf32x3"): Tile(16, 64, 64, 4, 2),
    ("vjp_weight", "sm_90", "ieee"): Tile(16, 32, 64, 4, 2, 1),
    ("vjp_weight", "sm_100", "tf32"): Tile(16, 64, 128, 4, 3),
    ("vjp_weight", "sm_100", "tf32x3"): Tile(16, 64, 64, 4, 2),
    ("vjp_weight", "sm_100", "ieee"): Tile(16, 32, 64, 4, 2, 1),
    ("vjp_weight", "gfx942", "tf32"): Tile(16, 64, 64, 4, 2),
    ("vjp_weight", "gfx942", "ieee"): Tile(16, 64, 64, 4, 2),
}
# a gram sums over positions, too, but its step loads little for what it computes: a third stage would cost it
# 7 % more instructions, and registers
_TABLE |= {
    ("gram", generation, precision): tile
    for (kind, generation, precision), tile in _TABLE.items()
    if kind == "vjp_weight"
}
# in tf32x3 its operands, split in two, are in registers: four positions of a window at once spill in the loop
_TABLE |= {
    ("gram", "sm_80", "tf32"): Tile(16, 64, 64, 8, 2),
    ("gram", "sm_90", "tf32"): Tile(16, 64, 64, 4, 2),
    ("gram", "sm_90", "tf32x3"): Tile(16, 64, 64, 8, 2, 2),
    ("gram", "sm_100", "tf32"): Tile(16, 64, 64, 4, 2),
    ("gram", "sm_100", "tf32x3"): Tile(16, 64, 64, 4, 2, 1),
}
# patches are loaded as they are, so that more positions at once only save instructions
_TABLE |= {
    ("patch_gram", generation, precision): tile
    for (kind, generation, precision), tile in _TABLE.items()
    if kind == "gram"
}
_TABLE |= {
    ("patch_gram", "sm_90", "tf32x3"): Tile(64, 64, 64, 8, 2, 1),
    ("patch_gram", "sm_100", "tf32x3"): Tile(64, 64, 64, 4, 1, 1),  # two stages spill in the loop
    ("patch_gram", "sm_100", "ieee"): Tile(32, 32, 64, 4, 2, 1),
}
#: Triton's interpreter takes as long for a large block as for a small one.
_INTERPRETER = Tile(256, 512, 128, 4, 1)
#: float64 sums twice as wide; "sum" holds a whole (p, k, c) block in registers.
_FLOAT64 = {"ieee": Tile(32, 32, 16, 4, 2), "sum": Tile(16, 16, 16, 2, 1, 1)}


def arithmetic(request: Request) -> str:
    """How products are formed: an `input_precision` of `tl.dot`, or a way around what it lacks.

    "sum" multiplies and sums where a GPU's takes no float64; "wide" casts operands to the sum's type, in the
    interpreter, which multiplies the bits of bfloat16 as integers.
    """
    if request.dtype == "fp64":
        return "ieee" if HAS_FLOAT64_DOT or request.target == INTERPRETER else "sum"
    if request.dtype == "bf16" and request.target == INTERPRETER:
        return "wide"
    target, precision = request.target, request.precision
    has_tf32 = target.name == "gfx942" if target.backend == "hip" else int(target.arch) >= 80
    if request.dtype == "bf16" or not has_tf32 or (target.backend == "hip" and precision == "tf32x3"):
        return "ieee"
    return precision


def accumulator(request: Request) -> tl.dtype:
    """Type of sums."""
    return tl.float64 if request.dtype == "fp64" else tl.float32


def elements(request: Request, block: int) -> int:
    """Elements of a program that takes each by itself: `block`, or many in the interpreter."""
    return 2**16 if request.target == INTERPRETER else block


def is_joint(request: Request) -> bool:
    """Whether all positions of a pooling window are taken at once: few channels, and a power of two."""
    windows = request.layer.pool[0] * request.layer.pool[1]
    return request.layer.channels <= FEW_CHANNELS and windows in (2, 4) and arithmetic(request) != "sum"


def splits(tile: Tile, n_tiles: int, programs: int, request: Request) -> int:
    """Programs along an axis of `n_tiles`, beside `programs` along others: one wave of them."""
    return max(1, min(n_tiles // LEAST_TILES, tile.programs * request.target.units // programs))


def tile_for(kind: str, request: Request) -> Tile:
    """Choose the tile of a kernel.

    Parameters
    ----------
    kind : {"forward", "vjp_input", "vjp_weight", "gram", "patch_gram"}
        What the kernel's product is like.
    request : Request
        Layer, types and target.

    Returns
    -------
    Tile
        Powers of two, at least `SMALLEST` a side.
    """
    precision = arithmetic(request)
    if request.target == INTERPRETER:
        tile = replace(_INTERPRETER, p=16, k=16, windows=1) if precision == "sum" else _INTERPRETER
    elif request.dtype == "fp64":
        tile = _FLOAT64[precision]
    else:
        fast = "tf32" if request.dtype == "bf16" else precision
        tile = _TABLE[kind, _generation(request.target), fast]
    return _fit_memory(_fit_layer(tile, kind, request), kind, request)


def _generation(target: Target) -> str:
    """Row of the table: the newest generation that is not newer than the target."""
    if target.backend == "hip":
        return "gfx942"
    # consumer parts (sm_86, sm_89, sm_120) have Ampere's instructions and little shared memory
    if target.arch in (90, 100, 103):
        return "sm_90" if target.arch == 90 else "sm_100"
    return "sm_80"


def _fit_layer(tile: Tile, kind: str, request: Request) -> Tile:
    """Cut a tile to the layer's channels; let blocks of what is summed end where a run or a tap ends."""
    layer = request.layer
    joint = is_joint(request) and not kind.endswith("gram")
    patch = patch_of(layer, joint)
    columns, depth = layer.filters, patch.run
    if kind == "vjp_input":
        columns, depth = layer.channels, layer.filters
    k = min(tile.k, max(SMALLEST, power_of_two(patch.size if kind in SUM_POSITIONS else depth)))
    if kind not in SUM_POSITIONS and depth % SMALLEST == 0:
        k = min(k, depth & -depth)
    elif kind == "vjp_input" and depth % 4:
        k = min(
            k, 16 if arithmetic(request) == "tf32x3" else 32
        )  # unaligned cotangents come one by one, in registers
    if kind == "vjp_weight" and joint and _is_scalar(request):
        k = min(k, 32)  # sums of a whole window at once: twice as many leave a thread no registers
    c = min(tile.c, max(SMALLEST, power_of_two(columns)))
    windows = layer.pool[0] * layer.pool[1]
    at_once = patch.windows if joint else min(tile.windows, windows & -windows)
    return replace(tile, c=c, k=k, windows=at_once)


def _is_scalar(request: Request) -> bool:
    """Whether an NVIDIA GPU multiplies float32 in its threads, by no matrix instruction."""
    is_nvidia = request.target.backend == "cuda" and request.target != INTERPRETER
    return is_nvidia and request.dtype == "fp32" and arithmetic(request) == "ieee"


def _fit_memory(tile: Tile, kind: str, request: Request) -> Tile:
    """Drop stages, then halve sides, until operands in flight fit the target's shared memory."""

    def is_too_large(tile: Tile) -> bool:
        rows, columns = tile.p, tile.c
        if kind == "forward" and is_joint(request):
            columns *= tile.windows
        elif kind == "forward":
            rows *= tile.windows
        elements = rows * (tile.k + columns) if kind in SUM_POSITIONS else (rows + columns) * tile.k
        return elements * request.item_size * tile.num_stages > request.target.shared_memory

    while is_too_large(tile):
        if tile.num_stages > 2:
            tile = replace(tile, num_stages=tile.num_stages - 1)
        elif tile.k > SMALLEST:
            tile = replace(tile, k=tile.k // 2)
        elif tile.p > SMALLEST:
            tile = replace(tile, p=tile.p // 2)
        elif tile.num_stages > 1:
            tile = replace(tile, num_stages=1)
        else:
            break
    return tile

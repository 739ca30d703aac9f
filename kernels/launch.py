"""What a kernel launch is: described without a GPU and without tensors, then run as described.

Every op has a planner, a pure function of layer, batch size, types and target that lists the op's launches.
The launch wrappers run these launches and the compile report compiles them, so that what is compiled there
is what runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton
from torch import Tensor

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer

__all__ = [
    "DTYPES",
    "INTERPRETER",
    "OPS",
    "DOT_PRECISIONS",
    "TARGETS",
    "Launch",
    "Op",
    "Request",
    "Target",
    "current_target",
    "gpu_target",
    "launches",
    "plan",
    "planner",
]

#: Arithmetic of `tl.dot` on float32. tf32 truncates operands to 11 bits without rounding, so that a product
#: is up to 2^-9 too small in magnitude; rounding first would keep loads from going straight to tensor cores.
DOT_PRECISIONS = ("tf32", "tf32x3", "ieee")
#: Triton's name of each supported type.
DTYPES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
ITEM_SIZES = {"fp32": 4, "fp64": 8, "bf16": 2}
#: Types that kernels' pointers point to, by Triton's name.
_POINTEES = {**{name: dtype for dtype, name in DTYPES.items()}, "u8": torch.uint8}


@dataclass(frozen=True)
class Target:
    """A kind of GPU.

    Attributes
    ----------
    name : str
        Such as "sm_90".
    backend : {"cuda", "hip"}
        Triton's back end.
    arch : int or str
        Compute capability times ten, or AMD's name.
    shared_memory : int
        Bytes of shared memory that one program may use.
    warp_size : int
        Threads per warp.
    units : int
        Multiprocessors or compute units.
    """

    name: str
    backend: str
    arch: int | str
    shared_memory: int
    warp_size: int
    units: int


#: The kinds of GPU that have rows of their own in the tile table.
TARGETS = {
    "sm_80": Target("sm_80", "cuda", 80, 166_912, 32, 108),
    "sm_90": Target("sm_90", "cuda", 90, 232_448, 32, 132),
    "sm_100": Target("sm_100", "cuda", 100, 232_448, 32, 148),
    "gfx942": Target("gfx942", "hip", "gfx942", 65_536, 64, 304),
}
#: Triton's interpreter, which has no limits.
INTERPRETER = Target("interpreter", "cuda", 90, 2**62, 32, 132)


@dataclass(frozen=True)
class Launch:
    """One launch of one kernel.

    Attributes
    ----------
    op : str
        The op that it is part of, by the name of its wrapper.
    kernel : triton.JITFunction
        The kernel.
    signature : mapping of str to str
        Triton type of each argument that is not a constexpr, in order: "*fp32", "i32".
    constexprs : mapping of str to Any
        The other arguments.
    num_warps, num_stages : int
        Warps a program, and stages of software pipelining.
    grid : tuple of int
        Programs along each axis.
    flops : int
        Two a multiply-add; masked lanes do not count.
    bytes_read, bytes_written : int
        Each input once and each output once.
    bytes_unfused : int
        What torch's version reads and writes, pre-pool tensors included; an op's first launch has it all.
    options : mapping of str to Any
        Other options of the compiler.
    """

    op: str
    kernel: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int
    num_stages: int
    grid: tuple[int, ...]
    flops: int
    bytes_read: int
    bytes_written: int
    bytes_unfused: int
    options: Mapping[str, Any] = field(default_factory=lambda: {"enable_fp_fusion": True})

    def run(self, *arguments: Tensor | int) -> None:
        """Launch on the arguments of `signature`, in order, on the device of the first."""
        if 0 in self.grid:
            return
        first = arguments[0]
        assert isinstance(first, Tensor)
        with torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext():
            self.kernel[self.grid](
                *arguments,
                **self.constexprs,
                num_warps=self.num_warps,
                num_stages=self.num_stages,
                **self.options,
            )

    def compile(self) -> Any:
        """Compile for this machine's GPU as `run` does on aligned tensors, into the cache that `run` reads.

        Returns
        -------
        triton.compiler.CompiledKernel
        """
        arguments = [_POINTEES[kind[1:]] if kind.startswith("*") else 2 for kind in self.signature.values()]
        return self.kernel.warmup(*arguments, grid=self.grid, **self.constexprs, **self.compile_options())

    def compile_options(self) -> dict[str, Any]:
        """Options for ``triton.compile``."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **self.options}


@dataclass(frozen=True)
class Request:
    """What a planner is asked: one op at one shape.

    Attributes
    ----------
    layer : ConvLayer
        The layer; None for `cg_update`.
    n_images : int
        Images; for `cg_update` the length of the vectors.
    dtype, precision : str
        "fp32", "fp64" or "bf16", and the arithmetic of products on float32.
    target : Target
        Where it runs.
    n_outputs : int
        Rows K of D, or cotangents an image.
    is_first : bool
        Whether the layer's input has neither tangent nor gradient.
    grid : pair of (int, int)
        Gap and first of the positions that `conv_patch_gram` takes.
    """

    layer: ConvLayer
    n_images: int
    dtype: str
    precision: str
    target: Target
    n_outputs: int
    is_first: bool
    grid: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (0, 0))

    @property
    def item_size(self) -> int:
        """Bytes an element."""
        return ITEM_SIZES[self.dtype]


Planner = Callable[[Request], list[Launch]]
_PLANNERS: dict[str, Planner] = {}


class Op(NamedTuple):
    """What the tools must know of an op.

    Attributes
    ----------
    tile : str or None
        Kind of its tile in `hfcnn.kernels.tiles`; None where it has no product, or is of several ops.
    precisions : tuple of str
        In which a fit uses it by default: tf32 in products, tf32x3 in the objective and its gradient. Empty
        for an op that is made of others: reports leave it out.
    """

    tile: str | None
    precisions: tuple[str, ...]


#: Every op that has launches: the one list of them.
OPS = {
    "conv_forward": Op("forward", ("tf32", "tf32x3")),
    "conv_value": Op("forward", ("tf32x3",)),
    "conv_jvp": Op("forward", ("tf32",)),
    "conv_vjp_input": Op("vjp_input", ("tf32", "tf32x3")),
    "conv_vjp_weight": Op("vjp_weight", ("tf32", "tf32x3")),
    "conv_vjp": Op(None, ()),
    "jacobian_jvp": Op("forward", ("tf32",)),
    "jacobian_vjp": Op("vjp_weight", ("tf32",)),
    "conv_patch_gram": Op("patch_gram", ("tf32",)),
    "conv_cotangent_gram": Op("gram", ("tf32",)),
    "cg_update": Op(None, ("tf32",)),
}


def planner(op: str) -> Callable[[Planner], Planner]:
    """Register the function that lists the launches of `op`."""

    def register(function: Planner) -> Planner:
        _PLANNERS[op] = function
        return function

    return register


def launches(
    op: str,
    layer: ConvLayer | None,
    n_images: int,
    *,
    dtype: str = "fp32",
    precision: str = "tf32",
    target: Target,
    n_outputs: int = 10,
    is_first: bool = False,
) -> list[Launch]:
    """List the launches of an op, in order.

    Parameters
    ----------
    op : str
        One of `OPS`.
    layer : ConvLayer or None
        The layer; None for `cg_update`.
    n_images : int
        Images; for `cg_update` the length of the vectors.
    dtype : {"fp32", "fp64", "bf16"}, default="fp32"
        Type of the operands.
    precision : {"tf32", "tf32x3", "ieee"}, default="tf32"
        Arithmetic of products on float32; other types ignore it.
    target : Target
        Where it is to run.
    n_outputs : int, default=10
        Rows K of D in the jacobian ops; in `conv_vjp_input` the cotangents an image (the wrapper of a
        four-dimensional g says 1).
    is_first : bool, default=False
        The layer's input has no tangent (`conv_jvp`) and needs no gradient (`conv_vjp`).

    Raises
    ------
    ValueError
        If the op, its type or its precision is unknown.
    """
    for what, value, known in (
        ("op", op, tuple(OPS)),
        ("dtype", dtype, tuple(ITEM_SIZES)),
        ("precision", precision, DOT_PRECISIONS),
    ):
        if value not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}; got {value!r}")
    return list(_launches(op, layer, n_images, dtype, precision, target, n_outputs, is_first))


@lru_cache(maxsize=4096)
def _launches(op: str, *request: Any) -> tuple[Launch, ...]:
    return tuple(_PLANNERS[op](Request(*request)))


def plan(
    op: str,
    layer: ConvLayer | None,
    like: Tensor,
    n_images: int,
    precision: str = "tf32",
    *,
    n_outputs: int = 1,
    is_first: bool = False,
    grid: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (0, 0)),
) -> tuple[Launch, ...]:
    """List the launches of an op on tensors of the dtype and device of `like`."""
    target = current_target(like)
    return _launches(op, layer, n_images, DTYPES[like.dtype], precision, target, n_outputs, is_first, grid)


def current_target(tensor: Tensor) -> Target:
    """Find the target of the tensor's device; a CPU is Triton's interpreter."""
    return _device_target(tensor.device.index) if tensor.is_cuda else INTERPRETER


def gpu_target() -> Target:
    """Find the target of the current GPU."""
    return _device_target(torch.cuda.current_device())


@lru_cache(maxsize=64)
def _device_target(index: int) -> Target:
    properties = torch.cuda.get_device_properties(index)
    units = properties.multi_processor_count
    if torch.version.hip is not None:
        name = properties.gcnArchName.split(":")[0]
        return Target(name, "hip", name, 65_536, properties.warp_size, units)
    arch = 10 * properties.major + properties.minor
    limit = triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"]
    return Target(f"sm_{arch}", "cuda", arch, int(limit), 32, units)

"""Which implementation of the layer operations runs, where, and how exactly.

The only file that loads `hfcnn.kernels`, and only once a GPU is asked for.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from hfcnn import ops

if TYPE_CHECKING:
    from hfcnn.layers import Layer

__all__ = ["PRECISIONS", "TORCH", "Backend", "LayerOps", "get_backend", "graph_capture"]

#: Arithmetic of the Gauss-Newton products on float32 data.
PRECISIONS = ("auto", "ieee", "tf32", "tf32x3", "bf16")


@dataclass(frozen=True)
class LayerOps:
    """The layer operations of one implementation: see `hfcnn.ops` for what each does."""

    conv_forward: Callable[..., Any]
    conv_value: Callable[..., Any]
    conv_jvp: Callable[..., Any]
    conv_vjp: Callable[..., Any]
    conv_vjp_input: Callable[..., Any]
    jacobian_jvp: Callable[..., Any]
    jacobian_vjp: Callable[..., Any]
    cg_update: Callable[..., Any]

    @classmethod
    def of(cls, module: Any, **keywords: Any) -> LayerOps:
        """Gather a module's operations, the convolutions with `keywords` bound."""
        bound = {
            name: partial(getattr(module, name), **keywords) if keywords else getattr(module, name)
            for name in cls.__dataclass_fields__
            if name != "cg_update"
        }
        return cls(**bound, cg_update=module.cg_update)


TORCH_OPS = LayerOps.of(ops)


@dataclass(frozen=True)
class Backend:
    """An implementation of the layer operations on a device.

    Attributes
    ----------
    name : {"torch", "triton"}
        Whose operations.
    device : torch.device
        Where images and parameters are.
    precision : str
        Arithmetic of the products on float32 data; "ieee" is float32 throughout.
    ops : LayerOps
        For the objective and its gradient: never less exact than "tf32x3".
    product_ops : LayerOps
        For Jacobian and Gauss-Newton products.
    """

    name: str
    device: torch.device
    precision: str
    ops: LayerOps
    product_ops: LayerOps

    def check(self, layers: Iterable[Layer]) -> None:
        """Check that this backend can compute some layers.

        Raises
        ------
        ValueError
            If it cannot; the message says what can.
        """
        for layer in layers:
            layer.check_backend(self.name)

    def product_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Type in which products on data of `dtype` are computed; CG's vectors keep `dtype`."""
        return torch.bfloat16 if self.precision == "bf16" and dtype == torch.float32 else dtype


#: torch operations on the CPU.
TORCH = Backend("torch", torch.device("cpu"), "ieee", TORCH_OPS, TORCH_OPS)


def get_backend(backend: str = "auto", device: str = "auto", precision: str = "auto") -> Backend:
    """Choose the implementation of the layer operations.

    Parameters
    ----------
    backend : {"auto", "torch", "triton"}, default="auto"
        "auto" is triton on a CUDA or ROCm GPU where the package triton is installed, torch elsewhere.
    device : str, default="auto"
        A torch device; "auto" is the GPU if there is one.
    precision : {"auto", "ieee", "tf32", "tf32x3", "bf16"}, default="auto"
        Arithmetic of products on float32 data. "auto" is tf32 for triton and ieee for torch; "bf16" is
        for torch. The objective and its gradient use tf32x3 where products use tf32.

    Raises
    ------
    ValueError
        If a choice is unknown, or its device or its precision is not to be had; says what to do.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f'backend must be "auto", "torch" or "triton"; got {backend!r}')
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    has_gpu = device != "cpu" and torch.cuda.is_available()
    where = torch.device(("cuda" if has_gpu else "cpu") if device == "auto" else device)
    if where.type == "cuda" and not has_gpu:
        raise ValueError(f'device={device!r}, but torch sees no GPU; use device="cpu" or device="auto"')
    if backend == "auto":
        backend = "triton" if where.type == "cuda" and _has_triton() else "torch"
    if backend == "torch":
        if precision in ("tf32", "tf32x3"):
            raise ValueError(f'precision={precision!r} needs backend="triton"; torch has "ieee" or "bf16"')
        return Backend("torch", where, "ieee" if precision == "auto" else precision, TORCH_OPS, TORCH_OPS)
    if precision == "bf16":
        raise ValueError('precision="bf16" needs backend="torch"; triton has "tf32", "tf32x3" or "ieee"')
    if where.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            'backend="triton" needs a CUDA or ROCm GPU, and torch sees none; use backend="auto", '
            "or set TRITON_INTERPRET=1 before Python starts: Triton's interpreter runs the kernels, slowly"
        )
    try:
        kernels = importlib.import_module("hfcnn.kernels")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"backend=\"triton\" needs the package {error.name!r}; install it with: pip install 'hfcnn[gpu]'"
        ) from error
    precision = "tf32" if precision == "auto" else precision
    strict = "tf32x3" if precision == "tf32" else precision
    return Backend(
        "triton",
        where,
        precision,
        LayerOps.of(kernels, precision=strict),
        LayerOps.of(kernels, precision=precision),
    )


def _has_triton() -> bool:
    """Say whether the kernels can run, and give a hint where they cannot: once, as warnings are shown."""
    is_installed = importlib.util.find_spec("triton") is not None
    if not is_installed:
        warnings.warn(
            "there is a GPU, but not the package triton, which hfcnn's own kernels need: torch's operations "
            "run on the GPU instead; pip install 'hfcnn[gpu]', or set backend=\"torch\" for no such hint",
            stacklevel=3,
        )
    return is_installed


def graph_capture(
    device: torch.device, cuda_graph: bool | str = "auto"
) -> Callable[[Callable[[], None]], Callable[[], None]] | None:
    """Say how a CG step is captured in a CUDA graph on `device`; None is not at all.

    Parameters
    ----------
    device : torch.device
        Where the step runs.
    cuda_graph : bool or "auto", default="auto"
        "auto" captures on a CUDA GPU. What cannot be captured runs as it is.

    Raises
    ------
    ValueError
        If `cuda_graph` is True and the device no CUDA GPU, or it is none of these.
    """
    if cuda_graph not in (True, False, "auto"):
        raise ValueError(f'cuda_graph must be True, False or "auto"; got {cuda_graph!r}')
    if cuda_graph is True and device.type != "cuda":
        raise ValueError(f'cuda_graph=True needs a CUDA GPU, and the device is {device}; use "auto"')
    return _capture if cuda_graph and device.type == "cuda" else None


def _capture(step: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError:  # something in the step waits for the device or allocates outside the graph's pool
        return step
    replay: Callable[[], None] = graph.replay
    return replay

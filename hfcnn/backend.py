"""Which implementation of the layer operations runs, where, and how exactly.

The only file that loads `hfcnn.kernels`, and only once a GPU is asked for.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from hfcnn import ops

if TYPE_CHECKING:
    from hfcnn.layers import Layer

__all__ = ["PRECISIONS", "TORCH", "Backend", "LayerOps", "get_backend"]

#: Arithmetic of the Gauss-Newton products on float32 data.
PRECISIONS = ("auto", "ieee", "tf32", "tf32x3", "bf16")


def _as_they_are(z: torch.Tensor, layer: Layer) -> torch.Tensor:
    return z


@dataclass(frozen=True)
class LayerOps:
    """The layer operations of one implementation: see `hfcnn.ops` for what each does.

    `conv_images` brings the network's images into the form in which the implementation's convolutions read
    them fastest, so that it is done once where several follow; their shape stays (N, H, W, C). `conv_weight`
    returns a weight that remembers what the products make of it.
    """

    conv_forward: Callable[..., Any]
    conv_value: Callable[..., Any]
    conv_jvp: Callable[..., Any]
    conv_vjp: Callable[..., Any]
    conv_vjp_input: Callable[..., Any]
    jacobian_jvp: Callable[..., Any]
    jacobian_vjp: Callable[..., Any]
    cg_update: Callable[..., Any]
    conv_images: Callable[[torch.Tensor, Any], torch.Tensor] = _as_they_are
    conv_weight: Callable[[torch.Tensor, Any], torch.Tensor] = _as_they_are

    @classmethod
    def of(cls, module: Any, **keywords: Any) -> LayerOps:
        """Gather a module's operations, the convolutions with `keywords` bound."""
        bound = {
            name: partial(getattr(module, name), **keywords) if keywords else getattr(module, name)
            for name in cls.__dataclass_fields__
            if name not in ("cg_update", "conv_images", "conv_weight")
        }
        forms = {name: getattr(module, name, _as_they_are) for name in ("conv_images", "conv_weight")}
        return cls(**bound, cg_update=module.cg_update, **forms)


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

    def exact(self) -> AbstractContextManager[None]:
        """Compute on float32 data in float32, as f and its gradient are: torch's GPU libraries may not."""
        return self._arithmetic(is_tf32=False)

    def products(self) -> AbstractContextManager[None]:
        """Compute on float32 data as `precision` says, as products are."""
        return self._arithmetic(is_tf32=self.precision == "tf32")

    def _arithmetic(self, *, is_tf32: bool) -> AbstractContextManager[None]:
        return nullcontext() if self.device.type == "cpu" else tensor_float(is_tf32)

    def product_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Type in which products on data of `dtype` are computed; CG's vectors keep `dtype`."""
        return torch.bfloat16 if self.precision == "bf16" and dtype == torch.float32 else dtype


@contextmanager
def tensor_float(is_on: bool) -> Iterator[None]:
    """Let cuDNN and cuBLAS round float32 operands to TF32, or forbid it; as it was, afterwards.

    cuDNN does so by default, in convolutions whose results then have three digits.
    """
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    name: str = "allow_tf32"
    value: bool | str = is_on
    try:
        [getattr(place, name) for place in places]
    except RuntimeError:  # the user has set torch's newer flags, beside which these cannot be read
        cudnn: Any = torch.backends.cudnn
        places, name = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn], "fp32_precision"
        value = "tf32" if is_on else "ieee"
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, value)
        yield
    finally:
        for place, was in zip(places, before, strict=True):
            setattr(place, name, was)


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
        Arithmetic of products on float32 data. "auto" is tf32 for triton and ieee for torch; "tf32" is
        for triton, and for torch on a GPU. "bf16" gives products arrays of bfloat16. Where products use
        tf32 or bf16, the objective and its gradient use tf32x3 with triton and ieee with torch.

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
        if precision == "tf32x3" or (precision == "tf32" and where.type != "cuda"):
            others = '"ieee", "tf32" or "bf16"' if where.type == "cuda" else '"ieee" or "bf16"'
            raise ValueError(
                f'precision={precision!r} needs backend="triton"; torch has {others} on the device {where}'
            )
        return Backend("torch", where, "ieee" if precision == "auto" else precision, TORCH_OPS, TORCH_OPS)
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
    # with "bf16", products are given arrays of that type; the objective's stay in float32
    strict = "tf32x3" if precision in ("tf32", "bf16") else precision
    products = "tf32" if precision == "bf16" else precision
    return Backend(
        "triton",
        where,
        precision,
        LayerOps.of(kernels, precision=strict),
        LayerOps.of(kernels, precision=products),
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

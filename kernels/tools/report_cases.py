"""What a compile report covers: every op at every convolutional layer of the preset networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast
from unittest.mock import patch

from ..launch import OPS, TARGETS, Launch, Target, launches

if TYPE_CHECKING:
    from hfcnn.network import ConvLayer, Network

__all__ = ["IMAGES", "KernelCase", "cases", "layer_cases", "other_cases", "quick_cases"]

#: Data sets by the shape of an image: MNIST's, and that of CIFAR10 and SVHN.
IMAGES = {"MNIST": (28, 28, 1), "CIFAR10": (32, 32, 3)}
N_OUTPUTS = 10
#: A network whose filters are no multiple of 4, so that neither weights nor pixels lie on 16 bytes; and one
#: that is small enough for the interpreter.
OTHER_NETWORKS = {"odd": ((30, 5, 2), (62, 3, 2), (33, 3, 1)), "tiny": ((5, 3, 2), (4, 3, 1))}
#: Images a launch. It changes the counts in proportion and no machine code.
IMAGES_PER_LAUNCH = 1024
#: Ops that are reported, and the precisions in which a fit uses them by default.
USES = {name: op.precisions for name, op in OPS.items() if op.precisions}


@dataclass(frozen=True)
class KernelCase:
    """An op at a shape, for a target.

    Attributes
    ----------
    op : str
        One of `hfcnn.kernels.launch.OPS`.
    layer : ConvLayer or None
        The layer; None for `cg_update`.
    n_images : int
        Images; for `cg_update` the length of the vectors.
    target : str
        One of `hfcnn.kernels.launch.TARGETS`.
    precision : str
        Arithmetic asked for; a target may not have it (see `CompiledLaunch.precision`).
    n_outputs : int
        Cotangents an image.
    is_first : bool
        Whether the layer is the network's first.
    dtype : {"fp32", "fp64", "bf16"}
        Type of the operands.
    where : tuple of str
        Networks and layers that have this shape, such as "cnn3 MNIST 2". Cases that differ in nothing else
        are equal.
    """

    op: str
    layer: ConvLayer | None
    n_images: int
    target: str
    precision: str = "tf32"
    n_outputs: int = 1
    is_first: bool = False
    dtype: str = "fp32"
    where: tuple[str, ...] = field(default=(), compare=False)

    def launches(self, target: Target | None = None) -> list[Launch]:
        """List the launches of the op, on `target` or else as the table of targets has the case's."""
        return launches(
            self.op,
            self.layer,
            self.n_images,
            dtype=self.dtype,
            precision=self.precision,
            target=target or TARGETS[self.target],
            n_outputs=self.n_outputs,
            is_first=self.is_first,
        )


def cases(
    networks: Sequence[str] = ("cnn3", "cnn5", "odd"),
    targets: Sequence[str] = tuple(TARGETS),
    ops: Sequence[str] = tuple(USES),
    images: Sequence[str] = tuple(IMAGES),
    n_images: int = IMAGES_PER_LAUNCH,
) -> list[KernelCase]:
    """List every op at every shape of the networks in float32; shapes that networks share come once.

    Raises
    ------
    ValueError
        If a network, a target or an op is unknown.
    """
    from hfcnn.network import PRESETS

    for what, asked, known in (
        ("network", networks, (*PRESETS, "odd")),
        ("target", targets, TARGETS),
        ("op", ops, USES),
    ):
        for name in asked:
            if name not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}; got {name!r}")
    found: dict[KernelCase, list[str]] = {}
    for target in targets:
        for op in ops:
            for case, where in _shapes(op, networks, images, n_images):
                found.setdefault(replace(case, target=target), []).append(where)
    return [replace(case, where=tuple(where)) for case, where in found.items()]


def _shapes(
    op: str, networks: Sequence[str], images: Sequence[str], n_images: int
) -> Iterator[tuple[KernelCase, str]]:
    for precision in USES[op]:
        for name in networks:
            for data in images:
                network = _network(name, IMAGES[data])
                if op == "cg_update":
                    yield KernelCase(op, None, network.n_parameters, "", precision), f"{name} {data}"
                    continue
                for number, layer in enumerate(network.layers, start=1):
                    if layer.positions == 1 or (op == "conv_vjp_input" and number == 1):
                        continue
                    where, conv = f"{name} {data} {number}", cast("ConvLayer", layer)
                    for k in _cotangents(op, precision):
                        yield KernelCase(op, conv, n_images, "", precision, k, number == 1), where


def _network(name: str, shape: tuple[int, int, int]) -> Network:
    from hfcnn.network import Conv, Network

    if name in OTHER_NETWORKS:
        layers = [Conv(filters, size, pool=pool) for filters, size, pool in OTHER_NETWORKS[name]]
        return Network(layers, shape, N_OUTPUTS)
    return Network.preset(name, shape, N_OUTPUTS)


def other_cases(
    targets: Sequence[str] = tuple(TARGETS), n_images: int = IMAGES_PER_LAUNCH
) -> list[KernelCase]:
    """List what `cases` has not, at the shapes of cnn3 on MNIST's images: float64, and float32 without tf32.

    The products of a fit, alone of all ops, are in bfloat16 too.
    """
    found = cases(("cnn3",), targets, images=("MNIST",), n_images=n_images)
    unique: dict[KernelCase, tuple[str, ...]] = {}
    for precision, dtype in (("ieee", "fp64"), ("ieee", "fp32"), ("tf32", "bf16")):
        for case in found:
            if dtype == "fp64" or case.layer is not None:
                if dtype != "bf16" or (case.precision == "tf32" and "gram" not in case.op):
                    unique[replace(case, precision=precision, dtype=dtype)] = case.where
    return [replace(case, where=where) for case, where in unique.items()]


def layer_cases(name: str, target: str) -> list[KernelCase]:
    """List every op at every shape of the network "tiny", whose images are 7 x 6 with 2 channels."""
    with patch.dict(IMAGES, {"tiny": (7, 6, 2)}):
        return [
            replace(case, target=target, where=(where,))
            for op in USES
            for case, where in _shapes(op, (name,), ("tiny",), IMAGES_PER_LAUNCH)
        ]


def _cotangents(op: str, precision: str) -> tuple[int, ...]:
    """Cotangents an image: K in the stored Jacobian, which `conv_vjp_input` also sets up."""
    if op.startswith("jacobian"):
        return (N_OUTPUTS,)
    return (1, N_OUTPUTS) if op == "conv_vjp_input" and precision == "tf32" else (1,)


def quick_cases(
    targets: Sequence[str] = tuple(TARGETS), n_images: int = IMAGES_PER_LAUNCH
) -> list[KernelCase]:
    """List a sample of the middle layer of cnn3: all ops for sm_90, two for others, three in other types."""
    sample = []
    for case in cases(("cnn3",), targets, images=("MNIST",), n_images=n_images):
        is_middle = case.layer is None or case.where == ("cnn3 MNIST 2",)
        if is_middle and case.precision == "tf32" and case.n_outputs == (10 if "jac" in case.op else 1):
            if case.target == "sm_90" or case.op in ("conv_jvp", "conv_vjp_weight"):
                sample.append(case)
    for case in other_cases(targets, n_images):
        if case.where == ("cnn3 MNIST 2",) and case.target == "sm_90" and case.n_outputs == 1:
            is_wide = case.dtype == "fp64" and case.op in ("conv_vjp_input", "conv_vjp_weight")
            sample += [case] * (is_wide or (case.dtype == "bf16" and case.op == "conv_jvp"))
    return sample

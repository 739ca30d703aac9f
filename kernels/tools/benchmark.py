"""Time the kernels beside torch, torch.func and torch.compile, after checking them against float64.

On a machine without a GPU the torch implementations run on the CPU, small, in the same columns: nothing
about the kernels is measured there.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from hfcnn.benchmark.steps import Step, whole_steps
from hfcnn.network import Network

from ..launch import DOT_PRECISIONS, TARGETS
from .benchmark_cases import OpArguments, draw_arguments, gate, implementations, judged_outputs, truth
from .report_cases import IMAGES, N_OUTPUTS, KernelCase, cases
from .roofline import GPUS, Gpu, find_gpu, roofline

__all__ = [
    "IMPLEMENTATIONS",
    "Measurement",
    "BenchmarkSettings",
    "measure",
    "peaks",
    "settings_here",
    "time_call",
]

#: Runs an implementation once and compares it: the largest relative difference, and whether it passes.
Judge: TypeAlias = Callable[[str, Callable[[], Any]], tuple[float, bool]]

#: Columns of the tables: what `hfcnn.kernels.tools.benchmark_cases.implementations` makes.
IMPLEMENTATIONS = ("triton", "torch", "func", "compiled")


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to measure, and on what.

    Attributes
    ----------
    networks, ops, images : sequence of str
        Shapes: see `hfcnn.kernels.tools.report_cases.cases`.
    n_images : int
        Images a call.
    precision : str
        Arithmetic of the kernels.
    device : torch.device
        Where.
    gpu : Gpu
        Peaks of the device, published or measured.
    compiles : bool
        Whether to time torch.compile.
    seconds : float
        Time a measurement, roughly.
    kernels : module or None
        `hfcnn.kernels` where there is a GPU: Triton's interpreter is nothing to time.
    """

    networks: Sequence[str]
    ops: Sequence[str]
    images: Sequence[str]
    n_images: int
    precision: str
    device: torch.device
    gpu: Gpu
    compiles: bool
    seconds: float
    kernels: Any = None


@dataclass(frozen=True)
class Measurement:
    """One op at one shape, or one whole step.

    Attributes
    ----------
    what, layer : str
        Op and layer, or step and network.
    flops, bytes_moved : float
        Counted; 0 where they were not.
    roofline : float
        Least seconds on the device; 0 where it was not counted.
    seconds : dict of str to float
        Median time of each implementation that passed the gate.
    errors : dict of str to float
        Largest difference from float64, relative to the largest value of the truth.
    notes : dict of str to str
        Why an implementation was not timed.
    """

    what: str
    layer: str
    flops: float
    bytes_moved: float
    roofline: float
    seconds: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def settings_here(
    *,
    networks: Sequence[str] | None = None,
    ops: Sequence[str] | None = None,
    n_images: int | None = None,
    precision: str = "tf32",
    compiles: bool = False,
) -> BenchmarkSettings:
    """Choose settings for this machine: all shapes on a GPU, a small sample on a CPU; what is given is taken.

    Raises
    ------
    ValueError
        If a network, an op or the precision is unknown.
    """
    if precision not in DOT_PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(DOT_PRECISIONS)}; got {precision!r}")
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if has_gpu else "cpu")
    every = tuple(dict.fromkeys(case.op for case in cases()))
    chosen = networks or (("cnn3", "cnn5") if has_gpu else ("cnn3",))
    cases(chosen, ops=ops or every)  # names that are unknown end here
    return BenchmarkSettings(
        networks=chosen,
        ops=ops or every,
        images=("MNIST", "CIFAR10") if has_gpu else ("MNIST",),
        n_images=n_images or (1024 if has_gpu else 16),
        precision=precision,
        device=device,
        gpu=peaks(device),
        compiles=compiles,
        seconds=0.2 if has_gpu else 0.05,
        kernels=importlib.import_module("hfcnn.kernels") if has_gpu else None,
    )


def peaks(device: torch.device) -> Gpu:
    """Published peaks of the device; where there are none, those of a matrix product and a copy, measured."""
    if device.type == "cuda" and (gpu := find_gpu(torch.cuda.get_device_name(device))):
        return gpu
    n = 4096 if device.type == "cuda" else 768
    a = torch.randn(n, n, device=device)
    source = torch.randn(2**24, device=device)
    copy = torch.empty_like(source)

    def fastest(call: Callable[[], Any]) -> float:
        return min(time_call(call, device, 0.02) for _ in range(5))

    flops = 2 * n**3 / fastest(lambda: a @ a)
    bandwidth = 2 * 4 * 2**24 / fastest(lambda: copy.copy_(source))
    names = GPUS[0].flops
    return replace(
        GPUS[0],
        name=f"measured on this {device.type}",
        flops=dict.fromkeys(names, flops),
        bandwidth=bandwidth,
    )


def time_call(call: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Median seconds of a call; on a GPU by CUDA events, its L2 cache emptied before each."""
    if device.type == "cuda":
        from triton.testing import do_bench

        milliseconds = do_bench(call, warmup=25, rep=int(1000 * seconds), return_mode="median")
        return float(milliseconds) / 1000
    call()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 100):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(settings: BenchmarkSettings, *, whole: bool = True) -> Iterator[Measurement]:
    """Measure each op at each shape, then whole products and Newton iterations.

    Parameters
    ----------
    settings : BenchmarkSettings
    whole : bool, default=True
        Whether to go on to products and iterations.

    Yields
    ------
    Measurement
    """
    for case in cases(settings.networks, ("sm_90",), settings.ops, settings.images):
        if case.precision == "tf32" or case.op == "conv_value":
            yield _measure_op(case, settings)
    if whole:
        for name in settings.networks:
            network = Network.preset(name, IMAGES[settings.images[-1]], N_OUTPUTS)
            kernels = None if settings.kernels is None else settings.precision
            steps = whole_steps(
                network, settings.n_images, settings.device, kernels=kernels, compiles=settings.compiles
            )
            for step in steps:
                blank = Measurement(step.name, f"{name} {settings.images[-1]}", 0.0, 0.0, 0.0)
                yield _time_all(blank, step.calls, settings, _judge_step(step, settings))


def _measure_op(case: KernelCase, settings: BenchmarkSettings) -> Measurement:
    # counts do not depend on the target
    n_images = case.n_images if case.layer is None else settings.n_images
    case = replace(case, n_images=n_images, precision=settings.precision, target=next(iter(TARGETS)))
    planned = case.launches()
    flops = sum(launch.flops for launch in planned)
    n_bytes = sum(launch.bytes_read + launch.bytes_written for launch in planned)
    bound = roofline(settings.gpu, flops, n_bytes, settings.precision).seconds
    one = draw_arguments(
        case.op,
        case.layer,
        n_images,
        settings.device,
        is_first=case.is_first,
        n_outputs=case.n_outputs,
    )
    what = case.op if case.n_outputs == 1 or "jacobian" in case.op else f"{case.op} x{N_OUTPUTS}"
    blank = Measurement(what, case.where[0], flops, n_bytes, bound)
    calls = implementations(one, settings.kernels, settings.precision, settings.compiles)
    return _time_all(blank, calls, settings, _judge_op(one, settings))


def _time_all(
    blank: Measurement, calls: dict[str, Callable[[], Any]], settings: BenchmarkSettings, judge: Judge | None
) -> Measurement:
    """Gate, then time, each implementation; one that raises is noted, not fatal."""
    result = replace(blank, seconds={}, errors={}, notes={})
    for name, call in calls.items():
        try:
            if judge is not None:
                result.errors[name], passes = judge(name, call)
                if not passes:
                    result.notes[name] = f"differs from float64 by {result.errors[name]:.1e}: not timed"
                    continue
            result.seconds[name] = time_call(call, settings.device, settings.seconds)
        except Exception as error:  # an unsupported transform or a missing compiler
            result.notes[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    return result


def _judge_op(one: OpArguments, settings: BenchmarkSettings) -> Judge:
    def judge(_: str, call: Callable[[], Any]) -> tuple[float, bool]:
        # the truth starts from the arguments as they are before the call, which may change them
        expected = truth(one)
        return gate(expected, judged_outputs(one, call()), _gate_precision(settings))

    return judge


def _judge_step(step: Step, settings: BenchmarkSettings) -> Judge | None:
    expected = step.expected
    if expected is None:
        return None

    def judge(name: str, call: Callable[[], Any]) -> tuple[float, bool]:
        result = call()
        vector = step.read[name](result) if name in step.read else result
        return gate((expected,), (vector,), _gate_precision(settings))

    return judge


def _gate_precision(settings: BenchmarkSettings) -> str:
    """Precision to hold results to. On a GPU torch's is the kernels': cuDNN takes tf32 unless told not to."""
    return settings.precision if settings.device.type == "cuda" else "ieee"

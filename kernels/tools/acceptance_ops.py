"""Stages of the acceptance that look at single operations: ceilings, compiling, results, times."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, TypeAlias
from unittest.mock import patch

import torch
import triton
from torch import Tensor

from hfcnn.report import describe_device, machine

from ..launch import DOT_PRECISIONS, TARGETS, gpu_target
from .benchmark import time_call
from .benchmark_cases import OpArguments, draw_arguments, gate, implementations, judged_outputs, truth
from .compile_report import compile_in_place, compile_one, faults
from .report_cases import KernelCase, cases, layer_cases

__all__ = ["ceilings", "check_ops", "compile_all", "time_kernels"]

#: What is found: what it is of, whether it is as it must be, figures, and a note.
_Found: TypeAlias = tuple[str, bool | None, dict[str, Any], str]

#: The launch wrappers.
KERNELS = importlib.import_module("hfcnn.kernels")
#: Processes that compile.
COMPILERS = 16
#: Images of a call, in a check of results and in timing.
N_CHECKED, N_TIMED = (1, 7, 257, 2500), 2500
#: Sets of inputs that a timed op goes through in turn, so that none stays in the GPU's cache.
N_ROTATING = 4


def ceilings(is_dry: bool) -> Iterator[_Found]:
    """What it runs on, and what a copy and matrix products reach there."""
    device = torch.device("cpu" if is_dry else "cuda")
    about: dict[str, Any] = {**machine(), "triton": triton.__version__, "device": describe_device(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {"memory GiB": properties.total_memory / 2**30, "cuda": torch.version.cuda}
    yield "versions", None, about, ""
    size, length = (128, 2**14) if is_dry else (8192, 2**28)
    source = torch.randn(length, device=device)
    target = torch.empty_like(source)
    seconds = time_call(lambda: target.copy_(source), device, 0.1)
    yield "copy", None, {"GB/s": 8 * length / seconds / 1e9}, ""
    for name, dtype, allows in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, True),
    ):
        a = torch.randn(size, size, device=device, dtype=dtype)
        with _tf32(allows):
            seconds = time_call(lambda a=a: a @ a, device, 0.1)  # type: ignore[misc]
        yield f"matrix product, {name}", None, {"TFLOP/s": 2 * size**3 / seconds / 1e12}, ""


@contextmanager
def _tf32(is_allowed: bool) -> Iterator[None]:
    from hfcnn.backend import tensor_float

    with tensor_float(is_allowed):
        yield


def compile_all(is_dry: bool) -> Iterator[_Found]:
    """Compile every launch into Triton's cache, many at a time."""
    if is_dry:
        selected, workers = cases(("cnn3",), ("sm_90",), ("conv_value",), ("MNIST",))[:1], 1
        compiles = compile_one
    else:
        name = gpu_target().name
        if name not in TARGETS:
            yield name, None, {}, f"not compiled beforehand: rows are known for {', '.join(TARGETS)}"
            return
        selected, workers = _all_calls(cases(targets=(name,))), COMPILERS
        compiles = compile_in_place
    unique: dict[str, tuple[KernelCase, int]] = {}
    for case in selected:
        for index, launch in enumerate(case.launches()):
            made_of = (launch.kernel.__name__, launch.signature, launch.constexprs, launch.compile_options())
            unique.setdefault(repr(made_of), (case, index))
    jobs = list(unique.values())
    start = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        found = pool.map(compiles, *zip(*jobs, strict=True))
        for (case, _), code in zip(jobs, found, strict=True):
            wrong = faults(case.target, code)
            if wrong:
                yield f"{case.op}, {', '.join(case.where)}, {case.precision}", False, {}, "; ".join(wrong)
    seconds = time.perf_counter() - start
    yield "all launches", True, {"launches": len(jobs), "seconds": seconds, "cores": os.cpu_count()}, ""


def _all_calls(selected: list[KernelCase]) -> list[KernelCase]:
    """List the cases in every precision and with every number of images that is checked."""
    return [
        replace(case, precision=precision, n_images=case.n_images if case.layer is None else n_images)
        for case in selected
        for precision in DOT_PRECISIONS
        for n_images in N_CHECKED
    ]


def _cases(is_dry: bool) -> list[KernelCase]:
    """One case for each op and shape, those of a network that is not aligned too."""
    if is_dry:
        found = layer_cases("tiny", "sm_90")
    else:
        found = cases(targets=("sm_90",))
    unique = {replace(case, precision="tf32"): case for case in found}
    return [replace(key, where=case.where) for key, case in unique.items()]


def check_ops(is_dry: bool) -> Iterator[_Found]:
    """Every op at every layer in every precision: near float64, nothing left out, the same bits twice."""
    device = torch.device("cpu" if is_dry else "cuda")
    sizes, precisions = ((1, 3), ("ieee",)) if is_dry else (N_CHECKED, DOT_PRECISIONS)
    for n_images in sizes:
        for case in _cases(is_dry):
            n = case.n_images if case.layer is None else n_images
            one = draw_arguments(
                case.op, case.layer, n, device, is_first=case.is_first, n_outputs=case.n_outputs
            )
            expected = truth(one)
            for precision in ("ieee",) if case.layer is None else precisions:
                yield _check(case, one, expected, n, precision)


def _check(
    case: KernelCase, one: OpArguments, expected: tuple[Tensor, ...], n_images: int, precision: str
) -> _Found:
    what = f"{_name(case)}, {case.where[0]}, N = {n_images}, {precision}"
    try:
        before = {name: _copy(value) for name, value in one.values.items()}
        with _poisoned():
            first = _detached(
                judged_outputs(one, implementations(one, KERNELS, precision, False)["triton"]())
            )
            again = replace(one, values=before)
            call = implementations(again, KERNELS, precision, False)["triton"]
            second = _detached(judged_outputs(again, call()))
        error, passes = gate(expected, first, precision)
        is_same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    except Exception as error_:  # a launch that fails is a finding
        return what, False, {}, f"{type(error_).__name__}: {error_}"[:300]
    note = "" if passes else f"differs from float64 by {error:.1e}"
    note += "" if is_same else " its bits differ from run to run"
    return what, passes and is_same, {"error": error}, note.strip()


def _name(case: KernelCase) -> str:
    """Op, and how many cotangents an image where one has both."""
    is_many = case.op == "conv_vjp_input" and case.n_outputs > 1
    return f"{case.op} x {case.n_outputs}" if is_many else case.op


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _detached(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.clone() for tensor in tensors)


@contextmanager
def _poisoned() -> Iterator[None]:
    """Fill what torch.empty returns, so that an element which a kernel forgets to write shows."""
    empty = torch.empty

    def filled(*size: Any, **keywords: Any) -> Tensor:
        out: Tensor = empty(*size, **keywords)
        return out.fill_(float("nan") if out.is_floating_point() else 254)

    with patch.object(torch, "empty", filled):
        yield


def time_kernels(is_dry: bool) -> Iterator[_Found]:
    """Time each op on rotating inputs by graph replay, beside torch's in TF32 and in bfloat16."""
    device = torch.device("cpu" if is_dry else "cuda")
    torch.backends.cudnn.benchmark = True
    if is_dry:
        selected, n_images = _cases(is_dry)[:4], 2
    else:
        selected, n_images = cases(("cnn3",), ("sm_90",), images=("CIFAR10",)), N_TIMED
        selected = [case for case in selected if case.precision == "tf32"]
    for case in selected:
        n = case.n_images if case.layer is None else n_images
        options: dict[str, Any] = {"is_first": case.is_first, "n_outputs": case.n_outputs}
        sets = [draw_arguments(case.op, case.layer, n, device, seed=i, **options) for i in range(N_ROTATING)]
        figures: dict[str, Any] = {}
        if not is_dry:
            calls = [implementations(one, KERNELS, "tf32", False)["triton"] for one in sets]
            figures["triton us"] = 1e6 * _replayed(calls, device)
            if case.layer is not None:  # CG's vectors stay in float32
                cast = [_cast(one, torch.bfloat16) for one in sets]
                calls = [implementations(one, KERNELS, "tf32", False)["triton"] for one in cast]
                figures["triton bf16 us"] = _try_time(calls, device)
        for name in ("torch", "func"):
            for precision, dtype in (("tf32", torch.float32), ("bf16", torch.bfloat16)):
                cast = [_cast(one, dtype) for one in sets]
                found = [implementations(one, None, "tf32", False) for one in cast]
                if name in found[0]:
                    with _tf32(True):
                        figures[f"{name} {precision} us"] = _try_time([f[name] for f in found], device)
        yield f"{_name(case)}, {case.where[0]}", None, figures, ""


def _try_time(calls: list[Callable[[], Any]], device: torch.device) -> float | str:
    for take in (_replayed, _one_by_one):
        try:
            return 1e6 * take(calls, device)
        except Exception as error:  # an operation without bfloat16, or one that no graph takes
            reason = type(error).__name__
    return reason


def _one_by_one(calls: list[Callable[[], Any]], device: torch.device) -> float:
    return sum(time_call(call, device, 0.05) for call in calls) / len(calls)


def _cast(one: OpArguments, dtype: torch.dtype) -> OpArguments:
    values = {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in one.values.items()
    }
    return replace(one, values=values)


def _replayed(calls: list[Callable[[], Any]], device: torch.device) -> float:
    """Seconds of one call, all captured in one graph where there is a GPU."""
    if device.type != "cuda":
        return time_call(lambda: [call() for call in calls], device, 0.0) / len(calls)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    before = torch.cuda.current_stream(device)
    try:
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
    finally:  # a capture that fails leaves its stream the current one
        torch.cuda.set_stream(before)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    graph.replay()
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(10):
        graph.replay()
    end.record()
    torch.cuda.synchronize(device)
    milliseconds = float(begin.elapsed_time(end))
    return milliseconds / 1000 / 10 / len(calls)

"""Stages of ``hfcnn kernels accept`` that look at whole steps: graphs, products, an iteration, a fit."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.profiler import ProfilerActivity, profile

from hfcnn.backend import Backend, get_backend
from hfcnn.benchmark.cases import Case, curvlinops_operator
from hfcnn.benchmark.steps import whole_steps
from hfcnn.benchmark.timing import interleave
from hfcnn.network import Conv, Network
from hfcnn.newton import NewtonOptions, NewtonState, newton
from hfcnn.objective import Objective
from hfcnn.stochastic import stochastic

__all__ = ["check_graphs", "check_products", "compare_fits", "profile_iteration"]

#: What is found: what it is of, whether it is as it must be, figures, and a note.
_Found: TypeAlias = tuple[str, bool | None, dict[str, Any], str]

#: A network small enough for the interpreter.
TINY = [Conv(4, 3, pool=2)]
#: Kernels that a profile names, those that take longest.
N_LONGEST = 12
#: Largest difference of a product from float64 that passes, over the norm of the truth.
PRODUCT_TOLERANCE = {"ieee": 1e-5, "tf32": 5e-3, "bf16": 3e-2}


def _device(is_dry: bool) -> str:
    return "cpu" if is_dry else "cuda"


def _backend(is_dry: bool, name: str) -> Backend:
    precision = "ieee" if name == "torch" or is_dry else "tf32"
    return get_backend(name, _device(is_dry), precision)


def _digits(is_dry: bool, backend: Backend, n_images: int) -> Objective:
    """The 8 x 8 digits, on which a fit learns something."""
    images, labels = load_digits(return_X_y=True)
    data = torch.from_numpy((images[:n_images] / 16).astype(np.float32).reshape(-1, 8, 8, 1))
    network = Network(TINY if is_dry else [Conv(16, 3, pool=2), Conv(32, 3, pool=2)], (8, 8, 1), 10)
    targets = torch.from_numpy(labels[:n_images])
    return Objective(network, data.to(backend.device), targets, C=1.0 * n_images, backend=backend)


def _fit(objective: Objective, iterations: int, **options: Any) -> list[NewtonState]:
    theta = objective.network.init(0).to(objective.backend.device)
    chosen = NewtonOptions(max_iter=iterations, sampling_rate=0.5, gauss_newton="rop", **options)
    return list(newton(objective, theta, chosen))


def check_graphs(is_dry: bool) -> Iterator[_Found]:
    """CG steps with and without a graph give the same bits; after a capture that fails, fits work on."""
    n_images, iterations = (12, 1) if is_dry else (1000, 3)
    objective = _digits(is_dry, _backend(is_dry, "triton"), n_images)
    options: dict[str, Any] = {"cg_max_iter": 5 if is_dry else 50, "cg_tol": 0.0}
    off = _fit(objective, iterations, cuda_graph=False, **options)[-1].theta
    on = _fit(objective, iterations, cuda_graph="auto" if is_dry else True, **options)[-1].theta
    note = "no graph on a CPU: both ran step by step" if is_dry else ""
    yield "graph on and off", bool(torch.equal(on, off)), {}, note
    if is_dry:
        return
    failing = patch.object(torch.cuda.CUDAGraph, "capture_begin", side_effect=RuntimeError("forced"))
    with warnings.catch_warnings(record=True) as caught, failing:
        warnings.simplefilter("always")
        after = _fit(objective, iterations, cuda_graph=True, **options)[-1].theta
    warned = any("could not be captured" in str(warning.message) for warning in caught)
    yield "capture that fails", bool(torch.equal(after, off)) and warned, {}, "" if warned else "no warning"
    later = _fit(objective, iterations, cuda_graph=True, **options)[-1].theta
    yield "fit after it", bool(torch.equal(later, off)), {}, ""


def check_products(is_dry: bool) -> Iterator[_Found]:
    """Gauss-Newton products against float64, then their times beside torch.func's and curvlinops'."""
    device = torch.device(_device(is_dry))
    if is_dry:
        network, n_images, precisions = Network(TINY, (6, 6, 1), 10), 4, ["ieee"]
    else:
        network, n_images, precisions = Network.preset("cnn3", (32, 32, 3), 10), 2500, ["tf32", "bf16"]
    errors, calls, wrong = {}, {}, []
    for precision in precisions:
        step = next(iter(whole_steps(network, n_images, device, kernels=precision)))
        assert step.expected is not None
        for name, call in step.calls.items():
            if name in errors and name != "triton":
                continue  # the others are the same each time
            result = call()
            vector = step.read[name](result) if name in step.read else result
            label = "triton bf16" if precision == "bf16" else name
            errors[label] = float((vector.double() - step.expected).norm() / step.expected.norm())
            calls[label] = call if device.type == "cpu" else _synchronised(call, device)
            wrong += [label] * (not errors[label] <= PRODUCT_TOLERANCE[precision])
    yield "differences from float64", not wrong, errors, ", ".join(wrong)
    if device.type == "cuda":
        try:
            case = Case.draw("cnn3", (32, 32, 3), n_images).to(device)
            operator = curvlinops_operator(case, n_images)
            calls["curvlinops"] = _synchronised(lambda: operator @ case.v, device)
        except ImportError:
            pass
    seconds = interleave(calls, 1 if is_dry else 10)
    yield "times", None, {f"{name} us": 1e6 * value for name, value in seconds.items()}, ""


def _synchronised(call: Any, device: torch.device) -> Any:
    def run() -> None:
        call()
        torch.cuda.synchronize(device)

    return run


def profile_iteration(is_dry: bool) -> Iterator[_Found]:
    """One iteration of Newton-CG and one epoch of the stochastic solver under the profiler."""
    backend = _backend(is_dry, "triton")
    if is_dry:
        network, n_images = Network(TINY, (6, 6, 1), 10), 40
    else:
        network, n_images = Network.preset("cnn3", (32, 32, 3), 10), 50_000
    rng = np.random.default_rng(0)
    data = rng.standard_normal((n_images, *network.input_shape), dtype=np.float32)
    resident = torch.from_numpy(data).to(backend.device)
    labels = torch.arange(n_images) % 10
    theta = network.init(0).to(backend.device)
    options = NewtonOptions(max_iter=1, cg_max_iter=3 if is_dry else 20, sampling_rate=0.05)

    def iteration(images: Any) -> Callable[[], float]:
        objective = Objective(network, images, labels, C=0.01 * n_images, backend=backend)
        return lambda: next(newton(objective, theta, options)).seconds

    few = n_images // 5
    objective = Objective(
        network, resident[:few], labels[:few], loss="cross_entropy", C=0.03 * few, backend=backend
    )
    epochs, seconds = stochastic(objective, theta), [0.0]

    def epoch() -> float:
        seconds.append(next(epochs).seconds)
        return seconds[-1] - seconds[-2]

    runs = {"images in numpy": iteration(data), "images in resident": iteration(resident)}
    for what, run in {**runs, f"an epoch on {few} images": epoch}.items():
        run()
        yield from _profiled(what, run, backend.device)


def _profiled(what: str, run: Callable[[], float], device: torch.device) -> Iterator[_Found]:
    """Totals of a run under the profiler, and the kernels that take longest."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        seconds = run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    yield what, None, {"seconds": seconds, **_totals(profiler)}, ""
    times: Counter[str] = Counter()
    for event in _on_device(profiler):
        times[f"{event.name[:60]}, us"] += event.time_range.elapsed_us()
    if times:
        yield f"{what}: longest", None, dict(times.most_common(N_LONGEST)), ""


def _on_device(profiler: Any) -> list[Any]:
    return [event for event in profiler.events() if str(event.device_type).endswith("CUDA")]


def _totals(profiler: Any) -> dict[str, Any]:
    """Kernels, transfers, synchronisations and the device's idle time, from a profile."""
    events = _on_device(profiler)
    transfers = [event for event in events if "Memcpy" in event.name]
    busy, end = 0.0, 0.0
    spans = sorted((event.time_range.start, event.time_range.end) for event in events)
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return {
        "kernels": len(events) - len(transfers),
        "transfers": len(transfers),
        "transfer us": sum(event.time_range.elapsed_us() for event in transfers),
        "synchronisations": sum("Synchronize" in event.name for event in profiler.events()),
        "device busy us": busy,
        "device idle us": end - spans[0][0] - busy if spans else 0.0,
    }


def compare_fits(is_dry: bool) -> Iterator[_Found]:
    """Short fits by the kernels against torch's: f and accuracy, and CG counts where both use float32."""
    n_images, iterations = (12, 1) if is_dry else (1500, 8)
    precisions = ["ieee"] if is_dry else ["ieee", "tf32x3", "tf32", "bf16"]

    def fit(name: str, precision: str) -> tuple[float, int, float]:
        states = _fit(_digits(is_dry, get_backend(name, _device(is_dry), precision), n_images), iterations)
        return states[-1].f, sum(state.cg_iterations for state in states), states[-1].training_accuracy

    f_torch, cg_torch, accuracy_torch = fit("torch", "ieee")
    for precision in precisions:
        f, cg, accuracy = fit("triton", precision)
        figures = {"f": f, "CG": cg, "accuracy": accuracy}
        figures |= {"f of torch": f_torch, "CG of torch": cg_torch, "accuracy of torch": accuracy_torch}
        is_near = abs(f - f_torch) <= 0.02 * abs(f_torch) and abs(accuracy - accuracy_torch) <= 0.01
        if precision in ("ieee", "tf32x3"):
            # products that differ in the fourth digit lead CG along a way of its own
            is_near &= abs(cg - cg_torch) <= max(2, 0.2 * cg_torch)
        yield f"{iterations} iterations on {n_images} digits, {precision}", is_near, figures, ""

"""Show a benchmark: on the terminal, as JSON, as a roofline plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import triton

from hfcnn.report import describe_device, processor, terminal_table

from .benchmark import IMPLEMENTATIONS, BenchmarkSettings, Measurement

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["about", "device_name", "measurements_table", "note", "plot"]

#: Colours of the plot, distinct for the colour-blind (Okabe and Ito).
COLORS = {"triton": "#0072B2", "torch": "#E69F00", "func": "#009E73", "compiled": "#CC79A7"}


def device_name(settings: BenchmarkSettings) -> str:
    """Name of the GPU, or of the CPU's kind."""
    if settings.device.type == "cuda":
        return describe_device(settings.device)
    return f"CPU ({processor()}, {torch.get_num_threads()} threads)"


def note(settings: BenchmarkSettings) -> str:
    """Say what was measured, and what was not."""
    if settings.device.type == "cuda":
        return f"Measured on {device_name(settings)}; roofline of {settings.gpu.name}."
    return (
        f"Measured on the {device_name(settings)}: torch's implementations only. No GPU was measured, "
        "and no Triton kernel was run. The roofline is of this CPU, from a matrix product and a copy."
    )


def measurements_table(measurements: Sequence[Measurement], settings: BenchmarkSettings) -> Table:
    """Build a rich table, best implementation in bold."""
    header = ["what", "layer", "MFLOP", "MB", "roofline us", *(f"{name} us" for name in IMPLEMENTATIONS)]
    header += ["best", "TFLOP/s", "GB/s", "% of roofline", "error"]
    title = f"{settings.n_images} images, {settings.precision}"
    return terminal_table(title, header, map(_cells, measurements), left=("what", "layer"))


def about(settings: BenchmarkSettings) -> dict[str, Any]:
    """Say what was measured with: the first line of the JSON."""
    return {
        "device": device_name(settings),
        "is_gpu": settings.device.type == "cuda",
        "roofline_of": asdict(settings.gpu),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "n_images": settings.n_images,
        "precision": settings.precision,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
    }


def plot(measurements: Sequence[Measurement], settings: BenchmarkSettings, path: Path) -> None:
    """Draw achieved operations a second over operations a byte, below the device's roof."""
    from matplotlib.figure import Figure

    counted = [one for one in measurements if one.flops and one.seconds]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    intensity = [one.flops / one.bytes_moved for one in counted]
    if counted:
        kind = {"ieee": "fp32"}.get(settings.precision, "tf32")
        peak = settings.gpu.flops[kind] / (3 if settings.precision == "tf32x3" else 1)
        ends = sorted({min(intensity), peak / settings.gpu.bandwidth, max(intensity)})
        roof = [min(peak, settings.gpu.bandwidth * x) / 1e12 for x in ends]
        axes.plot(ends, roof, color="black", label=f"roof ({settings.gpu.name})")
    for name in IMPLEMENTATIONS:
        points = [(x, one) for x, one in zip(intensity, counted, strict=True) if name in one.seconds]
        if points:
            rates = [one.flops / one.seconds[name] / 1e12 for _, one in points]
            axes.scatter([x for x, _ in points], rates, s=24, color=COLORS[name], label=name)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="TFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_title(device_name(settings))
    if counted:
        axes.legend()
    figure.savefig(path)


def _cells(one: Measurement) -> list[str]:
    best = min(one.seconds, key=lambda name: one.seconds[name], default="")
    times = [_time(one, name, is_best=name == best) for name in IMPLEMENTATIONS]
    seconds = one.seconds.get(best, 0.0)
    counted = [
        f"{one.flops / 1e6:,.1f}" if one.flops else "-",
        f"{one.bytes_moved / 1e6:,.2f}" if one.bytes_moved else "-",
        f"{1e6 * one.roofline:,.1f}" if one.roofline else "-",
    ]
    achieved = ["-", "-", "-"]
    if seconds and one.roofline:
        achieved = [
            f"{one.flops / seconds / 1e12:.3g}",
            f"{one.bytes_moved / seconds / 1e9:.3g}",
            f"{100 * one.roofline / seconds:.0f}",
        ]
    error = f"{max(one.errors.values()):.0e}" if one.errors else "-"
    return [one.what, one.layer, *counted, *times, best or "-", *achieved, error]


def _time(one: Measurement, name: str, *, is_best: bool) -> str:
    if name not in one.seconds:
        return "failed" if name in one.notes else "-"
    text: Any = f"{1e6 * one.seconds[name]:,.1f}"
    return f"[bold]{text}[/bold]" if is_best else text

"""Show a compile report: on the terminal, as Markdown, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import triton

from hfcnn.report import markdown_table, terminal_table

from .compile_report import MAX_SPILL, CompiledLaunch
from .machine_code import MachineCode
from .report_cases import KernelCase, cases
from .roofline import gpu_of_arch

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "WORDS",
    "launches_table",
    "product_lines",
    "product_table",
    "report_markdown",
    "summary_table",
    "traffic_lines",
    "traffic_markdown",
    "traffic_table",
]

REPORT_COLUMNS = (
    "layer", "op", "kernel", "precision", "warps", "registers", "spilled B", "shared KiB", "occupancy %",
    "matrix instructions", "step", "loads", "MFLOP", "MB", "unfused MB", "roofline us", "bound",
    "issue us", "verdict",
)  # fmt: skip
#: Ops of a Gauss-Newton product by the R-operator.
PRODUCT_OPS = ("conv_jvp", "conv_vjp_input", "conv_vjp_weight")
PRODUCT_COLUMNS = ("target", "network", *PRODUCT_OPS, "roofline us", "predicted us")
PRODUCT_NOTE = (
    "By the R-operator in tf32, convolutional layers alone. A launch is predicted to take its roofline time "
    "or the time to issue its instructions, whichever is longer: no latency, no waiting, so a floor. Where "
    "a network is not listed, a launch of it was not compiled."
)
#: Columns of words, not figures.
WORDS = ("Triton", "target", "network", "layer", "op", "kernel", "kernels", "bound", "verdict")
TRAFFIC_COLUMNS = ("layer", "op", "MFLOP", "kB read", "kB written", "kB unfused", "ratio")
SUMMARY_COLUMNS = (
    "target", "kernels", "precision", "registers", "spilled B", "shared KiB", "occupancy %",
    "matrix instructions", "failed",
)  # fmt: skip


def launches_table(rows: Iterable[CompiledLaunch], title: str) -> Table:
    """Build a rich table of one target's rows."""
    return terminal_table(title, REPORT_COLUMNS, [_cells(row) for row in rows], left=WORDS)


def summary_table(rows: Sequence[CompiledLaunch]) -> Table:
    """Build a rich table with the worst of each kernel on each target."""
    return terminal_table("Worst of each kernel", SUMMARY_COLUMNS, _summary(rows), left=WORDS)


def report_markdown(rows: Sequence[CompiledLaunch], about: Iterable[str] = ()) -> str:
    """Worst of each kernel, what failed, and every shape with a column a target, as Markdown.

    `about` is put in front: the sections of `hfcnn.kernels.tools.report_versions.sections`.
    """
    targets = list(dict.fromkeys(row.case.target for row in rows))
    shapes: dict[tuple[KernelCase, str], dict[str, CompiledLaunch]] = {}
    for row in rows:
        shapes.setdefault((replace(row.case, target=""), row.kernel), {})[row.case.target] = row
    failed = [[row.case.target, *_cells(row)] for row in rows if row.faults]
    parts = [
        "# Compile report",
        f"Written by `hfcnn kernels report --markdown`, Triton {triton.__version__}; {_images(rows):,} "
        "images per launch. No GPU took part: roofline times are bounds from published peaks, not "
        f"measurements. A kernel fails if it spills more than {MAX_SPILL} bytes a thread, needs more shared "
        "memory than the target has, does not compile, has instructions for spilled registers in a loop, or "
        "has a dot in tf32 or bfloat16 off the newest matrix instructions that its shape allows.",
        *about,
        "## Worst of each kernel",
        markdown_table(SUMMARY_COLUMNS, _summary(rows)).rstrip(),
        "## Failed",
        markdown_table(("target", *REPORT_COLUMNS), failed).rstrip() if failed else "None.",
        "## A Gauss-Newton product",
        PRODUCT_NOTE,
        markdown_table(PRODUCT_COLUMNS, product_lines(rows)).rstrip(),
        "## Every shape",
        "A target's cell: registers a thread, bytes spilled, shared memory, occupancy, matrix instructions, "
        "roofline time on "
        + ", ".join(f"{gpu_of_arch(target).name} ({target})" for target in targets)
        + "; on NVIDIA's, the instructions of a turn of the hot loop (matrix+memory+integer+other), and the "
        "time to issue those of all programs. MB is what the kernel reads and writes; unfused MB what "
        "torch's version of the whole op does.",
        markdown_table(
            ("layer", "op", "kernel", "MFLOP", "MB", "unfused MB", *targets),
            [_shape_line(found, targets) for found in shapes.values()],
        ).rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def _images(rows: Iterable[CompiledLaunch]) -> int:
    return next((row.case.n_images for row in rows if row.case.layer is not None), 0)


def product_lines(rows: Iterable[CompiledLaunch]) -> list[list[str]]:
    """Add up the launches of a product by the R-operator in tf32, of each network on each target.

    A network of which a launch is missing is left out: the sum would be too small.
    """
    sums: dict[tuple[str, str], dict[str, list[CompiledLaunch]]] = {}
    for row in rows:
        for where in _product_networks(row.case):
            sums.setdefault((row.case.target, where), {}).setdefault(row.case.op, []).append(row)
    return [
        [
            target,
            where,
            *(f"{1e6 * sum(row.predicted for row in ops.get(op, [])):,.0f}" for op in PRODUCT_OPS),
            f"{1e6 * sum(row.roofline for found in ops.values() for row in found):,.0f}",
            f"{1e6 * sum(row.predicted for found in ops.values() for row in found):,.0f}",
        ]
        for (target, where), ops in sums.items()
        if target != "gfx942" and sum(map(len, ops.values())) == _n_product_launches(target, where)
    ]


def _product_networks(case: KernelCase) -> list[str]:
    """Networks and images of whose product a case is part, once for each of their layers."""
    is_part = case.op in PRODUCT_OPS and (case.dtype, case.precision) == ("fp32", "tf32")
    return [where.rpartition(" ")[0] for where in case.where if is_part and case.n_outputs == 1]


def _n_product_launches(target: str, where: str) -> int:
    network, images = where.split(" ")
    parts = cases((network,), (target,), PRODUCT_OPS, (images,))
    return sum(len(case.launches()) for case in parts for _ in _product_networks(case))


def product_table(rows: Iterable[CompiledLaunch]) -> Table:
    """Build a rich table of `product_lines`."""
    title = f"A product by the R-operator, {_images(rows := list(rows)):,} images, us at least"
    return terminal_table(title, PRODUCT_COLUMNS, product_lines(rows), left=WORDS)


def traffic_lines(selected: Iterable[KernelCase]) -> list[list[str]]:
    """Count each case's operations and bytes, per image; per step for `cg_update`."""
    lines = []
    for case in selected:
        planned = case.launches()
        n = 1 if case.layer is None else case.n_images
        flops = sum(launch.flops for launch in planned)
        read = sum(launch.bytes_read for launch in planned)
        written = sum(launch.bytes_written for launch in planned)
        unfused = sum(launch.bytes_unfused for launch in planned)
        lines.append(
            [
                layer_name(case),
                op_name(case),
                f"{flops / n / 1e6:,.2f}",
                f"{read / n / 1e3:,.1f}",
                f"{written / n / 1e3:,.1f}",
                f"{unfused / n / 1e3:,.1f}",
                f"{unfused / (read + written):.1f}",
            ]
        )
    return sorted(lines, key=lambda line: line[1])


def traffic_table(lines: Iterable[Sequence[str]], title: str) -> Table:
    """Build a rich table of `traffic_lines`."""
    return terminal_table(title, TRAFFIC_COLUMNS, lines, left=WORDS)


def traffic_markdown(lines: Iterable[Sequence[str]]) -> str:
    """`traffic_lines` as a Markdown table."""
    return markdown_table(TRAFFIC_COLUMNS, lines)


def _shape_line(found: Mapping[str, CompiledLaunch], targets: Iterable[str]) -> list[str]:
    cells = _cells(next(iter(found.values())))
    texts = []
    for target in targets:
        if target not in found:
            texts.append("-")
            continue
        row = found[target]
        code, dots = row.code, _precision(row)
        figures: tuple[str, ...] = (
            f"{code.registers}",
            f"{code.spilled} B",
            f"{code.shared / 1024:.0f} KiB",
            f"{100 * row.occupancy:.0f} %",
            _instructions(code.matrix) or "none",
            f"{1e6 * row.roofline:,.1f} us",
        )
        if code.step:
            figures += (_step(code), "?" if row.issue is None else f"{1e6 * row.issue:,.1f} us")
        texts.append(("" if dots == "-" else f"{dots}: ") + ", ".join(figures))
    return [*cells[:3], *cells[12:15], *texts]


def _cells(row: CompiledLaunch) -> list[str]:
    case, code = row.case, row.code
    return [
        layer_name(case),
        op_name(case),
        row.kernel,
        _precision(row),
        str(row.num_warps),
        str(code.registers),
        str(code.spilled),
        f"{code.shared / 1024:.0f}",
        f"{100 * row.occupancy:.0f}",
        _instructions(code.matrix) or "-",
        _step(code),
        ", ".join(f"{count} x {bits}" for bits, count in code.loads.items()) or "-",
        f"{row.flops / 1e6:,.0f}",
        f"{row.bytes_moved / 1e6:,.1f}",
        f"{row.bytes_unfused / 1e6:,.1f}" if row.bytes_unfused else "-",
        f"{1e6 * row.roofline:,.1f}",
        row.bound,
        "-" if row.issue is None else f"{1e6 * row.issue:,.1f}",
        "; ".join(row.faults) or "ok",
    ]


def op_name(case: KernelCase) -> str:
    """Op, and how many cotangents an image share one code."""
    many = case.n_outputs > 1 and case.op == "conv_vjp_input"
    name = f"{case.op} x{case.n_outputs}" if many else case.op
    dtypes = {"fp64": ", float64", "bf16": ", bfloat16"}
    return name + dtypes.get(case.dtype, "")


def layer_name(case: KernelCase) -> str:
    """Shape of the layer, or the length of the vectors."""
    layer = case.layer
    if layer is None:
        return f"n = {case.n_images:,}"
    pool = f" pool {layer.pool[0]}" if layer.is_pooled else ""
    shape = f"{layer.height}x{layer.width}x{layer.channels}"
    return f"{shape} to {layer.filters}, {layer.kernel[0]}x{layer.kernel[1]}{pool}"


def _precision(row: CompiledLaunch) -> str:
    """Precision of the dots that were compiled; what was asked for where the target has no such."""
    return "+".join(sorted(row.code.dots)) or "-"


def _instructions(matrix: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(matrix.items()))


def _step(code: MachineCode) -> str:
    """Instructions of a turn of the hot loop: matrix+memory+integer+other."""
    return "+".join(str(count) for count in code.step.values()) or "-"


def _summary(rows: Iterable[CompiledLaunch]) -> list[list[str]]:
    groups: dict[tuple[str, str, str], list[CompiledLaunch]] = {}
    for row in rows:
        precision = "float64" if row.case.dtype == "fp64" else _precision(row)
        groups.setdefault((row.case.target, row.kernel, precision), []).append(row)
    return [
        [
            target,
            f"{kernel} ({len(group)})",
            precision,
            _span([row.code.registers for row in group]),
            str(max(row.code.spilled for row in group)),
            f"{max(row.code.shared for row in group) / 1024:.0f}",
            f"{100 * min(row.occupancy for row in group):.0f}",
            ", ".join(sorted({name for row in group for name in row.code.matrix})) or "-",
            str(sum(bool(row.faults) for row in group)),
        ]
        for (target, kernel, precision), group in groups.items()
    ]


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"

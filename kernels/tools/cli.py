"""The commands ``hfcnn kernels report``, ``traffic``, ``benchmark`` and ``tune``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hfcnn.commands import Commands
from hfcnn.files import check_output_path, write_atomically
from hfcnn.report import terminal, terminal_table

from .rows import written

if TYPE_CHECKING:
    from .acceptance import Finding
    from .compile_report import CompiledLaunch

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    name="kernels",
    help="Compile, time and tune the Triton kernels.",
    no_args_is_help=True,
    add_completion=False,
)

#: Width of tables where the output is no terminal.
REPORT_WIDTH = 200

Names = list[str] | None
JsonLines = Annotated[
    Path | None, typer.Option("--json", help="Write each row here once it is measured, as a line of JSON.")
]
Seconds = Annotated[float, typer.Option(min=1, help="Seconds after which to measure nothing more.")]


@contextmanager
def _bad_parameters() -> Iterator[None]:
    """Turn the error of an unknown name into one of the command's usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command()
def report(
    target: Annotated[Names, typer.Option(help="sm_80, sm_90, sm_100 or gfx942; all by default.")] = None,
    network: Annotated[Names, typer.Option(help="cnn3 or cnn5; both by default.")] = None,
    op: Annotated[Names, typer.Option(help="An operation, such as conv_jvp; all by default.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Images of each launch.")] = 1024,
    quick: Annotated[bool, typer.Option("--quick", help="A sample: a minute instead of an hour.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print the last table only.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write all figures here as JSON.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables here.")] = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(help="File that --json wrote with another Triton; may be repeated."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of what was compiled before.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Compile nothing: show what is there.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes; one for each core by default.")] = None,
) -> None:
    """Compile every kernel at every shape of the presets for real GPUs; no GPU is needed.

    Ends with status 1 if a kernel spills more than 64 bytes a thread, needs more shared memory than the
    target has, does not compile, has instructions for spilled registers in a loop, or has a dot in tf32 or
    bfloat16 off the newest matrix instructions that its shape allows. A step is a turn of the hot loop: its
    instructions for matrix units + memory + integers + the rest, and the bits of its loads.
    """
    from ..launch import TARGETS
    from . import report_tables, report_versions
    from .compile_report import compile_cases
    from .report_cases import cases, other_cases, quick_cases

    console = terminal(REPORT_WIDTH)
    with _bad_parameters():
        versions = [line for file in add or () for line in report_versions.read_versions(file.read_text())]
        chosen = {"networks": network, "targets": target, "ops": op}
        selected = cases(**{name: tuple(value) for name, value in chosen.items() if value}, n_images=images)
        if not network or "cnn3" in network:
            others = other_cases(tuple(target or TARGETS), images)
            selected += [case for case in others if not op or case.op in op]
    if quick:
        sample = set(quick_cases(n_images=images))
        selected = [case for case in selected if case in sample]
    if not selected:
        raise typer.BadParameter("the quick sample holds nothing of what was chosen")
    with _progress(console) as progress:
        task = progress.add_task("compiling", total=None)
        rows = compile_cases(
            selected,
            cache=cache,
            jobs=jobs,
            only_cached=cached,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    planned = Counter(case.target for case in selected for _ in case.launches())
    for name in () if summary else dict.fromkeys(row.case.target for row in rows):
        console.print(report_tables.launches_table([row for row in rows if row.case.target == name], name))
    console.print(report_tables.summary_table(rows))
    console.print(report_tables.product_table(rows))
    lines = report_versions.version_lines(rows, planned)
    console.print(report_versions.versions_table([*lines, *versions]))
    if json:
        json.write_text(report_versions.report_json(rows, planned))
    if markdown:
        about = report_versions.sections(rows, planned, versions)
        markdown.write_text(report_tables.report_markdown(rows, about))
    _end_with_faults(console, rows)


def _end_with_faults(console: Console, rows: Sequence[CompiledLaunch]) -> None:
    """Say what fails, and end with status 1 if anything does."""
    failed = [row for row in rows if row.faults]
    for row in failed:
        text = f"{row.case.target}, {row.case.op}, {row.kernel}, {', '.join(row.case.where)}: "
        console.print(text + "; ".join(row.faults), style="red", markup=False, soft_wrap=True)
    console.print(f"{len(rows)} launches, {len(failed)} failed")
    if failed:
        raise typer.Exit(1)


def _progress(console: Console) -> Progress:
    # to the error stream, so that a table can be piped
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


@app.command()
def benchmark(
    network: Annotated[Names, typer.Option(help="cnn3 or cnn5.")] = None,
    op: Annotated[Names, typer.Option(help="An operation, such as conv_jvp; all by default.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of images in each call.")] = None,
    precision: Annotated[str, typer.Option(help="tf32, tf32x3 or ieee.")] = "tf32",
    compile: Annotated[bool, typer.Option(help="Time torch.compile too, which takes minutes.")] = False,
    whole: Annotated[bool, typer.Option(help="Time whole products and Newton iterations too.")] = True,
    json: JsonLines = None,
    seconds: Seconds = 600.0,
    plot: Annotated[Path | None, typer.Option(help="Draw a roofline plot here.")] = None,
) -> None:
    """Time the kernels against torch, torch.func and torch.compile, each after a check against float64.

    Without a GPU, torch's implementations run on the CPU, small, in the same columns. Ends with status 1
    if a kernel differs from the truth; it is then not timed.
    """
    from . import benchmark_tables as tables
    from .benchmark import measure, settings_here

    console = terminal(REPORT_WIDTH)
    with _bad_parameters():
        settings = settings_here(
            networks=network, ops=op, n_images=images, precision=precision, compiles=compile
        )
    measurements = []
    with _progress(console) as progress:
        task = progress.add_task("measuring", total=None)
        rows = measure(settings, whole=whole)
        for one in written(rows, json, asdict, first=tables.about(settings), seconds=seconds):
            measurements.append(one)
            progress.advance(task)
    console.print(tables.measurements_table(measurements, settings))
    for one in measurements:
        for name, text in one.notes.items():
            console.print(f"{one.what}, {one.layer}, {name}: {text}", style="yellow", markup=False)
    console.print(tables.note(settings))
    if plot:
        tables.plot(measurements, settings, plot)
    if any("triton" in one.notes or "torch" in one.notes for one in measurements):
        raise typer.Exit(1)


@app.command()
def tune(
    network: Annotated[Names, typer.Option(help="cnn3 or cnn5; both by default.")] = None,
    op: Annotated[Names, typer.Option(help="An operation, such as conv_jvp; all by default.")] = None,
    images: Annotated[int | None, typer.Option(help="Number of images in each call.")] = None,
    precision: Annotated[str, typer.Option(help="tf32, tf32x3 or ieee.")] = "tf32",
    json: JsonLines = None,
    seconds: Seconds = 1800.0,
) -> None:
    """Time candidate tiles on this machine's GPU and print the rows of the tile table that win.

    The table is left as it is. Each shape takes minutes, most of them to compile; --op and --network narrow
    it.
    """
    import torch

    if not torch.cuda.is_available():
        raise ValueError("hfcnn kernels tune measures, so it needs a GPU, and torch sees none here")
    from ..launch import gpu_target
    from ..tiles import _generation
    from .benchmark import settings_here
    from .tune import TILE_KINDS, best_rows
    from .tune import tune as try_tiles

    with _bad_parameters():
        settings = settings_here(networks=network, ops=op, n_images=images, precision=precision)
    console = terminal(REPORT_WIDTH)
    trials = []
    with _progress(console) as progress:
        task = progress.add_task("measuring tiles", total=None)
        rows = try_tiles(settings, op or tuple(TILE_KINDS))
        for trial in written(rows, json, asdict, seconds=seconds):
            trials.append(trial)
            progress.advance(task)
    lines = []
    for case in dict.fromkeys(trial.case for trial in trials):
        own = [trial for trial in trials if trial.case == case]
        # the current tile is tried first, so that it is there wherever the time ended
        now, best = own[0], min(own, key=lambda trial: trial.seconds)
        times = [f"{1e6 * trial.seconds:,.1f}" for trial in (now, best)]
        lines.append([case.op, case.where[0], str(now.tile), times[0], str(best.tile), times[1]])
    header = ("op", "layer", "current tile", "us", "best tile", "us")
    words = ("op", "layer", "current tile", "best tile")
    console.print(terminal_table("Tiles", header, lines, left=words))
    generation = _generation(gpu_target())
    for row in best_rows(trials, generation, precision):
        console.print(row, markup=False)


@app.command()
def accept(
    out: Annotated[Path, typer.Option(help="Folder of findings.jsonl, a line for each finding.")],
    stage: Annotated[Names, typer.Option(help="A stage; all by default.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="On the CPU and in the interpreter, on tiny shapes.")
    ] = False,
    runs: Annotated[bool, typer.Option(help="Run the stages before writing the page.")] = True,
    markdown: Annotated[Path | None, typer.Option(help="Write a page of the folder's findings here.")] = None,
) -> None:
    """Check and time everything on this machine's GPU in ten minutes, each stage within its own limit.

    Ends with status 1 if a check fails. Stages: versions, compile, ops, graphs, kernels, products, iteration,
    fit.
    """
    from .acceptance import STAGES, findings_table, read_findings
    from .acceptance_page import check_stages, findings_markdown

    path, stages = out / "findings.jsonl", stage or tuple(STAGES)
    if markdown is not None:
        check_output_path(markdown, "--markdown")
        check_stages({finding.stage for finding in read_findings(path)} | set(stages if runs else ()))
    console = terminal(REPORT_WIDTH)
    found = _run_stages(console, out, stages, dry_run) if runs else read_findings(path)
    console.print(findings_table(found))
    if markdown is not None:
        write_atomically(markdown, findings_markdown(read_findings(path)).encode())
    if runs and any(finding.is_passed is False for finding in found):
        raise typer.Exit(1)


def _run_stages(console: Console, out: Path, stages: Sequence[str], is_dry: bool) -> list[Finding]:
    from .acceptance import accept as run_stages

    if not is_dry:
        import torch

        if not torch.cuda.is_available():
            raise ValueError("hfcnn kernels accept needs a GPU, and torch sees none here; --dry-run does not")
    with _progress(console) as progress:
        task = progress.add_task("", total=len(stages))

        def on_stage(name: str) -> None:
            progress.update(task, description=name, advance=1)

        return run_stages(out, is_dry, stages, on_stage)


@app.command()
def traffic(
    network: Annotated[str, typer.Option(help="cnn3 or cnn5.")] = "cnn3",
    images: Annotated[str, typer.Option(help="MNIST or CIFAR10: the size of an image.")] = "CIFAR10",
    markdown: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
) -> None:
    """Count operations and bytes of each op at each layer, fused and as torch's version; runs nothing."""
    from . import report_tables
    from .report_cases import IMAGES, cases

    if images not in IMAGES:
        raise typer.BadParameter(f"images must be one of {', '.join(IMAGES)}; got {images!r}")
    with _bad_parameters():
        selected = cases((network,), ("sm_90",), images=(images,))
    lines = report_tables.traffic_lines(
        case for case in selected if case.precision == "tf32" or case.op == "conv_value"
    )
    terminal(REPORT_WIDTH).print(report_tables.traffic_table(lines, f"{network}, {images}"))
    if markdown:
        markdown.write_text(report_tables.traffic_markdown(lines))

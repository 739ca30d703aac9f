"""``hfcnn kernels accept``: everything that a GPU must show, in ten minutes, stage by stage.

A stage runs in a process of its own, so that one which hangs or crashes ends alone, at its limit. Each
finding is a line of JSON, written when it is found. A dry run takes every stage on the CPU, with the kernels
in Triton's interpreter, on tiny shapes: it proves the command, not the GPU.
"""

from __future__ import annotations

import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from hfcnn.report import terminal_table

__all__ = ["STAGES", "Finding", "Stage", "accept", "findings_table", "read_findings"]


@dataclass(frozen=True)
class Finding:
    """One thing that a stage found.

    Attributes
    ----------
    stage, what : str
        Stage, and what it looked at.
    is_passed : bool or None
        Whether it is as it must be; None where it is a figure only.
    figures : dict of str to Any
        Numbers, by names that hold their units.
    note : str
        Why it failed, or what to know of it.
    """

    stage: str
    what: str
    is_passed: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    note: str = ""


class Stage(NamedTuple):
    """A stage: where its function is, its limit, and what it needs.

    Attributes
    ----------
    module, function : str
        A generator of findings that takes whether the run is dry.
    limit : float
        Seconds after which it is ended.
    must_finish : bool
        Whether being ended fails it; a stage that only times may be cut short.
    compiles : bool
        Whether it compiles kernels in a dry run too, which the interpreter would prevent.
    """

    module: str
    function: str
    limit: float
    must_finish: bool = True
    compiles: bool = False


#: How much longer a stage may take in a dry run, on a machine that may be busy and small.
DRY_PATIENCE = 5
_OPS, _STEPS = "hfcnn.kernels.tools.acceptance_ops", "hfcnn.benchmark.acceptance_steps"
#: Every stage, in order. The limits add up to less than ten minutes.
STAGES = {
    "versions": Stage(_OPS, "ceilings", 40),
    "compile": Stage(_OPS, "compile_all", 120, must_finish=False, compiles=True),
    "ops": Stage(_OPS, "check_ops", 120),
    "graphs": Stage(_STEPS, "check_graphs", 40),
    "kernels": Stage(_OPS, "time_kernels", 90, must_finish=False),
    "products": Stage(_STEPS, "check_products", 60, must_finish=False),
    "iteration": Stage(_STEPS, "profile_iteration", 60, must_finish=False),
    "fit": Stage(_STEPS, "compare_fits", 60),
}


def accept(out: Path, is_dry: bool, stages: Sequence[str], on_stage: Callable[[str], None]) -> list[Finding]:
    """Run stages one after the other.

    Parameters
    ----------
    out : Path
        Folder of ``findings.jsonl``, to which lines are added.
    is_dry : bool
        Whether to run on the CPU and in the interpreter, on tiny shapes.
    stages : sequence of str
        Names in `STAGES`.
    on_stage : callable
        Is given the name of each stage when it begins.

    Returns
    -------
    list of Finding
        Those of this run, and of each stage its seconds and how it ended.

    Raises
    ------
    ValueError
        If a stage is unknown.
    """
    for name in stages:
        if name not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}; got {name!r}")
    out.mkdir(parents=True, exist_ok=True)
    path = out / "findings.jsonl"
    start = len(read_findings(path))
    for name in stages:
        on_stage(name)
        began = time.perf_counter()
        ending, passed = _run(name, is_dry, path)
        seconds = round(time.perf_counter() - began, 1)
        _append(path, Finding(name, "stage", passed, {"seconds": seconds}, ending))
    return read_findings(path)[start:]


def _run(name: str, is_dry: bool, path: Path) -> tuple[str, bool | None]:
    """Run a stage in a process; say how it ended, and whether that will do."""
    stage = STAGES[name]
    before = os.environ.get("TRITON_INTERPRET")
    if is_dry and not stage.compiles:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)
    try:
        process = get_context("spawn").Process(target=_stage_process, args=(name, stage, is_dry, path))
        process.start()
    finally:
        os.environ.pop("TRITON_INTERPRET", None)
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before
    limit = stage.limit * (DRY_PATIENCE if is_dry else 1)
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return f"ended at its limit of {limit:g} s", False if stage.must_finish else None
    if process.exitcode:
        return f"its process ended with {process.exitcode}", False
    return "", True


def _stage_process(name: str, stage: Stage, is_dry: bool, path: Path) -> None:
    if is_dry:
        importlib.import_module("hfcnn.kernels.tools.interpreter").repair()
    run = getattr(importlib.import_module(stage.module), stage.function)
    for what, passed, figures, note in run(is_dry):
        _append(path, Finding(name, what, passed, figures, note))


def _append(path: Path, finding: Finding) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(finding), default=str) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_findings(path: Path) -> list[Finding]:
    """Read the findings that a file holds; none where there is no file."""
    if not path.exists():
        return []
    return [Finding(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def findings_table(findings: Iterable[Finding]) -> Any:
    """Build a rich table: of each stage, how many findings passed and failed, and what matters most."""
    lines = [_line(name, list(group)) for name, group in _by_stage(findings)]
    header = ("stage", "seconds", "passed", "failed", "remarks")
    return terminal_table("Acceptance", header, lines, left=("stage", "remarks"))


def _by_stage(findings: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.stage, []).append(finding)
    yield from groups.items()


def _line(name: str, group: list[Finding]) -> list[str]:
    rest = [finding for finding in group if finding.what != "stage"]
    ends = [finding for finding in group if finding.what == "stage"]
    failed = [finding for finding in group if finding.is_passed is False]
    remarks = [f"{finding.what}: {finding.note}" for finding in failed[:3]]
    remarks += [finding.note for finding in ends if finding.note and finding.is_passed is not False]
    if not remarks and rest:
        last = rest[-1]
        shown = ", ".join(f"{key} {_short(value)}" for key, value in list(last.figures.items())[:4])
        remarks = [f"{last.what}: {shown}" if shown else last.what]
    return [
        name,
        ", ".join(f"{finding.figures.get('seconds', 0):.0f}" for finding in ends),
        str(sum(finding.is_passed is True for finding in rest)),
        str(len(failed)),
        "; ".join(remarks),
    ]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

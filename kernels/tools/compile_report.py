"""Compile every kernel at every shape of the preset networks for real GPUs, on a machine without one.

What the interpreter cannot show: registers, spills, shared memory, and whether a dot reached the matrix
units. Beside them stand the bytes and operations counted from the shape, and the least time they take.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton

from ..launch import TARGETS, Launch, gpu_target
from .machine_code import MachineCode, compile_launch, compiler_environment
from .matrix_units import off_newest
from .report_cases import KernelCase
from .roofline import Gpu, Resources, gpu_of_arch, occupancy, roofline

__all__ = [
    "MAX_SPILL",
    "CompiledLaunch",
    "default_cache",
    "compile_cases",
    "compile_in_place",
    "compile_one",
    "faults",
    "source_hash",
]

#: Bytes of stack a thread above which a kernel fails even if no loop touches them: a few words cost nothing.
MAX_SPILL = 64
#: Raise it when `MachineCode` or how it is read changes: cached results are then dropped.
CACHE_FORMAT = 3


@dataclass(frozen=True)
class CompiledLaunch:
    """One launch of a case, compiled.

    Attributes
    ----------
    case : KernelCase
    kernel : str
        Name of the kernel.
    programs : int
        Programs of the launch.
    num_warps, num_stages : int
        As launched.
    flops, bytes_moved, bytes_unfused : int
        Counted from the shape: see `hfcnn.kernels.launch.Launch`.
    code : MachineCode
        What the compiler made of it.
    occupancy : float
        Resident warps over the most possible, estimated.
    roofline : float
        Least seconds on the target's GPU.
    bound : str
        What bounds it: "memory" or "arithmetic".
    issue : float or None
        Seconds that the target's GPU takes to issue the instructions of all programs, one for each of a
        unit's schedulers at every clock; None where they could not be counted.
    faults : tuple of str
        What fails it; empty if nothing.
    """

    case: KernelCase
    kernel: str
    programs: int
    num_warps: int
    num_stages: int
    flops: int
    bytes_moved: int
    bytes_unfused: int
    code: MachineCode
    occupancy: float
    roofline: float
    bound: str
    issue: float | None
    faults: tuple[str, ...]

    @property
    def predicted(self) -> float:
        """Seconds that it takes at least: those of the roofline, or those to issue its instructions."""
        return max(self.roofline, self.issue or 0.0)


def default_cache() -> Path:
    """Folder for results: ``hfcnn/compile-report`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "hfcnn", "compile-report")


def faults(target: str, code: MachineCode) -> tuple[str, ...]:
    """List what fails a kernel: an error, spills, shared memory, or a dot off the units it could use."""
    if code.error:
        return (code.error,)
    gpu = gpu_of_arch(target)
    found = []
    if code.spilled > MAX_SPILL:
        found.append(f"spills {code.spilled} bytes")
    if code.loop_spills:
        found.append(f"{code.loop_spills} instructions in loops for spilled registers")
    if code.shared > gpu.shared_per_block:
        found.append(f"{code.shared} bytes of shared memory, over {gpu.shared_per_block}")
    is_tf32 = any(precision.startswith("tf32") for precision in code.dots)
    if is_tf32 and not code.matrix:
        found.append("tf32 dot without matrix instructions")
    if target == "gfx942" and is_tf32 and any("xf32" not in name for name in code.matrix):
        found.append("tf32 dot without xf32 instructions")
    for one, is_possible in off_newest(target, code.units, is_tf32=is_tf32):
        if is_possible or one.unit == "FMA":
            found.append(f"a dot of {one.rows} rows and {one.columns} columns on {one.unit}")
    return tuple(found)


def compile_cases(
    selected: Iterable[KernelCase],
    *,
    cache: Path | None = None,
    jobs: int | None = None,
    only_cached: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CompiledLaunch]:
    """Compile the cases' launches, each specialisation once, in parallel processes.

    Parameters
    ----------
    selected : iterable of KernelCase
        What to compile.
    cache : Path or None
        Folder of results; None is `default_cache()`.
    jobs : int or None
        Processes; None is one a core.
    only_cached : bool, default=False
        Compile nothing; leave out what was not compiled before.
    on_progress : callable
        Called with how many specialisations are done, and how many there are to compile.

    Returns
    -------
    list of CompiledLaunch
        A row a launch, in the cases' order.
    """
    folder = cache or default_cache()
    folder.mkdir(parents=True, exist_ok=True)
    planned = [(case, index, launch) for case in selected for index, launch in enumerate(case.launches())]
    keys = [_key(launch, case.target, _scalars(case, launch)) for case, _, launch in planned]
    results = {key: code for key in keys if (code := _read(folder / f"{key}.json"))}
    missing = {
        key: (case, index)
        for key, (case, index, _) in zip(keys, planned, strict=True)
        if key not in results and not only_cached
    }
    on_progress(0, len(missing))
    for done, (key, code) in enumerate(_compile_all(missing, jobs or os.cpu_count() or 1), start=1):
        results[key] = code
        if not code.error:
            (folder / f"{key}.json").write_text(json.dumps(asdict(code)))
        on_progress(done, len(missing))
    return [
        _row(case, launch, results[key])
        for key, (case, _, launch) in zip(keys, planned, strict=True)
        if key in results
    ]


def _row(case: KernelCase, launch: Launch, code: MachineCode) -> CompiledLaunch:
    gpu = gpu_of_arch(case.target)
    precision = "fp64" if case.dtype == "fp64" else next(iter(code.dots), case.precision)
    n_bytes = launch.bytes_read + launch.bytes_written
    roof = roofline(gpu, launch.flops, n_bytes, precision)
    return CompiledLaunch(
        case=case,
        kernel=launch.kernel.__name__.strip("_").removesuffix("_kernel"),
        programs=math.prod(launch.grid),
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        flops=launch.flops,
        bytes_moved=n_bytes,
        bytes_unfused=launch.bytes_unfused,
        code=code,
        occupancy=occupancy(gpu, Resources(code.registers, code.shared, launch.num_warps)),
        roofline=roof.seconds,
        bound=roof.bound,
        issue=_issue_seconds(gpu, launch, code),
        faults=faults(case.target, code),
    )


def _issue_seconds(gpu: Gpu, launch: Launch, code: MachineCode) -> float | None:
    """Seconds to issue the instructions of all programs, of which some unit has the most."""
    if code.issued is None or not gpu.schedulers:
        return None
    programs = -(-math.prod(launch.grid) // gpu.units)
    return programs * launch.num_warps * code.issued / (gpu.schedulers * gpu.clock)


def _compile_all(missing: dict[str, tuple[KernelCase, int]], jobs: int) -> Iterator[tuple[str, MachineCode]]:
    """Compile in `jobs` processes; a specialisation that kills its process is tried alone, then given up."""
    left = dict(missing)
    with compiler_environment():
        for alone in (False, True):
            while left:
                batch = dict([next(iter(left.items()))]) if alone else dict(left)
                try:
                    for key, code in _compile_batch(batch, min(jobs, len(batch))):
                        del left[key]
                        yield key, code
                except BrokenProcessPool:
                    if not alone:
                        break
                    key = next(iter(batch))
                    del left[key]
                    yield key, MachineCode(error="the compiler ended its process")


def _compile_batch(batch: dict[str, tuple[KernelCase, int]], jobs: int) -> Iterator[tuple[str, MachineCode]]:
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(compile_one, *job): key for key, job in batch.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        # on an interrupt, what has not begun is not waited for
        pool.shutdown(cancel_futures=True)


def compile_one(case: KernelCase, index: int) -> MachineCode:
    """Compile a launch of a case for the case's target, which need not be there."""
    launch = case.launches()[index]
    return compile_launch(launch, TARGETS[case.target], _scalars(case, launch))


def compile_in_place(case: KernelCase, index: int) -> MachineCode:
    """Compile a launch of a case for this machine's GPU, into the cache that a run reads."""
    target = gpu_target()  # with as many multiprocessors as it has
    launch = case.launches(target)[index]
    return compile_launch(launch, target, _scalars(case, launch), in_place=True)


def _scalars(case: KernelCase, launch: Launch) -> dict[str, int]:
    """Values of the launch's integer arguments: images, rows (images times cotangents) or elements."""
    rows = case.n_images * max(1, case.n_outputs)
    known = {"n_images": case.n_images, "n": case.n_images, "n_rows": rows}
    return {name: known[name] for name, kind in launch.signature.items() if kind[0] == "i" and name in known}


def _key(launch: Launch, target: str, scalars: Mapping[str, int] | None = None) -> str:
    """Hash of all that the machine code and the counts of its instructions depend on."""
    parts = (
        CACHE_FORMAT,
        triton.__version__,
        target,
        launch.kernel.__name__,
        source_hash(launch.kernel.fn),
        list(launch.signature.items()),
        sorted((name, repr(value)) for name, value in launch.constexprs.items()),
        sorted((name, repr(value)) for name, value in launch.compile_options().items()),
        sorted((scalars or {}).items()),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@lru_cache
def source_hash(function: Any) -> str:
    """Hash of a Python function and of the Triton functions it calls, comments and docstrings left out."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    names = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
    digest = hashlib.sha256(ast.dump(tree).encode())
    for name in names:
        value = function.__globals__.get(name)
        if hasattr(value, "arg_names"):  # compiled or interpreted, it holds the Python function
            digest.update(source_hash(value.fn).encode())
    return digest.hexdigest()


def _read(file: Path) -> MachineCode | None:
    try:
        return MachineCode(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None

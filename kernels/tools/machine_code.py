"""Compile one launch for a GPU that need not be there, and read what the compiler made of it.

Triton, and the disassemblers inside its package, need no GPU to compile for one. A process whose Triton
was imported under TRITON_INTERPRET cannot compile; `compiler_environment` is for starting one that can.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loops import amd_spills_in_loops, hot_loop, issued, parse_machine_code, spills_in_loops
from .matrix_units import count_units
from .trip_counts import trip_counts

if TYPE_CHECKING:
    from ..launch import Launch, Target

__all__ = ["MachineCode", "compile_launch", "compiler_environment", "inspect_amdgcn", "inspect_cubin"]

#: Matrix instructions in NVIDIA's machine code: Ampere's, Hopper's and Blackwell's; DMMA is float64's.
SASS_MATRIX = re.compile(r"\b(UTC\w*MMA|HGMMA|HMMA|DMMA)[\w.]*")
#: AMD's matrix instructions; the operand type is the last part.
AMDGCN_MATRIX = re.compile(r"\bv_s?mfma_\w+")
#: Where the AMD back end of Triton 3.4 looks for a linker. Machine code is read before linking.
LINKER_VARIABLE = "TRITON_HIP_LLD_PATH"
LINKER = '#!/bin/sh\n[ "$1" = --version ] && echo none && exit\ncp "$4" "$6"\n'


@dataclass(frozen=True)
class MachineCode:
    """What the compiler made of one launch.

    Attributes
    ----------
    registers : int
        Registers a thread; accumulation registers included on AMD.
    spilled : int
        Bytes of stack a thread, which is where spilled registers go.
    shared : int
        Bytes of shared memory a program.
    matrix : mapping of str to int
        Matrix instructions found, and how many.
    dots : mapping of str to int
        `tl.dot`s in Triton's intermediate code by precision: "tf32", "tf32x3", "ieee" or "bf16".
    seconds : float
        Time to compile.
    error : str
        Why it did not compile; empty if it did.
    step : mapping of str to int
        Instructions of a turn of the hot loop, by class: "matrix", "memory", "integer" and "other". Empty on
        AMD, as are the next two.
    loads : mapping of str to int
        Loads from global memory in a turn of the hot loop, by their width in bits.
    issued : float or None
        Instructions that each warp issues in a program; None where the loops do not tell.
    units : mapping of str to int
        Dots by unit, shape and type: see `hfcnn.kernels.tools.matrix_units.count_units`.
    loop_spills : int
        Instructions within loops that write spilled registers to memory or read them back.
    """

    registers: int = 0
    spilled: int = 0
    shared: int = 0
    matrix: Mapping[str, int] = field(default_factory=dict)
    dots: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    step: Mapping[str, int] = field(default_factory=dict)
    loads: Mapping[str, int] = field(default_factory=dict)
    issued: float | None = None
    units: Mapping[str, int] = field(default_factory=dict)
    loop_spills: int = 0


@contextlib.contextmanager
def compiler_environment() -> Iterator[None]:
    """Set the environment in which child processes can compile, for the length of a ``with`` block.

    Unsets TRITON_INTERPRET, gives Triton a cache of its own that is removed afterwards, and stands in for
    the linker where there is none.
    """
    with tempfile.TemporaryDirectory(prefix="hfcnn-report-") as folder:
        linker = Path(folder, "ld.lld")
        linker.write_text(LINKER)
        linker.chmod(0o755)
        new: dict[str, str | None] = {"TRITON_INTERPRET": None, "TRITON_CACHE_DIR": folder}
        if LINKER_VARIABLE not in os.environ:
            new[LINKER_VARIABLE] = str(linker)
        old = {name: os.environ.get(name) for name in new}
        _set_environment(new)
        try:
            yield
        finally:
            _set_environment(old)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def compile_launch(
    launch: Launch, target: Target, scalars: Mapping[str, int] | None = None, *, in_place: bool = False
) -> MachineCode:
    """Compile a launch, specialised as the real launch on aligned tensors would be.

    Parameters
    ----------
    launch : Launch
        One of `hfcnn.kernels.launch.launches`, in a process without TRITON_INTERPRET.
    target : Target
        What it was planned for.
    scalars : mapping of str to int or None, default=None
        Values of the kernel's integer arguments, which the trips of its loops may depend on.
    in_place : bool, default=False
        Whether to compile by `Launch.compile`, for this machine's GPU.

    Returns
    -------
    MachineCode
        With `error` set where the compiler refuses.
    """
    start = time.perf_counter()
    try:
        compiled = launch.compile() if in_place else _compile(launch, target)
    except Exception as error:  # whatever a compiler raises is a finding, not a failure of the report
        return MachineCode(error=_reason(error), seconds=time.perf_counter() - start)
    seconds = time.perf_counter() - start
    shared, asm = int(compiled.metadata.shared), compiled.asm
    dots, units = count_dots(asm["ttir"]), dict(count_units(asm["ttgir"]))
    if "cubin" in asm:
        code, listing = inspect_cubin(asm["cubin"], shared=shared, dots=dots, seconds=seconds)
        instructions = parse_machine_code(listing)
        hot = hot_loop(instructions)
        times = issued(instructions, trip_counts(asm["ttir"], scalars or {}), launch.num_warps)
        spills = spills_in_loops(instructions)
        return replace(code, step=hot.step, loads=hot.loads, issued=times, units=units, loop_spills=spills)
    code = inspect_amdgcn(asm["amdgcn"], shared=shared, dots=dots, seconds=seconds)
    return replace(code, units=units)


def _compile(launch: Launch, target: Target) -> Any:
    """Triton's compiled kernel: the one place that knows how its versions take sources."""
    import triton
    from triton.backends.compiler import GPUTarget

    source = _source(launch)
    if target.backend == "hip":
        # as launched on tensors below 2 GiB, which lets the compiler use buffer instructions
        source.attrs = {key: [*value, ["tt.pointer_range", 32]] for key, value in source.attrs.items()}
    where = GPUTarget(target.backend, target.arch, target.warp_size)
    return triton.compile(source, target=where, options=launch.compile_options())


def _source(launch: Launch) -> Any:
    """Triton's source of a launch, pointers aligned to 16 bytes as torch's allocations are."""
    from triton.compiler import ASTSource

    names = list(launch.kernel.arg_names)
    types = {**launch.signature, **dict.fromkeys(launch.constexprs, "constexpr")}
    aligned = {
        (index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if types[name].startswith("*")
    }
    return ASTSource(
        fn=launch.kernel,
        signature={name: types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in launch.constexprs.items()},
        attrs=aligned,
    )


def _reason(error: Exception) -> str:
    """Last line of an error's text that says something, and its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ^\t")]
    return f"{type(error).__name__}: {''.join(lines[-1:])}"[:300]


def count_dots(ttir: str) -> Counter[str]:
    """Count the `tl.dot`s of Triton's intermediate code by their precision; operands of bfloat16 are one."""
    found: Counter[str] = Counter()
    for attributes, dtype in re.findall(r"\btt\.dot\b([^:\n]*) : tensor<\d+x\d+x(\w+)>", ttir):
        precision = re.search(r"inputPrecision = (\w+)", attributes)
        found["bf16" if dtype == "bf16" else precision[1] if precision else "ieee"] += 1
    return found


def inspect_cubin(
    cubin: bytes, *, shared: int, dots: Mapping[str, int], seconds: float
) -> tuple[MachineCode, str]:
    """Read registers and stack with cuobjdump, matrix instructions with nvdisasm; its listing is second.

    Parameters
    ----------
    cubin : bytes
        NVIDIA machine code of one kernel.
    shared, dots, seconds
        What is known already: see `MachineCode`.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run_tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = _run_tool("nvdisasm", "-c", file.name)
    registers, stack, static = (_integer(rf"\b{name}:(\d+)", usage) for name in ("REG", "STACK", "SHARED"))
    matrix = Counter(_short_name(match[0]) for match in SASS_MATRIX.finditer(sass))
    # the system's own 1 KiB is among cuobjdump's static bytes where Triton's are dynamic
    return MachineCode(registers, stack, max(shared, static), dict(matrix), dict(dots), seconds), sass


def inspect_amdgcn(amdgcn: str, *, shared: int, dots: Mapping[str, int], seconds: float) -> MachineCode:
    """Read registers, stack and matrix instructions from AMD's assembly.

    Parameters
    ----------
    amdgcn : str
        AMD assembly of one kernel, with its metadata.
    shared, dots, seconds
        What is known already: see `MachineCode`.
    """
    registers, scratch, spills, lds = (
        _integer(rf"\.{name}:\s*(\d+)", amdgcn)
        for name in (
            "vgpr_count",
            "private_segment_fixed_size",
            "vgpr_spill_count",
            "group_segment_fixed_size",
        )
    )
    matrix = Counter(match[0].removeprefix("v_") for match in AMDGCN_MATRIX.finditer(amdgcn))
    spilled = max(scratch, 4 * spills)
    code = MachineCode(registers, spilled, max(shared, lds), dict(matrix), dict(dots), seconds)
    return replace(code, loop_spills=amd_spills_in_loops(amdgcn))


def _run_tool(name: str, *arguments: str) -> str:
    """Output of one of NVIDIA's tools inside the Triton package."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    result = subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=True)
    return result.stdout


def _integer(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0


def _short_name(instruction: str) -> str:
    """HGMMA.64x64x8.F32.TF32 to HGMMA.TF32: which unit, and the type of its operands."""
    head, *rest = instruction.split(".")
    return ".".join([head, *(part for part in rest[-1:] if part in ("TF32", "BF16"))])

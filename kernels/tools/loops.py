"""Loops in NVIDIA's machine code: their instructions by class, and how many of them a program issues.

Triton's intermediate code has its loops with their bounds; the machine code has only jumps back. The two
trees of loops are matched, so that each loop of the machine code gets a trip count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .trip_counts import Nest

__all__ = [
    "HotLoop",
    "Instruction",
    "Loop",
    "amd_spills_in_loops",
    "class_of",
    "hot_loop",
    "issued",
    "loop_tree",
    "parse_machine_code",
    "spills_in_loops",
]

#: An instruction of nvdisasm's listing: predicate, name, operands.
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);")
LABEL = re.compile(r"^\s*(\.L\w+):")
TARGET = re.compile(r"\.L\w+")

AMD_LABEL = re.compile(r"^(\.L\w+):")
AMD_JUMP = re.compile(r"\bs_c?branch\w*\s+(\.L\w+)")
AMD_SPILL = re.compile(r"\bscratch_(load|store)")

#: What instructions are for, by the start of their names; the first that fits counts.
CLASSES = {
    "matrix": re.compile(r"HGMMA|HMMA|DMMA|IMMA|QGMMA|UTC\w*MMA"),
    "memory": re.compile(r"LDG|LDS|LDL|STG|STS|STL|LDTM|STTM|UTMA|UBLKCP|RED|ATOM"),
    "integer": re.compile(
        r"U?(IMAD|IADD|LEA|SHF|LOP3|IABS|IMNMX|VIADD|VIMNMX|PRMT|SEL|MOV|ISETP|PLOP3|SGXT|BMSK|FLO"
        r"|R2UR|P2R|R2P|S2R|S2UR|CS2R|I2F|F2I|IDP|POPC)"
    ),
}


@dataclass(frozen=True)
class Instruction:
    """Name of a machine instruction, and the index that it jumps to, if it jumps."""

    name: str
    target: int | None = None


@dataclass(frozen=True)
class Loop:
    """Instructions from the first to the last of a loop in machine code, and the loops within."""

    first: int
    last: int
    inner: tuple[Loop, ...] = ()


def class_of(name: str) -> str:
    """Class of an instruction: "matrix", "memory", "integer" or "other"."""
    return next((kind for kind, pattern in CLASSES.items() if pattern.match(name)), "other")


def parse_machine_code(text: str) -> list[Instruction]:
    """Read the instructions of nvdisasm's listing, with their jumps.

    What stands after the instruction that ends the program is left out: padding, and the turns of a wait
    that is seldom taken.
    """
    labels: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    length = 0
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(found)
        elif match := INSTRUCTION.search(line):
            found.append((match[2], match[3]))
            if match[2] == "EXIT" and not match[1]:
                length = len(found)
    return [
        Instruction(
            name, labels.get(goal[0]) if name.startswith("BRA") and (goal := TARGET.search(rest)) else None
        )
        for name, rest in found[:length]
    ]


def loop_tree(code: Sequence[Instruction]) -> tuple[Loop, ...]:
    """Find the loops, outermost first; those that only wait, without memory or matrix work, are left out."""
    ends: dict[int, int] = {}
    for index, instruction in enumerate(code):
        if instruction.target is not None and instruction.target <= index:
            ends[instruction.target] = max(index, ends.get(instruction.target, 0))
    works = {
        (first, last)
        for first, last in ends.items()
        if any(class_of(one.name) in ("matrix", "memory") for one in code[first : last + 1])
    }
    return _within(sorted(works, key=lambda span: (span[0], -span[1])))


def _within(spans: Sequence[tuple[int, int]]) -> tuple[Loop, ...]:
    loops: list[Loop] = []
    rest = list(spans)
    while rest:
        first, last = rest.pop(0)
        inner = [span for span in rest if span[1] <= last]
        rest = [span for span in rest if span[1] > last]
        loops.append(Loop(first, last, _within(inner)))
    return tuple(loops)


def spills_in_loops(code: Sequence[Instruction]) -> int:
    """Count the instructions within loops that move registers to a thread's own memory, or back."""
    inside = {i for loop in loop_tree(code) for i in range(loop.first, loop.last + 1)}
    return sum(code[i].name.startswith(("LDL", "STL")) for i in inside)


def amd_spills_in_loops(amdgcn: str) -> int:
    """Count the same in AMD's assembly."""
    labels: dict[str, int] = {}
    spills: list[int] = []
    inside: set[int] = set()
    for number, line in enumerate(amdgcn.splitlines()):
        if label := AMD_LABEL.match(line):
            labels[label[1]] = number
        elif jump := AMD_JUMP.search(line):
            inside.update(range(labels.get(jump[1], number), number))
        elif AMD_SPILL.search(line):
            spills.append(number)
    return sum(number in inside for number in spills)


def issued(code: Sequence[Instruction], kernel: Nest, num_warps: int) -> float | None:
    """Count the instructions that a warp issues in a program; None where the loops do not tell.

    Parameters
    ----------
    code : sequence of Instruction
        Of `parse_machine_code`.
    kernel : Nest
        Of `hfcnn.kernels.tools.trip_counts.trip_counts`.
    num_warps : int
        Warps of a program.
    """
    tree = loop_tree(code)
    times = _match(code, tree, kernel.inner, num_warps)
    if times is None:
        return None
    return _count(tree, times, len(code))


def _count(tree: Sequence[Loop], times: Mapping[Loop, float], length: float) -> float:
    """Instructions of a stretch of code in which each loop's own are counted as often as it runs."""
    total = length - sum(loop.last - loop.first + 1 for loop in tree)
    for loop in tree:
        total += times[loop] * _count(loop.inner, times, loop.last - loop.first + 1)
    return total


def _match(
    code: Sequence[Instruction], tree: Sequence[Loop], found: Sequence[Nest], num_warps: int
) -> dict[Loop, float] | None:
    """Give each loop of the machine code the trips of its nest, in order; nests without one are unrolled."""
    if not tree:
        return {}
    for chosen in _choices(list(found), len(tree)):
        times: dict[Loop, float] = {}
        for loop, nest in zip(tree, chosen, strict=True):
            inner = _match(code, loop.inner, nest.inner, num_warps)
            names = [code[i].name for i in range(loop.first, loop.last + 1)]
            has_matrix = any(class_of(name) == "matrix" for name in names)
            if inner is None or nest.trips is None or (has_matrix and not nest.has_dots):
                break
            times |= {**inner, loop: nest.trips / _unrolled(code, loop, nest, num_warps)}
        else:
            return times
    return None


def _choices(found: list[Nest], count: int) -> Iterator[list[Nest]]:
    """Choose `count` nests in order; one that is passed over gives way to those within."""
    if count == 0:
        yield []
    elif found:
        for rest in _choices(found[1:], count - 1):
            yield [found[0], *rest]
        yield from _choices([*found[0].inner, *found[1:]], count)


def _unrolled(code: Sequence[Instruction], loop: Loop, nest: Nest, num_warps: int) -> int:
    """Steps of the nest in a turn of the loop, told by its matrix instructions; 1 where they do not tell."""
    if not nest.dots or loop.inner:
        return 1
    names = Counter(code[i].name for i in range(loop.first, loop.last + 1))
    done = sum(count * size for name, count in names.items() if (size := _matrix_size(name, num_warps)))
    return max(1, round(done / sum(nest.dots)))


def _matrix_size(name: str, num_warps: int) -> int:
    """Multiply-adds of a matrix instruction that all warps issue; 0 where its name has no size."""
    if match := re.match(r"HGMMA\.64x(\d+)x(\d+)", name):
        return 64 * int(match[1]) * int(match[2]) * num_warps // 4
    sizes = {"16816": 2048, "1688": 1024, "1684": 512, "884": 256, "16832": 4096}
    if match := re.match(r"[HDI]MMA\.(\d+)", name):
        return sizes.get(match[1], 0) * num_warps
    return 0


@dataclass(frozen=True)
class HotLoop:
    """The loop that takes most of a program's instructions.

    Attributes
    ----------
    step : dict of str to int
        Instructions of one turn by class: "matrix", "memory", "integer", "other".
    loads : dict of str to int
        Loads from global memory in one turn by their width in bits: "128", "32", "8".
    """

    step: dict[str, int]
    loads: dict[str, int]


def hot_loop(code: Sequence[Instruction]) -> HotLoop:
    """Find the innermost loop with most matrix instructions, or else the longest, or else all the code."""

    def innermost(tree: Sequence[Loop]) -> Iterator[Loop]:
        for loop in tree:
            yield from innermost(loop.inner) if loop.inner else (loop,)

    def weight(loop: Loop) -> tuple[int, int]:
        names = [one.name for one in code[loop.first : loop.last + 1]]
        return sum(class_of(name) == "matrix" for name in names), len(names)

    loop = max(innermost(loop_tree(code)), key=weight, default=Loop(0, len(code) - 1))
    names = [one.name for one in code[loop.first : loop.last + 1]]
    step = Counter(class_of(name) for name in names)
    loads = Counter(_width(name) for name in names if name.startswith("LDG") and name != "LDGDEPBAR")
    return HotLoop(
        {kind: step[kind] for kind in (*CLASSES, "other")},
        dict(sorted(loads.items(), key=lambda item: -int(item[0]))),
    )


def _width(load: str) -> str:
    """Bits of a load of one thread."""
    match = re.search(r"\.(128|64)\b|\.[US](16|8)\b", load)
    return (match[1] or match[2]) if match else "32"

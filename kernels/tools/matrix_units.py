"""Which unit multiplies each dot of a kernel, and whether it is the newest that the dot's shape allows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["LEAST_ROWS", "NEWEST_UNITS", "Product", "count_units", "off_newest", "products"]

#: The newest matrix instructions of each target, by the start of their names.
NEWEST_UNITS = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA", "gfx942": "MFMA"}
#: Rows of a product that the newest instructions need: a warp group's, or tensor memory's.
LEAST_ROWS = {"HGMMA": 64, "UTCHMMA": 64}

#: A dot of Triton's code for a GPU, after it has chosen the units, and the layouts that say which they are.
DOT = re.compile(r"\b(ttng\.warp_group_dot|ttng\.tc_gen5_mma|tt\.dot) (.*)")
LAYOUT = re.compile(r"^(#\w+) = #ttg\.(\w+)<")
OPERAND = re.compile(r"<(\d+)x(\d+)x([a-z]\w*),")
RESULT = re.compile(r"-> tensor<[^#]*(#\w+)")
UNIT_OF_DOT = {"ttng.warp_group_dot": "HGMMA", "ttng.tc_gen5_mma": "UTCHMMA"}
#: The unit of a `tt.dot` by the layout of its result; others multiply on no matrix unit.
LAYOUT_UNITS = {"nvidia_mma": "HMMA", "amd_mfma": "MFMA"}


class Product(NamedTuple):
    """A dot: the unit that computes it, the sides of its result, and the type of its operands."""

    unit: str
    rows: int
    columns: int
    dtype: str


def count_units(ttgir: str) -> Counter[str]:
    """Count the dots of Triton's code for a GPU by unit, shape and type, such as "HGMMA 64x32 f32".

    A dot that is multiplied on no matrix unit is "FMA". Stages of a pipeline and parts of a precision are
    counted each by itself.
    """
    layouts = {match[1]: match[2] for line in ttgir.splitlines() if (match := LAYOUT.match(line))}
    found: Counter[str] = Counter()
    for match in DOT.finditer(ttgir):
        operands, result = OPERAND.findall(match[2]), RESULT.search(match[2])
        layout = layouts.get(result[1], "") if result else ""
        unit = UNIT_OF_DOT.get(match[1]) or LAYOUT_UNITS.get(layout, "FMA")
        found[f"{unit} {operands[0][0]}x{operands[1][1]} {operands[0][2]}"] += 1
    return found


def products(units: Mapping[str, int]) -> list[Product]:
    """Read the keys of `count_units`."""
    found = []
    for key in units:
        unit, shape, dtype = key.split(" ")
        rows, columns = shape.split("x")
        found.append(Product(unit, int(rows), int(columns), dtype))
    return found


def off_newest(target: str, units: Mapping[str, int], *, is_tf32: bool) -> list[tuple[Product, bool]]:
    """List the dots in tf32 and bfloat16 off the target's newest unit, each with whether its shape allows it.

    Parameters
    ----------
    target : str
        One of `NEWEST_UNITS`.
    units : mapping of str to int
        Of `count_units`.
    is_tf32 : bool
        Whether the kernel's dots of float32 are in tf32 or tf32x3.
    """
    newest = NEWEST_UNITS[target]
    return [
        (one, one.rows >= LEAST_ROWS.get(newest, 0))
        for one in products(units)
        if one.unit != newest and (one.dtype == "bf16" or (is_tf32 and one.dtype == "f32"))
    ]

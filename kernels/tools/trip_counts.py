"""How often the loops of a kernel run, read from Triton's intermediate code.

Its integer arithmetic is followed as far as constants, the launch's integer arguments and the first program's
number go: that is what the bounds of the kernels' loops are made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["Nest", "trip_counts"]


@dataclass
class Nest:
    """A loop of Triton's intermediate code.

    Attributes
    ----------
    trips : int or None
        How often it runs where it is reached; None where its bounds are not known.
    dots : list of int
        Multiply-adds of each of its own `tl.dot`s, a tf32x3 one counted three times.
    inner : list of Nest
        The loops within.
    """

    trips: int | None
    dots: list[int] = field(default_factory=list)
    inner: list[Nest] = field(default_factory=list)

    @property
    def has_dots(self) -> bool:
        """Whether a `tl.dot` stands in it or in a loop within."""
        return bool(self.dots) or any(nest.has_dots for nest in self.inner)


def trip_counts(ttir: str, scalars: Mapping[str, int]) -> Nest:
    """Read the loops of a kernel, with the trip counts of a launch's first program.

    Parameters
    ----------
    ttir : str
        Intermediate code of one kernel.
    scalars : mapping of str to int
        Values of its integer arguments, by name.

    Returns
    -------
    Nest
        The kernel, run once, with its loops within.
    """
    values: dict[str, int] = {f"%{name}": value for name, value in scalars.items()}
    root = Nest(1)
    stack: list[Nest | None] = [root]  # None for a region that is no loop
    for line in ttir.partition("tt.func")[2].partition("\n")[2].splitlines():
        text = line.partition(" loc(")[0].strip()
        holder = next(nest for nest in reversed(stack) if nest is not None)
        if match := re.search(r"scf\.for (%\w+) = (%\w+) to (%\w+) step (%\w+)", text):
            low, high, step = (values.get(match[i]) for i in (2, 3, 4))
            known = low is not None and high is not None and step
            nest = Nest(max(0, -(-(high - low) // step)) if known else None)  # type: ignore[operator]
            if low is not None:
                values[match[1]] = low
            holder.inner.append(nest)
            stack.append(nest)
        elif text.startswith("} else"):
            continue
        elif text.startswith("}"):
            if len(stack) > 1:
                stack.pop()
        elif text.endswith("{"):
            loops = "scf.while" in text
            nest_or_none = Nest(None) if loops else None
            if nest_or_none is not None:
                holder.inner.append(nest_or_none)
            stack.append(nest_or_none)
        elif "tt.dot " in text:
            holder.dots.append(_multiply_adds(text))
        elif match := re.match(r"(%\w+) = (arith\.\w+|tt\.get_program_id) ?(.*)", text):
            value = _scalar(match[2], match[3], values)
            values.pop(match[1], None)
            if value is not None:
                values[match[1]] = value
    return root


def _multiply_adds(dot: str) -> int:
    sizes = re.findall(r"tensor<(\d+)x(\d+)x\w+>", dot)
    (rows, depth), (_, columns) = sizes[:2]
    return int(rows) * int(depth) * int(columns) * (3 if "tf32x3" in dot else 1)


def _scalar(op: str, rest: str, values: Mapping[str, int]) -> int | None:
    """Value of an integer operation on known scalars; None where it is not known, or of a tensor."""
    if op == "tt.get_program_id":
        return 0
    head, _, kind = rest.rpartition(" : ")
    if "tensor" in kind:
        return None
    if op == "arith.constant":
        return int(head) if re.fullmatch(r"-?\d+", head) else {"true": 1, "false": 0}.get(head)
    names = re.findall(r"%\w+", head)
    if any(name not in values for name in names):
        return None
    operands = [values[name] for name in names]
    if op == "arith.cmpi":
        return _compare(head.split(",")[0].strip(), *operands)
    if op not in OPERATIONS or (op in DIVISIONS and operands[1] == 0):
        return None
    return OPERATIONS[op](*operands)


OPERATIONS: dict[str, Callable[..., int]] = {
    "arith.addi": lambda a, b: a + b,
    "arith.subi": lambda a, b: a - b,
    "arith.muli": lambda a, b: a * b,
    "arith.divsi": lambda a, b: int(a / b),
    "arith.divui": lambda a, b: a // b,
    "arith.remsi": lambda a, b: a - b * int(a / b),
    "arith.remui": lambda a, b: a % b,
    "arith.ceildivsi": lambda a, b: -(-a // b),
    "arith.minsi": min,
    "arith.maxsi": max,
    "arith.minui": min,
    "arith.maxui": max,
    "arith.extsi": lambda a: a,
    "arith.extui": lambda a: a,
    "arith.trunci": lambda a: a,
    "arith.select": lambda c, a, b: a if c else b,
}
DIVISIONS = ("arith.divsi", "arith.divui", "arith.remsi", "arith.remui", "arith.ceildivsi")


def _compare(how: str, a: int, b: int) -> int | None:
    result = {"slt": a < b, "sle": a <= b, "sgt": a > b, "sge": a >= b, "eq": a == b, "ne": a != b}.get(how)
    return None if result is None else int(result)

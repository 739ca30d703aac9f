"""Pickles of arrays, read without Python's unpickler: no class is looked up, nothing is called.

The few opcodes that hold arrays, numbers, text, lists and dicts are carried out here, on values that are only
recorded; whatever else a pickle asks for is refused. So a pickle can neither run code nor reach the parts of
the C unpickler that trust it: the memo's size, the lengths, the hash of a deep tuple.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import Budget, DatasetError

__all__ = ["as_array", "decoded", "text_array", "unpickle"]

#: Most opcodes of a pickle, lest millions of empty lists of one byte each become gigabytes. CIFAR-100 has a
#: quarter of a million, an array of objects two or three per object.
MOST_OPCODES = 1 << 21

#: Memory that an opcode takes at most: of an empty dict and its place on the stack.
BYTES_PER_OPCODE = 80

#: Most entries of a dict.
MOST_KEYS = 1000

#: Most characters of a number or name that is written as text.
LONGEST_LINE = 1000

#: Most bytes of an array of text: 256 MiB.
MOST_TEXT = 1 << 28

#: Functions and types that arrays are made by, whatever numpy and Python call their modules.
_KNOWN = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    # numpy 2 moved numpy.core to numpy._core; files hold either name
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy.core.numeric", "_frombuffer"): "buffer",
    ("numpy._core.numeric", "_frombuffer"): "buffer",
    ("_codecs", "encode"): "encode",
}


class _Known(str):
    """A name of `_KNOWN` on the stack."""


class _Recorded:
    """What a pickle asks to make: its arguments and the state it gives, with nothing done."""

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        self.kind = kind
        self.arguments = arguments
        self.state: Any = None


_MARK = object()

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, data: bytes, most_opcodes: int) -> None:
        self.most_opcodes = most_opcodes
        self.file = io.BytesIO(data)
        self.size = len(data)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.n_encoded = 0

    def run(self) -> Any:
        """Carry out the opcodes up to the last, and return what is then on the stack."""
        for _ in range(self.most_opcodes):
            code = self.file.read(1).decode("latin1")
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise ValueError(f"no opcode {code!r}" if code else "it ends too early")
            if opcode.name == "STOP":
                return self.stack.pop()
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise DatasetError(f"asks for the opcode {opcode.name}")
            action(self, self._argument(opcode))
        raise DatasetError(f"asks for more than {self.most_opcodes} opcodes, which max_bytes limits")

    def _argument(self, opcode: Any) -> Any:
        """Read what follows an opcode; lengths are compared with what there is before anything is made."""
        if opcode.arg is None:
            return None
        if opcode.name == "FRAME":
            if int.from_bytes(self.file.read(8), "little") > self.size - self.file.tell():
                raise ValueError("a frame longer than the pickle")
            return None
        if opcode.name in ("STRING", "UNICODE"):
            line = self._line(self.size)
            return line if opcode.name == "STRING" else line.decode("raw-unicode-escape")
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            position = self.file.tell()
            for _ in range(2 if opcode.name == "GLOBAL" else 1):
                self._line(LONGEST_LINE)
            self.file.seek(position)
        return opcode.arg.reader(self.file)

    def _line(self, longest: int) -> bytes:
        line = self.file.readline(longest + 1)
        if not line.endswith(b"\n"):
            raise ValueError("a line that does not end")
        return line[:-1]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take a value off the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is expected")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take all values above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def top(self, kind: type) -> Any:
        """Look at the value on top of the stack, which must be of a kind."""
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__} where one is expected")
        return self.stack[-1]

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values into the dict on top."""
        target = self.top(dict)
        if len(items) % 2 or len(target) + len(items) // 2 > MOST_KEYS:
            raise ValueError(f"a dict of too many or of odd entries; at most {MOST_KEYS} are read")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes, int):
                raise ValueError(f"a dict with a key of type {type(key).__name__}")
            target[key] = value

    def find(self, module: Any, name: Any) -> None:
        """Look up one of the few known names."""
        if (module, name) not in _KNOWN:
            raise DatasetError(f"asks for {str(module)[:80]}.{str(name)[:80]}")
        self.push(_Known(_KNOWN[module, name]))

    def reduce(self, _: None) -> None:
        """Record a call; only text that holds bytes becomes bytes again."""
        arguments, function = self.pop(), self.pop()
        if type(function) is not _Known or type(arguments) is not tuple or function == "ndarray":
            raise DatasetError(f"asks for a call of {type(function).__name__} {str(function)[:80]}")
        if function != "encode":
            self.push(_Recorded(str(function), arguments))
            return
        # as Python 3 writes bytes into protocols 0 to 2
        text, encoding = arguments
        if encoding != "latin1":
            raise DatasetError(f"asks for the encoding {str(encoding)[:80]}")
        self.n_encoded += len(text)
        if self.n_encoded > self.size:
            raise DatasetError("asks for the same text as bytes again and again")
        self.push(text.encode("latin1"))

    def build(self, _: None) -> None:
        """Give what is recorded its state."""
        state = self.pop()
        self.top(_Recorded).state = state

    def append(self, values: list[Any]) -> None:
        """Lengthen the list on top."""
        self.top(list).extend(values)

    def put(self, index: int | None) -> None:
        """Remember the value on top, by a number or by the next one."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def take(self, n: int) -> None:
        """Make a tuple of the n values on top."""
        self.push(tuple([self.pop() for _ in range(n)][::-1]))


def _quoted(line: bytes) -> bytes:
    """Text of Python 2 in protocol 0: quoted, with escapes."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("text without quotes")
    return codecs.escape_decode(line[1:-1])[0]


def _value(machine: _Machine, argument: Any) -> None:
    machine.push(argument)


_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "MARK": lambda m, a: m.push(_MARK),
    "POP": lambda m, a: m.stack.pop(),
    "POP_MARK": lambda m, a: m.pop_to_mark(),
    "DUP": lambda m, a: m.push(m.stack[-1]),
    "NONE": lambda m, a: m.push(None),
    "NEWTRUE": lambda m, a: m.push(True),
    "NEWFALSE": lambda m, a: m.push(False),
    **dict.fromkeys(("INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "FLOAT", "BINFLOAT"), _value),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _value),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _value),
    # text of Python 2 is bytes
    "STRING": lambda m, a: m.push(_quoted(a)),
    "BINSTRING": lambda m, a: m.push(a.encode("latin1")),
    "SHORT_BINSTRING": lambda m, a: m.push(a.encode("latin1")),
    "EMPTY_LIST": lambda m, a: m.push([]),
    "EMPTY_DICT": lambda m, a: m.push({}),
    "EMPTY_TUPLE": lambda m, a: m.push(()),
    "LIST": lambda m, a: m.push(m.pop_to_mark()),
    "TUPLE": lambda m, a: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, a: m.take(1),
    "TUPLE2": lambda m, a: m.take(2),
    "TUPLE3": lambda m, a: m.take(3),
    "APPEND": lambda m, a: m.append([m.pop()]),
    "APPENDS": lambda m, a: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, a: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, a: m.set_items(m.pop_to_mark()),
    "GLOBAL": lambda m, a: m.find(*a.split(" ", 1)),
    "STACK_GLOBAL": lambda m, a: m.find(*[m.pop(), m.pop()][::-1]),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.push(m.memo[a])),
}


def _dict(machine: _Machine, _: None) -> None:
    items = machine.pop_to_mark()
    machine.push({})
    machine.set_items(items)


_ACTIONS["DICT"] = _dict


def unpickle(data: bytes, budget: Budget) -> Any:
    """What a pickle of protocol 0 to 5 holds; arrays as records that `as_array` makes arrays of.

    Raises
    ------
    DatasetError
        If it asks for anything but arrays, bytes, text, numbers, tuples, lists and dicts.
    Exception
        Almost any, if it is damaged.
    """
    return _Machine(data, min(MOST_OPCODES, budget.left // BYTES_PER_OPCODE)).run()


def decoded(value: Any) -> Any:
    """Text of Python 3, and of Python 2, whose text is bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def as_array(value: Any, what: str) -> NDArray[Any]:
    """Make the array that was recorded, or one of a flat list: of numbers, or of text.

    Raises
    ------
    TypeError, ValueError
        If it is none, or of other things; `what` names it in the message.
    """
    if type(value) is list:
        return _flat(value, f"{what} of type object")
    if not isinstance(value, _Recorded):
        raise TypeError(f"{what}: no array where one is expected")
    if value.kind == "array":
        _, shape, dtype, is_fortran, raw = value.state
    elif value.kind == "buffer":
        raw, dtype, shape, order = value.arguments
        is_fortran = order == "F"
    else:
        raise TypeError(f"{what}: a {value.kind} where an array is expected")
    name, byte_order = decoded(dtype.arguments[0]), decoded(dtype.state[1])
    if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape):
        raise TypeError(f"{what}: an array whose shape is no tuple of sizes")
    if name in ("O8", "O4", "O") and type(raw) is list:
        numbers = _flat(raw, f"{what}: an array of type O")
    elif re.fullmatch(r"[biuf][1248]", name) is None:
        raise TypeError(f"{what}: an array of type {name[:20]}")
    elif type(raw) not in (bytes, bytearray):
        raise TypeError(f"{what}: an array whose numbers are no bytes")
    else:
        numbers = np.frombuffer(raw, np.dtype(name).newbyteorder(byte_order))
    return numbers.reshape(shape, order="F" if is_fortran else "C")


def _flat(values: list[Any], what: str) -> NDArray[Any]:
    """Make an array of a list that holds nothing but numbers, or nothing but text."""
    kinds = {type(value) for value in values}
    if kinds <= {int, bool, float}:
        if any(type(value) is int and abs(value) >= 1 << 63 for value in values):
            raise TypeError(f"{what}, of numbers beyond 64 bits")
        return np.asarray(values)
    if kinds <= {str, bytes}:
        texts = [decoded(value) for value in values]
        # each element of an array takes as much as the longest
        if 4 * max(map(len, texts)) * len(texts) > MOST_TEXT:
            raise TypeError(f"{what}, of text that takes more than {MOST_TEXT} bytes")
        return np.asarray(texts)
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise TypeError(f"{what}, of {names}; only numbers alone or text alone are read")


def text_array(data: bytes | bytearray, source: str, budget: Budget) -> NDArray[Any]:
    """Make an array of the pickle that numpy writes for an array of objects: text, or numbers.

    Raises
    ------
    DatasetError
        If it is damaged, or holds anything else.
    """
    try:
        return as_array(unpickle(bytes(data), budget), "objects")
    except Exception as error:
        raise DatasetError(
            f"{source}: objects that are no plain text or numbers ({type(error).__name__}: {error})"
        ) from error

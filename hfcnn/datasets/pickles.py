"""Pickles of arrays, read without running anything that they ask for."""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import DatasetError

__all__ = ["as_array", "decoded", "unpickle"]


class _Recorded:
    """What a pickle asks to make: the arguments and the state it gives, with nothing done."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reconstruct(_Recorded):
    """An array as protocols 0 to 4 hold it."""


class _FromBuffer(_Recorded):
    """An array as protocol 5 holds it."""


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler of arrays, bytes, text, lists and dicts that calls no function of any other module.

    Not even numpy's: its own restoring functions trust what the pickle says of types.
    """

    _ALLOWED = {
        ("numpy", "ndarray"): _Recorded,
        ("numpy", "dtype"): _Recorded,
        # numpy 2 moved numpy.core to numpy._core; files hold either name
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
        ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) not in self._ALLOWED:
            raise DatasetError(f"asks for {module}.{name}")
        return self._ALLOWED[module, name]


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, by which Python 3 writes bytes into old pickle protocols."""
    if encoding != "latin1":
        raise DatasetError(f"asks for the encoding {encoding}")
    return text.encode("latin1")


def decoded(value: Any) -> Any:
    """Text of Python 3, and of Python 2, whose text is bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def as_array(value: Any) -> NDArray[Any]:
    """Make the array that was recorded; numbers only."""
    if isinstance(value, _Reconstruct):
        _, shape, dtype, is_fortran, raw = value.state
    elif isinstance(value, _FromBuffer):
        raw, dtype, shape, order = value.arguments
        is_fortran = order == "F"
    elif isinstance(value, list):
        return np.asarray(value)
    else:
        raise TypeError("no array where one is expected")
    name, byte_order = decoded(dtype.arguments[0]), decoded(dtype.state[1])
    if re.fullmatch(r"[biuf][1248]", name) is None:
        raise TypeError(f"an array of type {name}")
    numbers = np.frombuffer(raw, np.dtype(name).newbyteorder(byte_order))
    return numbers.reshape(shape, order="F" if is_fortran else "C")


def unpickle(data: bytes) -> Any:
    """What a pickle holds; arrays as records that `as_array` makes arrays of."""
    return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()

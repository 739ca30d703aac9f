"""Values as model files hold them: plain JSON that says what it was, and nothing that could run."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hfcnn.layers import LAYER_KINDS, LayerDescription
from hfcnn.network import Network

__all__ = ["decode_value", "encode_value"]

#: Types of arrays in a header: truth values, numbers, strings and objects of those.
ARRAY_TYPES = re.compile(r"[<>|=]?([biufUO])(\d*)")

#: Most bytes that an array of strings may take, whose type alone says how long they may be.
STRING_BYTES = 2**26


def encode_value(value: Any) -> Any:
    """Turn a value into what JSON can hold, so that `decode_value` gives it back with its type.

    Raises
    ------
    TypeError
        If it is of a type that a model file cannot hold.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, LayerDescription):
        return {
            "layer": type(value).__name__,
            "values": {k: encode_value(v) for k, v in asdict(value).items()},
        }
    if isinstance(value, Network):
        return {
            "network": [encode_value(spec) for spec in value.specs],
            "input_shape": list(value.input_shape),
            "n_outputs": value.n_outputs,
        }
    if isinstance(value, tuple):
        return {"tuple": [encode_value(item) for item in value]}
    if isinstance(value, list):
        return [encode_value(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode_value(k), encode_value(v)] for k, v in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        return {"array": [encode_value(item) for item in value.tolist()], "dtype": value.dtype.str}
    raise TypeError(f"a model file cannot hold {value!r} of type {type(value).__name__}")


def decode_value(value: Any) -> Any:
    """Turn back what `encode_value` made.

    Raises
    ------
    ValueError, TypeError, KeyError
        If it is something else.
    """
    if isinstance(value, list):
        return [decode_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"layer", "values"}:
        kind = LAYER_KINDS[value["layer"]]
        return kind(**{name: decode_value(item) for name, item in value["values"].items()})
    if value.keys() == {"network", "input_shape", "n_outputs"}:
        specs = [decode_value(spec) for spec in _a(list, value["network"])]
        shape = tuple(_a(int, size) for size in _a(list, value["input_shape"]))
        return Network(specs, shape, _a(int, value["n_outputs"]))
    if value.keys() == {"tuple"}:
        return tuple(decode_value(item) for item in _a(list, value["tuple"]))
    if value.keys() == {"dict"}:
        return {decode_value(key): decode_value(item) for key, item in _a(list, value["dict"])}
    if value.keys() == {"array", "dtype"}:
        return _decode_array(_a(list, value["array"]), _a(str, value["dtype"]))
    raise ValueError(f"nothing has the keys {', '.join(map(repr, value))}")


def _decode_array(items: list[Any], dtype: str) -> NDArray[Any]:
    match = ARRAY_TYPES.fullmatch(dtype)
    if match is None:
        raise ValueError(f"there is no array of type {dtype!r}")
    kind, size = match.groups()
    allowed = {"U": (str,), "O": (str, int, float), "b": (bool,)}.get(kind, (int, float))
    if not all(isinstance(item, allowed) for item in items):
        raise ValueError(f"an array of type {dtype!r} holds something else")
    if kind == "U" and 4 * int(size or 0) * len(items) > STRING_BYTES:
        raise ValueError(f"an array of type {dtype!r} would be larger than {STRING_BYTES} bytes")
    return np.array(items, dtype=np.dtype(dtype))


def _a(kind: type[Any], value: Any) -> Any:
    """The value, if it is of a type."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value

"""Options that several commands have, and how the text that is typed becomes a value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hfcnn.layers import LayerDescription

__all__ = [
    "BackendName",
    "DataPath",
    "DeviceName",
    "MaxBytes",
    "ModelPath",
    "PrecisionName",
    "SplitName",
    "parse_bytes",
    "parse_limit",
    "parse_network",
    "parse_number",
    "parse_sizes",
]

DataPath = Annotated[Path, typer.Argument(help="Data set: a file or folder in a format of hfcnn.load.")]
ModelPath = Annotated[Path, typer.Argument(help="File of a model: what hfcnn train or a classifier saved.")]
SplitName = Annotated[str | None, typer.Option(help="train or test.", show_default="test if there is one")]
DeviceName = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, or auto, a GPU if there is one.")]
BackendName = Annotated[str, typer.Option(help="What computes: torch, triton (kernels for GPUs) or auto.")]
PrecisionName = Annotated[
    str,
    typer.Option(help="Arithmetic of float32: auto; ieee, exact; or tf32x3, tf32, bf16, faster and coarser."),
]

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

#: One layer of a network: conv32x5s2p2 has 32 filters of 5 x 5, stride 2, and takes maxima of 2 x 2.
CONV = r"conv(?P<filters>\d+)x(?P<kernel>\d+)(?:s(?P<stride>\d+))?(?:(?P<pooling>[pa])(?P<pool>\d+))?"
DENSE = r"dense(?P<units>\d+)"


def parse_number(text: str) -> float | int | str:
    """Read "auto", a whole number or a fraction."""
    if text == "auto":
        return text
    return int(text) if text.isdigit() else float(text)


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read sizes with commas between them: 28,28 or 32,32,3."""
    return tuple(int(size) for size in text.split(","))


def parse_bytes(text: str) -> int | str:
    """Read "auto" or a number of bytes, of which 500M and 2G are short forms.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if text == "auto":
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.upper())
    if not found:
        raise ValueError(f"expected auto or a number of bytes such as 500M or 2G; got {text!r}")
    return int(float(found[1]) * UNITS[found[2]])


def parse_network(text: str) -> str | list[LayerDescription]:
    """Read a network: the name of a preset, or layers with commas between them.

    ``conv32x5p2`` is a convolution with 32 filters of 5 x 5 and max pooling of 2 x 2; ``a2`` in the place of
    ``p2`` is average pooling, and ``s2`` before it a stride of 2. ``dense128`` is a fully-connected layer of
    128 units. The output layer is added.

    Raises
    ------
    ValueError
        If a layer is none of these.
    """
    from hfcnn.layers import Conv, Dense
    from hfcnn.network import PRESETS

    if text in PRESETS:
        return text
    layers: list[LayerDescription] = []
    for part in text.split(","):
        if found := re.fullmatch(CONV, part.strip()):
            sizes = {name: int(found[name] or 1) for name in ("filters", "kernel", "stride", "pool")}
            layers.append(Conv(**sizes, pooling="average" if found["pooling"] == "a" else "max"))
        elif found := re.fullmatch(DENSE, part.strip()):
            layers.append(Dense(int(found["units"])))
        else:
            raise ValueError(
                f"--network: expected {', '.join(PRESETS)} or layers such as conv32x5p2,conv64x3p2,dense128; "
                f"got {part.strip()!r}"
            )
    return layers


def parse_limit(text: str) -> int | None:
    """Read a number of bytes, or "auto", which leaves the limit to `hfcnn.load`."""
    number = parse_bytes(text)
    return number if isinstance(number, int) else None


def parsed(parser: Any, metavar: str, text: str) -> Any:
    """Option whose text goes through a parser."""
    return typer.Option(parser=parser, metavar=metavar, help=text)


MaxBytes = Annotated[
    Any,
    parsed(
        parse_limit,
        "BYTES",
        "What the data may take in memory: 500M, 20G; auto is 256 MiB, or a hundred times the files.",
    ),
]

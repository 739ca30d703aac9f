"""What the readers share: opening files through their compression, and the errors that they all have.

A reader takes the path, the split and the image shape that the caller gave (or None), and returns images
(n, height, width[, channels]) and labels (n,). `hfcnn.datasets.load` brings both to their final type and
checks them. Nothing here runs code from a file, and no archive is unpacked to disk.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias, cast

from numpy.typing import NDArray

__all__ = ["DatasetError", "Parts", "Shape", "first_existing", "no_part", "one_set", "open_plain"]

Shape: TypeAlias = tuple[int, int, int]
Parts: TypeAlias = tuple[NDArray[Any], NDArray[Any]]


class DatasetError(ValueError):
    """A data set that cannot be read: which file, what is wrong with it, and what was expected."""


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, through gzip, bzip2 or xz if its first bytes say so."""
    with open(path, "rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if start.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if start == b"\xfd7zXZ\x00":
        return lzma.open(path, "rb")
    return open(path, "rb")


def one_set(path: Path, split: str) -> None:
    """Refuse the test part of something that holds a single set."""
    if split == "test":
        raise DatasetError(
            f"{path}: holds one set and no test part; split='train' returns all of it, a folder with "
            "the training and the test files has both"
        )


def no_part(path: Path, split: str, expected: str) -> NoReturn:
    """Report a folder or an archive that lacks the files of the split."""
    raise DatasetError(f"{path}: has no {split} part; expected {expected}")


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """Take the first of the names that is a file of the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)

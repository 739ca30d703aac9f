"""Plain files in tar archives, read in one pass.

Not by `tarfile`, which keeps extended headers in memory whatever their length, and fills the holes of sparse
files; an archive of images has neither.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from hfcnn.datasets.files import Budget, DatasetError, open_plain, read_exactly

__all__ = ["is_tar", "tar_members"]

TAR_BLOCK = 512

#: Most members of an archive, headers of longer names counted too.
MOST_MEMBERS = 10_000

#: Most bytes of a header that holds a longer name.
LONGEST_HEADER = 1 << 16


def is_tar(start: bytes) -> bool:
    """Whether a file that starts with these 512 bytes is a tar archive."""
    return start[257:262] == b"ustar"


def tar_members(path: Path, is_wanted: Callable[[str], bool], budget: Budget) -> Iterator[tuple[str, bytes]]:
    """Yield names, without folders, of the plain files in an archive, with the contents of those wanted.

    Raises
    ------
    DatasetError
        If it is damaged, ends too early, holds too many members, or more than the budget.
    """
    long_name = None
    with open_plain(path, budget) as file:
        for _ in range(MOST_MEMBERS):
            header = read_exactly(file, TAR_BLOCK, path)
            if not any(header):  # two such blocks are the end mark
                while file.read(1 << 16):
                    pass  # the checksum of a compressed archive is at its end
                return
            kind, size = _kind_and_size(header, path)
            padding = -size % TAR_BLOCK
            if kind in b"Lx":
                if size > LONGEST_HEADER:
                    raise DatasetError(f"{path}: a header of {size} bytes; expected a name")
                content = bytes(read_exactly(file, size + padding, path))[:size]
                long_name = _long_name(chr(kind), content) or long_name
                continue
            name = long_name if long_name is not None else _text(header[:100])
            name, long_name = name.rpartition("/")[2], None
            if kind == ord("S") and is_wanted(name):
                raise DatasetError(f"{path}: {name} is stored as a file with holes; expected a plain one")
            if kind in b"0\x007":
                source = f"{path}: {name}"
                if is_wanted(name):
                    budget.take(size, source)
                    yield name, bytes(read_exactly(file, size, source))
                    _skip(file, padding, path)
                    continue
                yield name, b""
            _skip(file, size + padding, path)
    raise DatasetError(f"{path}: more than {MOST_MEMBERS} members; expected an archive of image batches")


def _kind_and_size(header: bytearray, path: Path) -> tuple[int, int]:
    checksum = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    try:
        if int(_text(header[148:156]).strip() or "-1", 8) != checksum:
            raise ValueError("checksum")
        size = int(_text(header[124:136]).strip() or "0", 8)
        if size < 0:
            raise ValueError("size")
    except ValueError:
        raise DatasetError(f"{path}: damaged, a wrong header in the archive") from None
    return header[156], size


def _text(field: bytes | bytearray) -> str:
    return bytes(field).partition(b"\0")[0].decode("utf-8", "replace")


def _long_name(kind: str, content: bytes) -> str | None:
    """The name that an extended header gives to the next member."""
    if kind == "L":
        return _text(content)
    match = re.search(rb"(?:^|\n)\d{1,6} path=([^\n]*)\n", content)
    return match and match[1].decode("utf-8", "replace")


def _skip(file: IO[bytes], size: int, path: Path) -> None:
    while size > 0:
        step = min(size, 1 << 20)
        read_exactly(file, step, path)
        size -= step

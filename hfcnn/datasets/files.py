"""What the readers share: what was asked for, opening files within bounds, and the errors that they all have.

A reader takes a path and the `Wanted` of the caller, and returns images (n, height, width[, channels]) and
labels (n,). `hfcnn.datasets.load` brings both to their final type and checks them. Nothing here runs code
from a file, no archive is unpacked to disk, and no file makes a reader take more memory than the wanted
allows.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, TypeAlias, cast

from numpy.typing import NDArray

__all__ = [
    "EXPANSION",
    "SMALLEST_LIMIT",
    "Budget",
    "Color",
    "DatasetError",
    "MissingPartError",
    "Parts",
    "Wanted",
    "Shape",
    "default_limit",
    "first_existing",
    "no_part",
    "one_set",
    "open_plain",
    "open_regular",
    "read_exactly",
    "read_plain",
    "read_up_to",
]

Shape: TypeAlias = tuple[int, int, int]
Parts: TypeAlias = tuple[NDArray[Any], NDArray[Any]]
Color: TypeAlias = Literal["gray", "rgb"]

#: Bytes that a data set may take however small its files are: 256 MiB.
SMALLEST_LIMIT = 1 << 28

#: How many times the size of its files a data set may take by default. Images shrink to a tenth at best,
#: sparse text to a thirtieth.
EXPANSION = 100

#: Files of a folder whose sizes are added at most, lest a whole disk is walked through.
MOST_COUNTED = 200_000

#: Memory for the dictionary of an xz file: four times what the strongest of xz's presets needs.
XZ_MEMORY = 1 << 28


class DatasetError(ValueError):
    """A data set that cannot be read: which file, what is wrong with it, and what was expected."""


class MissingPartError(DatasetError):
    """A data set that is sound but has no such part: no test images, say. A damaged part is not missing."""


class Budget:
    """How many bytes a data set may still take.

    Parameters
    ----------
    n_bytes : int
        The limit.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.left = n_bytes

    def take(self, size: int, source: object) -> None:
        """Count bytes that are about to be read or made.

        Raises
        ------
        DatasetError
            If they are more than is left.
        """
        if size > self.left:
            self.refuse(f"needs {size} bytes", source)
        self.left -= size

    def refuse(self, need: str, source: object) -> NoReturn:
        """Say that the limit is too small."""
        raise DatasetError(
            f"{source}: {need}, and at most max_bytes={self.n_bytes} are allowed for the data set; pass a "
            "larger max_bytes if you trust its source"
        )


@dataclass(frozen=True)
class Wanted:
    """What the caller of `load` asked for.

    Attributes
    ----------
    split : {"train", "test"}
        The part.
    image_shape : (height, width, channels) or None
        Shape of the images, for files that do not say it.
    budget : Budget
        How many bytes the data set may take.
    size : (height, width) or None
        Size to bring image files to.
    color : {"gray", "rgb"} or None
        Colour to bring image files to.
    zero_based : bool or "auto"
        Whether the first index of LIBSVM text is 0.
    max_bytes : int or None
        The limit that the caller stated: of the budget, and of one image file.
    labelled : bool
        Whether labels are needed; without them readers of files that have none return an empty array.
    """

    split: str
    image_shape: Shape | None
    budget: Budget
    size: tuple[int, int] | None = None
    color: Color | None = None
    zero_based: bool | Literal["auto"] = "auto"
    max_bytes: int | None = None
    labelled: bool = True


def default_limit(path: Path) -> int:
    """Bytes that a data set may take by default: 256 MiB, or a hundred times its size on disk if more."""
    return max(SMALLEST_LIMIT, EXPANSION * _size_on_disk(path))


def _size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; holes in them count for nothing."""
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return min(status.st_size, getattr(status, "st_blocks", 1 << 60) * 512)
    total = n_files = 0
    for folder, _, names in os.walk(path):
        n_files += len(names)
        if n_files > MOST_COUNTED:
            break
        for name in names:
            try:
                status = os.stat(os.path.join(folder, name))
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                total += min(status.st_size, getattr(status, "st_blocks", 1 << 60) * 512)
    return total


def open_regular(path: Path) -> IO[bytes]:
    """Open an ordinary file.

    Raises
    ------
    DatasetError
        If it is a folder, device, pipe or socket; a pipe would be waited for for ever.
    OSError
        If the system does not open it.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise DatasetError(f"{path}: {kind}; expected an ordinary file")
    return open(descriptor, "rb")


def open_plain(path: Path, budget: Budget) -> IO[bytes]:
    """Open a file for reading, through gzip, bzip2 or xz if its first bytes say so.

    Raises
    ------
    DatasetError
        At once if a file that is not compressed is larger than what is left of the budget; while reading,
        once a compressed file turns out to be.
    """
    file = open_regular(path)
    start = file.read(6)
    file.seek(0)
    plain: Any
    if start.startswith(b"\x1f\x8b"):
        plain = gzip.GzipFile(fileobj=file)
    elif start.startswith(b"BZh"):
        plain = bz2.BZ2File(file)
    elif start == b"\xfd7zXZ\x00":
        plain = _Xz(file)
    else:
        size = _size(file)
        if size is not None and size > budget.left:
            file.close()
            budget.refuse(f"of {size} bytes", path)
        return file
    return cast(IO[bytes], io.BufferedReader(_Bounded(plain, file, budget, path), 1 << 16))


class _Bounded(io.RawIOBase):
    """A decompressed file that ends in an error where the budget does."""

    def __init__(self, plain: Any, compressed: IO[bytes], budget: Budget, path: Path) -> None:
        self._plain, self._compressed, self._budget, self._path = plain, compressed, budget, path
        self._read = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on."""
        try:
            size: int = self._plain.readinto(buffer)
        except Exception as error:
            raise DatasetError(f"{self._path}: damaged, or not whole ({error})") from error
        self._read += size
        if self._read > self._budget.left:
            self._budget.refuse("decompresses to more than is allowed", self._path)
        return size

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._plain.close()
            self._compressed.close()
        super().close()


class _Xz(io.RawIOBase):
    """An xz file, as `lzma.open` reads it, but for a dictionary that may ask for gigabytes there."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on, into the streams that follow one another."""
        while True:
            more = b""
            if self._decompressor.eof:
                more = (self._decompressor.unused_data or self._file.read(1 << 16)).lstrip(b"\0")
                if not more and not self._file.peek(1):  # type: ignore[attr-defined]
                    return 0
                if not more:
                    continue
                self._decompressor = self._new()
            elif self._decompressor.needs_input:
                more = self._file.read(1 << 16)
                if not more:
                    raise EOFError("the compressed file ends before its end mark")
            data = self._decompressor.decompress(more, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)


def _size(file: IO[bytes]) -> int | None:
    """Size of a file that is not compressed; None for one that is."""
    try:
        return os.fstat(file.fileno()).st_size
    except io.UnsupportedOperation:
        return None


def read_plain(path: Path, budget: Budget) -> bytes:
    """Read a file whole, decompressed."""
    with open_plain(path, budget) as file:
        data = file.read()
    budget.take(len(data), path)
    return data


def read_exactly(file: IO[bytes], size: int, source: object) -> bytearray:
    """Read a number of bytes, which the budget has been asked for.

    Raises
    ------
    DatasetError
        If the file ends before.
    """
    data = read_up_to(file, size)
    if len(data) < size:
        raise DatasetError(f"{source}: truncated; expected {size - len(data)} bytes more")
    return data


def read_up_to(file: IO[bytes], size: int) -> bytearray:
    """Read a number of bytes, or as many as there are; no memory is taken for more than a file holds."""
    whole = _size(file)
    data = bytearray(size if whole is None else max(0, min(size, whole - file.tell())))
    done = 0
    with memoryview(data) as view:
        while done < len(data):
            read: int = cast(Any, file).readinto(view[done : done + (1 << 20)])
            if not read:
                break
            done += read
    del data[done:]
    return data


def one_set(path: Path, split: str) -> None:
    """Refuse the test part of something that holds a single set."""
    if split == "test":
        raise MissingPartError(
            f"{path}: holds one set and no test part; split='train' returns all of it, a folder with "
            "the training and the test files has both"
        )


def no_part(path: Path, split: str, expected: str) -> NoReturn:
    """Report a folder or an archive that lacks the files of the split."""
    raise MissingPartError(f"{path}: has no {split} part; expected {expected}")


def first_existing(folder: Path, names: Sequence[str]) -> Path | None:
    """Take the first of the names that the folder has, be it only a broken link, which is not absent."""
    return next((folder / name for name in names if os.path.lexists(folder / name)), None)

"""Writing files so that nothing is lost: whole or not at all, and checked before the work that fills them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import stat
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["check_output_path", "check_separate", "write_atomically"]

#: Temporary files are named ``.hfcnn-HOST-PID-RANDOM.tmp``, so that those of dead writers can be told.
PREFIX = f".hfcnn-{hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()}-"
SUFFIX = ".tmp"

_in_use: set[str] = set()
_lock = threading.Lock()


def check_output_path(path: Any, name: str) -> Path:
    """Check that a file can be written, before the work whose result it is to hold.

    Parameters
    ----------
    path : str or path
        The file; it may be there already.
    name : str
        What the user calls it, for the message: "checkpoint" or "--save".

    Returns
    -------
    Path

    Raises
    ------
    TypeError
        If it is no path.
    OSError
        If it is a folder or another thing that is no file, its name is too long, its folder is missing or
        cannot be written in, or the file is write-protected. The message holds `name` and the path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a path of a file; got {path!r}")
    where = f"{name}={os.fspath(path)!r}"
    if "\0" in os.fspath(path):
        raise OSError(f"{where}: a path cannot hold a null character")
    file = Path(path)
    folder = file.parent
    try:
        if file.is_dir():
            raise IsADirectoryError(f"{where} is a folder; give the name of a file")
        if not folder.is_dir():
            error = NotADirectoryError if folder.exists() else FileNotFoundError
            raise error(f"{where}: there is no folder {str(folder)!r} to write it in")
        if _other_kind(file):
            raise OSError(f"{where} is no ordinary file: a device, pipe or socket is not written over")
        if file.exists() and not os.access(file, os.W_OK):
            raise PermissionError(f"{where} is write-protected")
        if sys.platform != "win32" and len(os.fsencode(file.name)) > os.pathconf(folder, "PC_NAME_MAX"):
            raise OSError(f"{where}: the name of the file is too long")
        descriptor, temporary = _create(folder)
        os.close(descriptor)
        _remove(temporary)
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(f"{where} cannot be written: {error.strerror}") from error
    return file


def check_separate(output: Path, name: str, **inputs: Path | None) -> None:
    """Check that an output is none of the files that are read.

    Parameters
    ----------
    output : Path
        The file that will be written.
    name : str
        What the user calls it.
    **inputs : Path or None
        What is read, by the name that the user knows: a file, or a folder none of whose files may be
        written over.

    Raises
    ------
    OSError
        If the output is one of them, by whatever name or link.
    """
    for what, path in inputs.items():
        if path is None or not output.exists():
            continue
        is_same = path.exists() and output.samefile(path)
        if is_same or (path.is_dir() and output.resolve().is_relative_to(path.resolve())):
            raise OSError(f"{name}={str(output)!r} would be written over {what}={str(path)!r}, which is read")


def write_atomically(path: Any, content: bytes) -> None:
    """Write a file that is there afterwards as a whole, or as it was before.

    The content goes to a temporary file in the same folder, which no other writer shares, and onto the
    disk; then it takes the name in one step. A link of that name is replaced, not followed. The mode of a
    file that was there is kept. What writers that died have left behind is removed.

    Parameters
    ----------
    path : str or path
        The file.
    content : bytes
        All of it.

    Raises
    ------
    OSError
        If it cannot be written; a file that was there is then unchanged.
    """
    path = Path(path)
    if _other_kind(path):
        raise OSError(f"{str(path)!r} is no ordinary file: a device, pipe or socket is not written over")
    _remove_leftovers(path.parent)
    descriptor, temporary = _create(path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            _keep_mode(path, descriptor)
            os.fsync(descriptor)
        os.replace(temporary, path)
    finally:
        _remove(temporary)
    _sync_folder(path.parent)


def _other_kind(path: Path) -> bool:
    """Whether there is something at `path`, link or target, that is neither file nor folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _create(folder: Path) -> tuple[int, Path]:
    """Make a temporary file that was not there: as `mkstemp`, with the mode that new files have."""
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}"
    with _lock:
        _in_use.add(name)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        return os.open(folder / name, flags, 0o666), folder / name
    except BaseException:
        with _lock:
            _in_use.discard(name)
        raise


def _keep_mode(path: Path, descriptor: int) -> None:
    """Give the new file the permissions of the one that it replaces."""
    with contextlib.suppress(FileNotFoundError):
        before = path.lstat().st_mode
        if stat.S_ISREG(before) and hasattr(os, "fchmod"):
            os.fchmod(descriptor, before & 0o777)


def _remove(temporary: Path) -> None:
    temporary.unlink(missing_ok=True)
    with _lock:
        _in_use.discard(temporary.name)


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of this machine's writers that are no longer alive."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.name.endswith(SUFFIX) and not _is_alive(entry.name):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_alive(name: str) -> bool:
    """Whether the writer of a temporary file may still be at work."""
    pid = name.removeprefix(PREFIX).partition("-")[0]
    if not pid.isdigit():
        return True  # not ours after all
    if int(pid) == os.getpid():
        with _lock:
            return name in _in_use
    if sys.platform == "win32":
        return True  # to ask is to end it there
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Put the folder's new entry onto the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        with contextlib.suppress(OSError):  # some network file systems cannot
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

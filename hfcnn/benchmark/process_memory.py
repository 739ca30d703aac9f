"""How much memory this process holds, and held at most since it was last asked to forget (Linux)."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["forget_peak", "process_bytes"]

STATUS = Path("/proc/self/status")


def process_bytes(name: str) -> int:
    """Bytes of a line of /proc/self/status.

    What `resource.getrusage` calls the peak counts the process that this one was started by.

    Parameters
    ----------
    name : str
        "VmRSS", what is held; "VmHWM", the most that was since `forget_peak`; "VmData", what of its address
        space is for data.

    Raises
    ------
    OSError
        If this is not Linux.
    """
    match = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if match is None:
        raise OSError(f"{STATUS} has no {name}")
    return int(match[1]) * 1024


def forget_peak() -> None:
    """Let the peak be what is held now."""
    Path("/proc/self/clear_refs").write_text("5")

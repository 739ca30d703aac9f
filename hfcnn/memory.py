"""Memory: how much there is, how the C library keeps it, and how to tell that it ran out."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import torch

__all__ = [
    "as_text",
    "control_group_free",
    "free_bytes",
    "is_allocation_failure",
    "keep_heap",
    "memory_budget",
]

#: Share of the memory that is free now which kept linearisations may take.
FREE_SHARE = 0.25

#: What is taken to be free where the system does not say, on macOS and Windows: smaller machines are rare.
UNKNOWN_FREE = 8 * 2**30

#: A control group of version 1 without a limit says a number just below 2^63.
UNLIMITED_GROUP = 2**60

#: What torch and the libraries under it say when memory ran out, in lower case.
FAILURE_TEXTS = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "alloc_failed",  # cuBLAS and cuDNN
)

#: Just below the most that glibc lets its threshold for mapped memory rise to.
LARGEST_HEAP_BLOCK = 32 * 2**20 - 2**16


def keep_heap(device: torch.device) -> None:
    """Have the C library keep freed memory for the next temporaries of a size that batches have on a CPU.

    glibc returns the free end of its heap to the system once it exceeds twice the size of the largest mapped
    block freed so far, up to 32 MiB (``M_MMAP_THRESHOLD`` in the manual of mallopt). A process whose blocks
    are all smaller then maps and clears its temporaries anew in every operation, which takes up to a third of
    the time of a product. Freeing one larger block, never written to, raises that limit unless the user has
    set it. Costs microseconds; elsewhere than on Linux nothing is done.
    """
    if device.type == "cpu" and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
        libc.free(libc.malloc(LARGEST_HEAP_BLOCK))


def memory_budget(memory: int | str, device: torch.device) -> int:
    """Bytes that kept linearisations may take.

    Parameters
    ----------
    memory : int or "auto"
        Bytes; "auto" is a quarter of what is free on the device now.
    device : torch.device

    Raises
    ------
    ValueError
        If `memory` is neither.
    """
    if isinstance(memory, str):
        if memory != "auto":
            raise ValueError(f'memory must be a number of bytes or "auto"; got {memory!r}')
        return int(FREE_SHARE * free_bytes(device))
    if memory < 0:
        raise ValueError(f"memory must not be negative; got {memory}")
    return int(memory)


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still take on the device.

    On a CPU that is what the machine has left, or less where a control group (of a container or a batch job,
    version 1 or 2) or the limit of the address space (``ulimit -v``) allows less.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [
        size for size in (_machine_free(), _address_space_free(), control_group_free()) if size is not None
    ]
    return max(0, min(known, default=UNKNOWN_FREE))


def _machine_free() -> int | None:
    """MemAvailable of the machine; None elsewhere than on Linux."""
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _address_space_free() -> int | None:
    """What RLIMIT_AS leaves; None where there is no limit."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _read(Path("/proc/self/statm")).split()
    if limit == resource.RLIM_INFINITY or not used:
        return None
    return limit - int(used[0]) * resource.getpagesize()


def control_group_free(root: Path = Path("/")) -> int | None:
    """What the process's control groups leave, cached files of which the system can let go not counted.

    Parameters
    ----------
    root : path
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    int or None
        Bytes; None where there is no limit.
    """
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        if number == "0" and not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = mount / group.strip("/")
        # in a container the group's path is the host's, and the mount is the group itself
        for place in (folder, *folder.parents):
            if place == mount.parent:
                break
            found.append(_group_free(place, *names))
    return min((free for free in found if free is not None), default=None)


def _group_free(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    limit, usage = _read(folder / limit_name).strip(), _read(folder / usage_name).strip()
    if not limit.isdigit() or not usage.isdigit() or int(limit) >= UNLIMITED_GROUP:
        return None
    rows = (row.split() for row in _read(folder / "memory.stat").splitlines())
    cached = next((int(row[1]) for row in rows if len(row) == 2 and row[0] == cache_name), 0)
    return int(limit) - max(0, int(usage) - cached)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, numpy's, or torch's on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in FAILURE_TEXTS)


def as_text(n_bytes: float) -> str:
    """Write a number of bytes for people: 3 GB, 120 MB, 4 kB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes / 1e3:.3g} kB"

"""Memory: how much there is, how the C library keeps it, and how to tell that it ran out."""

from __future__ import annotations

import ctypes
import sys

import torch

__all__ = ["free_bytes", "keep_heap", "memory_budget"]

#: Share of the memory that is free now which kept linearisations may take.
FREE_SHARE = 0.25

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
    """Bytes that are free on the device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 8 * 2**30  # macOS and Windows: a machine smaller than this is rare

"""CPU threads of torch while a method runs: `n_jobs`, by any number of methods at once, and after a fork."""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from joblib import cpu_count

__all__ = ["with_threads"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


class _Threads(threading.local):
    """What torch's setting, which each thread has for itself, is to be again; and how deep methods nest."""

    depth = 0


class _Uses:
    """Methods that are running now in all threads of the process, and the setting before the first began."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = 0
        self.had_threads = False
        self.is_forked_after_threads = False

    def begin(self, n_threads: int | None) -> None:
        """Set the number of threads; None is the setting that the process had."""
        with self.lock:
            if self.count == 0:
                self.before = torch.get_num_threads()
            self.count += 1
            wanted = self.before if n_threads is None else n_threads
            if self.is_forked_after_threads and wanted > 1:
                _warn_forked()
                wanted = 1
            if wanted != torch.get_num_threads():
                torch.set_num_threads(wanted)
            self.had_threads |= wanted > 1

    def end(self) -> None:
        """Give the process its setting back."""
        with self.lock:
            self.count -= 1
            if torch.get_num_threads() != self.before:
                torch.set_num_threads(self.before)

    def forked(self) -> None:
        """Note, in a child that was forked, whether torch's threads were left behind in the parent."""
        self.lock = threading.Lock()
        self.count = 0
        self.is_forked_after_threads |= self.had_threads


_here = _Threads()
_uses = _Uses()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_uses.forked)


def with_threads(method: _Method) -> _Method:
    """Decorate a method so that torch uses `n_jobs` CPU threads while it runs.

    torch's setting is each thread's own but new threads take the newest: so the one that was there before
    any method began is given back by each, and the outermost method of a thread decides.
    """

    @functools.wraps(method)
    def limited(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _here.depth:
            return method(self, *args, **kwargs)
        _uses.begin(_n_threads(self.n_jobs))
        _here.depth += 1
        try:
            return method(self, *args, **kwargs)
        finally:
            _here.depth -= 1
            _uses.end()

    return cast("_Method", limited)


def _n_threads(n_jobs: Any) -> int | None:
    """Number of threads that `n_jobs` means; what means nothing is refused elsewhere."""
    if not isinstance(n_jobs, int) or n_jobs == 0 or abs(n_jobs) > 4096:
        return None
    return n_jobs if n_jobs > 0 else max(1, cpu_count() + 1 + n_jobs)


def _warn_forked() -> None:
    warnings.warn(
        "This process was forked from one in which hfcnn had run on several threads, which OpenMP does not "
        'survive: it goes on with one thread. Start processes by "spawn" or "forkserver", or use joblib.',
        RuntimeWarning,
        stacklevel=4,
    )

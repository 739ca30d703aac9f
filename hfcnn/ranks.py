"""Processes that fit one model together, each on its share of the images, by torch.distributed.

Every process runs the same program on the same parameters. What they share are sums over images; all else,
as CG, damping and line search, each does for itself with the same numbers.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["EXCHANGES", "Ranks", "SharedSum", "joined_numbers", "together"]

Thing = TypeVar("Thing")

#: Parts of a pass over the images after each of which, but the last, the processes compare their losses so
#: far with the bound of a trial. Each time one number is added up; a rejected trial ends an eighth of a pass
#: late at most.
EXCHANGES = 8


class Ranks:
    """The processes of torch's default group, as one of them sees them.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and of all.

    Raises
    ------
    ConnectionError
        From every method, if another process is lost, or does not answer within the group's time-out.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()
        self._device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")

    @classmethod
    def current(cls, distributed: bool | str = "auto") -> Ranks | None:
        """Processes to fit with; None is this one alone.

        Parameters
        ----------
        distributed : "auto" or False, default="auto"
            "auto" is all processes of torch's default group, where one of more than one is initialised.

        Raises
        ------
        ValueError
            If it is neither.
        """
        if distributed is not False and distributed != "auto":
            raise ValueError(f'distributed must be "auto" or False; got {distributed!r}')
        if distributed is False or not torch.distributed.is_available():
            return None
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return None
        return cls()

    def block(self, n: int) -> tuple[int, int]:
        """Begin and end of this process's share of `n` things."""
        return n * self.rank // self.size, n * (self.rank + 1) // self.size

    def add_up(self, numbers: Tensor) -> Tensor:
        """Sum over the processes, entry by entry: the same bits in each of them."""
        with self._contact():
            shared = numbers.to(self._device)
            torch.distributed.all_reduce(shared)
            return shared.to(numbers.device)

    def total(self, *values: float) -> list[float]:
        """Sums over the processes of some numbers, in float64."""
        sums: list[float] = self.add_up(torch.tensor(values, dtype=torch.float64)).tolist()
        return sums

    def gather(self, thing: Thing) -> list[Thing]:
        """What each process passes, by rank."""
        things: list[Any] = [None] * self.size
        with self._contact():
            torch.distributed.all_gather_object(things, thing)
        return things

    def first(self, thing: Thing) -> Thing:
        """What process 0 passes."""
        return self.gather(thing)[0]

    def check_same(self, theta: Tensor, iteration: int) -> None:
        """Check that all processes have the same parameters, by a checksum.

        Raises
        ------
        RuntimeError
            If they have not.
        """
        sums = self.gather(zlib.crc32(theta.detach().cpu().contiguous().numpy().tobytes()))
        if len(set(sums)) > 1:
            others = [rank for rank, value in enumerate(sums) if value != sums[0]]
            raise RuntimeError(
                f"after iteration {iteration} the parameters of process {others[0]} are no longer those of "
                "process 0: all processes must run the same program, with the same versions, arguments and "
                "number of threads"
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do something that may fail in one process alone; if it does, it fails in all.

        Raises
        ------
        RuntimeError
            If another process failed; its message says how. What failed here is raised as it is.
        """
        error: Exception | None = None
        try:
            yield
        except Exception as failure:
            error = failure
        texts = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(texts):
            if text is not None:
                raise RuntimeError(f"process {rank} failed: {text}")

    @contextmanager
    def _contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ConnectionError(
                f"process {self.rank} of {self.size} has lost the others: {error}; a run that torchrun "
                "started with --max-restarts goes on from its checkpoint"
            ) from error


def together(ranks: Ranks | None) -> AbstractContextManager[None]:
    """`Ranks.together`, where there are several processes."""
    return nullcontext() if ranks is None else ranks.together()


class SharedSum:
    """The part of a weighted sum over images that processes do together.

    A sum that may end early, as that of a rejected trial, must end in all processes alike. So each goes on
    by itself for an eighth of its images; then they add up their values so far, and all see the same number.
    A process that sees on its own that the bound is passed passes infinity on, which ends it for all.

    Parameters
    ----------
    ranks : Ranks
        The processes.
    n_images : int
        Images of this process.
    is_over : callable or None
        Whether a value means that the sum may end; None is never.
    """

    def __init__(self, ranks: Ranks, n_images: int, is_over: Callable[[float], bool] | None) -> None:
        self.ranks = ranks
        self.n_images = n_images
        self.is_over = is_over
        self.n_exchanges = 0
        self._all, self._own = 0.0, 0.0

    def known(self, own: float) -> float:
        """What is known of the whole value, when this process's is `own`; it is at least that."""
        return self._all + (own - self._own)

    def reach(self, start: int, own: float) -> bool:
        """Exchange values when it is time for it, before image `start`; whether the sum ends."""
        while self._is_due(start):
            if self._exchange(own):
                return True
        return False

    def _is_due(self, start: int) -> bool:
        if self.is_over is None or self.n_exchanges == EXCHANGES - 1:
            return False
        return start * EXCHANGES >= self.n_images * (self.n_exchanges + 1)

    def _exchange(self, own: float) -> bool:
        self.n_exchanges += 1
        self._all, self._own = self.ranks.total(own)[0], own
        return self._ends(self._all)

    def _ends(self, value: float) -> bool:
        return not math.isfinite(value) or (self.is_over is not None and self.is_over(value))

    def finish(self, vector: Tensor | None, own: float, weight: float, hits: float) -> Tensor | None:
        """Add up everything in one call: n + 3 numbers in float64, the vector's and three more.

        Returns
        -------
        Tensor of shape (n + 3,) or None
            Sums of the vectors, values, weights and hits; None where the sum ended before.
        """
        while self.is_over is not None and self.n_exchanges < EXCHANGES - 1:
            if self._exchange(own):
                return None
        sums = self.ranks.add_up(joined_numbers(vector, own, weight, hits))
        return None if self._ends(float(sums[-3])) else sums


def joined_numbers(vector: Tensor | None, *numbers: float) -> Tensor:
    """A vector, or none, and some numbers in one, in float64 and on the vector's device."""
    last = torch.tensor(numbers, dtype=torch.float64)
    return last if vector is None else torch.cat((vector.double(), last.to(vector.device)))

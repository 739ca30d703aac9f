"""Batches of images, and what to do where memory does not suffice for one."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.backend import Backend
from hfcnn.cost import gradient_cost
from hfcnn.memory import as_text, free_bytes, is_allocation_failure
from hfcnn.network import Network

if TYPE_CHECKING:
    from hfcnn.images import Images

__all__ = ["Batch", "Contribution", "ImageSums", "Result", "Room", "SetSum", "Share", "Span"]

Result = TypeVar("Result")


class Span(NamedTuple):
    """A batch by its place: from `start` to before `stop`, counted in the set that is summed over."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of images."""
        return self.stop - self.start


class Share(NamedTuple):
    """What this process has of a batch that several processes cut alike.

    Attributes
    ----------
    n_images : int
        Images of the batch, in all processes.
    span : Span
        Those of this process, by their place among all that it has of the set. It may be empty.
    places : int64 array of shape (span.size,)
        Their places in the batch.
    """

    n_images: int
    span: Span
    places: NDArray[np.int64]

    @classmethod
    def cut(cls, n_images: int, most: int, places: NDArray[np.int64]) -> list[Share]:
        """Cut a set into batches of even sizes, so that a few images too many cost no batch of their own.

        Parameters
        ----------
        n_images, most : int
            Images of the set, in all processes, and most of a batch.
        places : int64 array
            Which of them are of this process, upwards.
        """
        size = -(-n_images // -(-n_images // most))
        starts = range(0, n_images, size)
        bounds = np.searchsorted(places, [*starts, n_images]).tolist()
        return [
            cls(min(size, n_images - start), Span(*own), places[slice(*own)] - start)
            for start, own in zip(starts, itertools.pairwise(bounds), strict=True)
        ]


class Batch(NamedTuple):
    """Images of a span, of shape (N, H, W, C), with labels and weights of shape (N,), on the device."""

    images: Tensor
    labels: Tensor | None
    weight: Tensor | None


class Contribution(NamedTuple):
    """What a batch adds to the weighted sum.

    Attributes
    ----------
    vector : Tensor of shape (n,) or None
        Weighted sum of the vectors of its images; None where only the numbers are asked for.
    value, hits : float
        Weighted sums of its images' losses, and of ones for each image whose label was found.
    is_last : bool
        Stop here: what is still to come changes nothing. The vector is then not added.
    """

    vector: Tensor | None = None
    value: float = 0.0
    hits: float = 0.0
    is_last: bool = False


class SetSum(NamedTuple):
    """A weighted sum to make: the arguments of `Images.weighted_sum`, and the set."""

    images: Images
    spans: list[Span]
    part: Callable[[Span, float], Contribution]
    into: Tensor | None


class ImageSums(NamedTuple):
    """Weighted sums of losses and hits, and whether the sum was stopped before its end.

    Several processes know, too, after which share of the images they stopped.
    """

    value: float
    hits: float
    is_stopped: bool
    share: float = 1.0


class Room:
    """How many images memory suffices for, as far as was found out.

    Parameters
    ----------
    network : Network
        The network.
    backend : Backend
        Where it is computed.

    Attributes
    ----------
    most : int
        Most images per batch.
    """

    def __init__(self, network: Network, backend: Backend) -> None:
        self.network = network
        self.backend = backend
        self.most = sys.maxsize

    def each(
        self, spans: list[Span], work: Callable[[Span], Result], kept: dict[Span, Any] | None
    ) -> Iterator[Result]:
        """Do some work for each batch; see `hfcnn.images.Images.each`."""
        index = 0
        while index < len(spans):
            span = spans[index]
            is_kept = kept is not None and span in kept
            if is_kept or span.size <= self.most:
                found = self._attempt(work, span)
                if found:
                    index += 1
                    yield found[0]
                    continue
                self.most = min(self.most, max(1, span.size // 2))
                if kept is not None:
                    kept.pop(span, None)
            middle = (span.start + span.stop) // 2
            spans[index : index + 1] = [Span(span.start, middle), Span(middle, span.stop)]

    def _attempt(self, work: Callable[[Span], Result], span: Span) -> list[Result]:
        """Result of some work, in a list; an empty one where memory ran out."""
        try:
            with self.backend.exact():
                return [work(span)]
        except (MemoryError, RuntimeError) as error:
            if not is_allocation_failure(error):
                raise
            if span.size == 1:
                raise MemoryError(self._shortage()) from error
        # here nothing of the failed attempt is alive any more
        if self.backend.device.type == "cuda":
            torch.cuda.empty_cache()
        return []

    def _shortage(self) -> str:
        device, needed = self.backend.device, gradient_cost(self.network, torch.float64.itemsize).bytes
        return (
            f"memory does not suffice for a single image: its derivatives take up to {as_text(needed)}, and "
            f"{as_text(free_bytes(device))} are free on {device}; use smaller images, a smaller network or "
            "fewer filters in its first layers, or allow the process more memory"
        )

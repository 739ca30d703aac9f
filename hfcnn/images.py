"""Images with labels and weights, read batch by batch, and the one weighted sum over them (Sec. 3.5).

The objective, its gradient and Gauss-Newton products are weighted means over images. All of them are made
here, by `Images.weighted_sum`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.backend import TORCH, Backend
from hfcnn.batches import Batch, Contribution, ImageSums, Result, Room, SetSum, Share, Span
from hfcnn.cost import choose_batch_size
from hfcnn.image_reader import Block, ImageReader, Indices, PreparedImages
from hfcnn.memory import keep_heap
from hfcnn.network import Network
from hfcnn.ranks import EXCHANGES, Ranks, SharedSum, joined_numbers

__all__ = ["Batch", "Contribution", "ImageSums", "Images", "SetSum", "Share", "Span"]


class Images:
    """Images with their labels and weights, or a set of them chosen by index.

    Parameters
    ----------
    network : Network
        The network that reads them.
    images : Tensor, array or PreparedImages of shape (l, H, W, C)
        Images of any real dtype, memory-mapped arrays included: only the batch at hand is read, moved to the
        device and converted there.
    labels : Tensor of shape (l,) or None
        Class indices.
    weight : Tensor of shape (l,) or None
        Weights of the images; None is weights of one.
    backend : Backend, default=TORCH
        Whose device the batches are moved to.
    batch_size : int or None
        Images per batch; None chooses for the device.
    ranks : Ranks or None
        Processes that share the images; None is this one alone.
    shard : {"block", "given"}, default="block"
        What the processes pass: "block" all of the images, the same in each, of which it reads a block; or
        "given", its own.

    Attributes
    ----------
    indices : int64 array or None
        Which of the images count, in this order; None is all of them.
    labels, weight : Tensor or None
        Those of the images that count, on the device.

    Raises
    ------
    ValueError
        If there are no images, shapes do not fit the network or each other, or the backend cannot compute
        the network.
    """

    def __init__(
        self,
        network: Network,
        images: Any,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
        *,
        backend: Backend = TORCH,
        batch_size: int | None = None,
        ranks: Ranks | None = None,
        shard: str = "block",
    ) -> None:
        shape = tuple(images.shape)
        if shape[1:] != network.input_shape:
            raise ValueError(f"images must be of shape (l, {network.input_shape}); got {shape}")
        if shape[0] == 0:
            raise ValueError(f"there are no images; got {shape}")
        for name, values in (("labels", labels), ("sample_weight", weight)):
            if values is not None and values.shape != shape[:1]:
                raise ValueError(f"{name} must be of shape ({shape[0]},); got {tuple(values.shape)}")
        backend.check(network.layers)
        keep_heap(backend.device)
        self.network = network
        self.backend = backend
        self.batch_size = batch_size
        self.ranks = ranks
        self.indices: NDArray[np.int64] | None = None
        self._start, self._n_all = 0, len(images)
        prepare = None
        if isinstance(images, PreparedImages):
            images, prepare = images.stored, images.prepare
        if ranks is not None and shard == "block":
            self._start, stop = ranks.block(len(images))
            images = Block(images, self._start, stop)
            labels = None if labels is None else labels[self._start : stop]
            weight = None if weight is None else weight[self._start : stop]
        elif ranks is not None:
            sizes = ranks.gather(len(images))
            self._start, self._n_all = sum(sizes[: ranks.rank]), sum(sizes)
        self.labels = None if labels is None else labels.to(backend.device)
        self.weight = None if weight is None else weight.to(backend.device)
        self._reader = ImageReader(images, backend.device, prepare)
        self._own: NDArray[np.int64] | None = None
        self._places: NDArray[np.int64] | None = None  # of this process's images among those that count
        self._following: dict[Span, Indices | None] = {}
        self._parent: Images | None = None
        self._total_weight: float | None = None
        #: Shared by all sets of the same images.
        self._room = Room(network, backend)

    def __len__(self) -> int:
        """Number of images that count, in all processes."""
        return self._n_all if self.indices is None else len(self.indices)

    @property
    def n_own(self) -> int:
        """Number of images that count, of this process."""
        return len(self._reader.images) if self._own is None else len(self._own)

    def subset(self, indices: NDArray[np.int64]) -> Images:
        """Choose some of the images that count, by their places among them; no image is copied.

        Each process takes its part: the places are counted through all processes, from the first one's on.
        """
        if self.indices is not None:
            return self._all_images().subset(self.indices[indices])
        chosen = copy.copy(self)
        chosen._total_weight, chosen._following = None, {}
        chosen.indices, chosen._parent = indices, self
        own = indices
        if self.ranks is not None:
            is_own = self.is_own(indices)
            own, chosen._places = indices[is_own] - self._start, np.flatnonzero(is_own)
        chosen._own = own
        where = torch.from_numpy(own).to(self.backend.device)
        chosen.labels = None if self.labels is None else self.labels[where]
        chosen.weight = None if self.weight is None else self.weight[where]
        return chosen

    def is_own(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which images, by their places among all, are of this process."""
        return (indices >= self._start) & (indices < self._start + self.n_own)

    def _all_images(self) -> Images:
        return self if self._parent is None else self._parent

    def with_weight_as(self, dtype: torch.dtype) -> Images:
        """Round all weights to `dtype` at once, for sums that read nothing but them."""
        rounded = copy.copy(self)
        rounded._total_weight = None
        rounded._parent = None if self._parent is None else self._parent.with_weight_as(dtype)
        rounded.weight = None if self.weight is None else self.weight.to(dtype)
        return rounded

    @property
    def total_weight(self) -> float:
        """Sum of the weights in all processes; the number of images where there are none."""
        if self.weight is None:
            return float(len(self))
        if self._total_weight is None:  # once: to ask waits for the device and for the other processes
            own = float(self.weight.sum(dtype=torch.float64))
            self._total_weight = own if self.ranks is None else self.ranks.total(own)[0]
        return self._total_weight

    def spans(self, dtype: torch.dtype) -> list[Span]:
        """Cut the images into batches, of the size that suits the device for numbers of `dtype`."""
        size = min(self._batch_size(dtype), self._room.most)
        return [Span(start, min(start + size, self.n_own)) for start in range(0, self.n_own, size)]

    def shares(self, dtype: torch.dtype) -> list[Share]:
        """Cut the images of all processes into batches of even sizes, alike in each of them.

        What memory suffices for does not count: whatever is drawn batch by batch is then the same in all
        processes, and however many there are.
        """
        places = self._places
        if places is None:
            places = np.arange(self._start, self._start + self.n_own)
        return Share.cut(len(self), self._batch_size(dtype), places)

    def _batch_size(self, dtype: torch.dtype) -> int:
        return self.batch_size or choose_batch_size(self.network, dtype.itemsize, self.backend.device)

    def read(self, span: Span, dtype: torch.dtype) -> Batch:
        """Read a batch: images and weights of `dtype`, on the device."""
        next_span = Span(span.stop, min(span.stop + span.size, self.n_own))
        guess = self.place(next_span) if next_span.size > 0 else None
        images = self._reader.read(self.place(span), dtype, self._following.get(span, guess))
        labels = None if self.labels is None else self.labels[slice(*span)]
        weight = None if self.weight is None else self.weight[slice(*span)].to(dtype)
        return Batch(images, labels, weight)

    @property
    def reads_ahead(self) -> bool:
        """Whether it helps to know what will be read next."""
        return self._reader.reads_ahead

    def expect(self, spans: list[Span], then: Indices | None) -> None:
        """Say in which order batches will be read, and which images, by `place`, after them."""
        places = [self.place(span) for span in spans[1:]]
        self._following = dict(zip(spans, [*places, then], strict=True)) if spans else {}

    def place(self, span: Span) -> Indices:
        """Where the images of a span are among all of this process."""
        return slice(*span) if self._own is None else self._own[slice(*span)]

    def weighted_sum(
        self,
        spans: list[Span],
        part: Callable[[Span, float], Contribution],
        into: Tensor | None = None,
        kept: dict[Span, Any] | None = None,
        is_over: Callable[[float], bool] | None = None,
    ) -> ImageSums:
        """Add up what the batches contribute: the one sum over images of this package.

        Parameters
        ----------
        spans : list of Span
            The batches, of `spans`. Halved in place where memory runs out.
        part : callable
            (span, value of the batches before it) -> Contribution. It may say that the sum ends with it,
            which is what makes a rejected trial of the line search cheap.
        into : Tensor of shape (n,) or None
            The weighted mean of the vectors is added to this, in place.
        kept : dict or None
            What is kept of batches between sums; see `each`.
        is_over : callable or None
            Whether a value so far says that the sum ends, by which several processes decide alike.

        Returns
        -------
        ImageSums
            Sums, not means, of losses and hits, over the images of all processes.

        Raises
        ------
        MemoryError
            If memory does not suffice for one image.
        """
        if self.ranks is not None:
            shared = SharedSum(self.ranks, self.n_own, is_over)
            own = self._own_sums(spans, part, into, kept, shared)
            sums = None if own is None else shared.finish(*own)
            if sums is None:
                return ImageSums(math.inf, 0.0, True, shared.n_exchanges / EXCHANGES)
            return self._shared_by_all(sums, into)
        value = hits = 0.0
        scale = 1 / self.total_weight

        def add(span: Span) -> bool:
            nonlocal value, hits
            found = part(span, value)
            value, hits = value + found.value, hits + found.hits
            if into is not None and found.vector is not None and not found.is_last:
                into.add_(found.vector, alpha=scale)
            return found.is_last

        is_stopped = any(self.each(spans, add, kept))
        return ImageSums(value, hits, is_stopped)

    @staticmethod
    def weighted_sums(sums: Sequence[SetSum]) -> list[ImageSums]:
        """Do what `weighted_sum` does for several sets of the same images.

        Several processes put all of them together in one call.
        """
        ranks = sums[0].images.ranks
        if ranks is None:
            return [each.images.weighted_sum(each.spans, each.part, each.into) for each in sums]
        own = []
        for images, spans, part, into in sums:
            found = images._own_sums(spans, part, into, None, SharedSum(ranks, images.n_own, None))
            assert found is not None  # a sum that is never over does not stop
            own.append(joined_numbers(*found))
        parts = torch.split(ranks.add_up(torch.cat(own)), [len(numbers) for numbers in own])
        return [each.images._shared_by_all(part, each.into) for each, part in zip(sums, parts, strict=True)]

    def _shared_by_all(self, sums: Tensor, into: Tensor | None) -> ImageSums:
        """Take up what the processes have added up to."""
        value, self._total_weight, hits = sums[-3:].tolist()
        if into is not None:
            into.add_((sums[:-3] / self._total_weight).to(into.dtype))
        return ImageSums(value, hits, is_stopped=False)

    def _own_sums(
        self,
        spans: list[Span],
        part: Callable[[Span, float], Contribution],
        into: Tensor | None,
        kept: dict[Span, Any] | None,
        shared: SharedSum,
    ) -> tuple[Tensor | None, float, float, float] | None:
        """Vector, value, weight and hits of this process's images; None where all have stopped."""
        value = hits = 0.0
        vector = None if into is None else torch.zeros_like(into)
        is_stopped = False

        def add(span: Span) -> bool:
            nonlocal value, hits, is_stopped
            if shared.reach(span.start, value):
                is_stopped = True
                return True
            found = part(span, shared.known(value))
            value, hits = value + found.value, hits + found.hits
            if found.is_last:
                value = value if math.isnan(value) else math.inf
            elif vector is not None and found.vector is not None:
                vector.add_(found.vector)
            return found.is_last

        any(self.each(spans, add, kept))
        if is_stopped:
            return None
        weight = float(self.n_own if self.weight is None else self.weight.sum(dtype=torch.float64))
        return vector, value, weight, hits

    def each(
        self, spans: list[Span], work: Callable[[Span], Result], kept: dict[Span, Any] | None = None
    ) -> Iterator[Result]:
        """Do some work for each batch in turn; a batch for which memory runs out is done in two halves.

        Parameters
        ----------
        spans : list of Span
            The batches. Halved in place.
        work : callable
            What to do. It leaves nothing behind where it fails.
        kept : dict or None
            What is kept for some batches. The entry of a batch that is halved is dropped.

        Raises
        ------
        MemoryError
            If memory does not suffice for one image.
        """
        return self._room.each(spans, work, kept)

"""How images come to the device: once per fit where there is room, else batch by batch and ahead of use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hfcnn.memory import free_bytes, is_allocation_failure

__all__ = ["Block", "ImageReader", "Indices", "PreparedImages"]

Indices: TypeAlias = "NDArray[np.int64] | slice"

#: Share of a GPU's free memory that a copy of all images may take: what products keep comes on top of it.
RESIDENT_SHARE = 0.4

#: Bytes that are copied at a time where all images are moved to the device.
CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class PreparedImages:
    """Images as they are stored, and what each batch of them goes through on the device.

    Attributes
    ----------
    stored : Tensor or array of shape (l, H, W, C)
        Images of any real dtype.
    prepare : callable
        Takes images (N, H, W, C) of that dtype, on the device; returns as many of floating-point numbers.
    dtype : numpy dtype
        float64 or float32: what `prepare` returns.
    """

    stored: Any
    prepare: Callable[[Tensor], Tensor]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """(l, H, W, C)."""
        return tuple(self.stored.shape)

    def __len__(self) -> int:
        return len(self.stored)


class ImageReader:
    """Reads images as contiguous tensors of some type on a device.

    To a GPU they are copied once, in the type they are stored in, where that takes no more than a share of
    the memory that is free at the first read; batches are then gathered and converted there. Otherwise, and
    where they lie on disk, a thread reads the next batch while the device computes: through pinned memory and
    on a stream of its own to a GPU.

    Parameters
    ----------
    images : Tensor or array of shape (l, H, W, C)
        Images of any real dtype, memory-mapped arrays included.
    device : torch.device
        Where they are wanted.
    prepare : callable or None
        That of `PreparedImages`, if the images are to be prepared there.
    """

    def __init__(
        self, images: Any, device: torch.device, prepare: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.images = images
        self.device = device
        self._prepare = prepare
        self._is_remote = is_remote(images, device)
        self._is_slow = self._is_remote or is_on_disk(images)
        self._is_settled = not self._is_remote
        self._resident: Tensor | None = None
        self._ahead: _Ahead | None = None

    def read(self, index: Indices, dtype: torch.dtype, next_index: Indices | None = None) -> Tensor:
        """Read some images.

        Parameters
        ----------
        index : slice or int64 array
            Which.
        dtype : torch.dtype
            Type of the result.
        next_index : slice, int64 array or None
            What will probably be read next.
        """
        if not self._is_settled:
            self._is_settled = True
            self._resident = self._copy_all()
        if self._resident is not None:
            return self.as_wanted(_rows(self._resident, index), dtype)
        if not self._is_slow:
            return self.as_wanted(_on_host(self.images, index).to(self.device), dtype)
        ahead, self._ahead = self._ahead, None
        if ahead is None or not ahead.is_of(index, dtype):
            ahead = _Ahead(self, index, dtype)
        part = ahead.result()
        if next_index is not None:
            self._ahead = _Ahead(self, next_index, dtype)
        return part

    def as_wanted(self, part: Tensor, dtype: torch.dtype) -> Tensor:
        """Prepare and convert images that are on the device."""
        part = part if self._prepare is None else self._prepare(part)
        return part.to(dtype).contiguous()

    @property
    def reads_ahead(self) -> bool:
        """Whether a thread reads the next batch."""
        return self._is_slow and self._resident is None

    def _copy_all(self) -> Tensor | None:
        """Copy all images to the device as they are, chunk by chunk; None where they take too much of it."""
        first = _on_host(self.images, slice(0, 1))
        if len(self.images) * first.nbytes > RESIDENT_SHARE * free_bytes(self.device):
            return None
        try:
            resident = torch.empty(
                (len(self.images), *first.shape[1:]), dtype=first.dtype, device=self.device
            )
        except RuntimeError as error:
            if not is_allocation_failure(error):
                raise
            return None
        size = max(1, CHUNK_BYTES // first.nbytes)
        for start in range(0, len(self.images), size):
            index = slice(start, min(start + size, len(self.images)))
            resident[index] = send(_on_host(self.images, index), self.device)
        return resident


class Block:
    """Images from one place to another of an array, none of which is read before it is asked for.

    Parameters
    ----------
    array : Tensor or array of shape (l, H, W, C)
        All images.
    start, stop : int
        The block.
    """

    def __init__(self, array: Any, start: int, stop: int) -> None:
        self.array = array
        self.start, self.stop = start, stop

    @property
    def shape(self) -> tuple[int, ...]:
        """(stop - start, H, W, C)."""
        return (len(self), *self.array.shape[1:])

    @property
    def dtype(self) -> Any:
        """Type of the array."""
        return self.array.dtype

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: Indices) -> Any:
        """Read those at `index`, counted in the block."""
        if isinstance(index, slice):
            first, last, _ = index.indices(len(self))
            return self.array[self.start + first : self.start + last]
        where = index + self.start
        return self.array[torch.from_numpy(where) if isinstance(self.array, Tensor) else where]


class _Ahead:
    """A batch that a thread reads, and sends to the device, while something else is computed."""

    def __init__(self, reader: ImageReader, index: Indices, dtype: torch.dtype) -> None:
        self._reader, self._index, self._dtype = reader, index, dtype
        self._part: Tensor | None = None
        self._error: BaseException | None = None
        self._event: Any = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def is_of(self, index: Indices, dtype: torch.dtype) -> bool:
        """Whether this is the batch that is asked for."""
        if dtype != self._dtype or type(index) is not type(self._index):
            return False
        if isinstance(index, slice) or isinstance(self._index, slice):
            return index == self._index
        return np.array_equal(index, self._index)

    def result(self) -> Tensor:
        """Wait for the batch; raise what its reading raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._part is not None
        if self._event is not None:
            stream = torch.cuda.current_stream(self._reader.device)
            stream.wait_event(self._event)
            self._part.record_stream(stream)
        return self._part

    def _read(self) -> None:
        reader, device = self._reader, self._reader.device
        try:
            host = _on_host(reader.images, self._index)
            if device.type == "cuda":
                with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
                    self._part = reader.as_wanted(send(host.pin_memory(), device), self._dtype)
                    self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                    self._event.record()
            else:
                self._part = reader.as_wanted(send(host, device), self._dtype)
        except BaseException as error:  # raised where the batch is asked for
            self._error = error


def is_remote(images: Any, device: torch.device) -> bool:
    """Whether images have to be moved to another device than the CPU's."""
    return device.type == "cuda" and not (isinstance(images, Tensor) and images.device.type == "cuda")


def is_on_disk(images: Any) -> bool:
    """Whether reading images reads a file: a memory map, also one behind views and chosen rows."""
    while images is not None and not isinstance(images, Tensor):
        if isinstance(images, np.memmap) or getattr(images, "is_on_disk", False):
            return True
        images = images.base if isinstance(images, np.ndarray) else getattr(images, "array", None)
    return False


def send(part: Tensor, device: torch.device) -> Tensor:
    """Move images to the device as they are: all that leaves the host goes through here."""
    return part.to(device, non_blocking=True)


def _on_host(images: Any, index: Indices) -> Tensor:
    """Some images where they are, as they are."""
    if isinstance(images, Tensor):
        return _rows(images, index)
    part = images[index]
    return part if isinstance(part, Tensor) else torch.from_numpy(np.array(part))


def _rows(images: Tensor, index: Indices) -> Tensor:
    return images[index if isinstance(index, slice) else torch.from_numpy(index).to(images.device)]

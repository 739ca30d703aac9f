"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hfcnn.datasets.files import DatasetError, Parts, Shape, no_part, one_set, open_plain
from hfcnn.datasets.pickles import as_array, decoded, unpickle

__all__ = ["CIFAR_BATCH", "read_cifar"]

#: Names of the batches, in a folder or an archive, binary (.bin) or pickled (no ending).
CIFAR_BATCH = r"(?:(?P<train>data_batch_(?P<number>\d+)|train)|test_batch|test)(?P<binary>\.bin)?"


def read_cifar(path: Path, split: str, image_shape: Shape | None) -> Parts:
    """CIFAR-10 or CIFAR-100 (fine labels), binary or pickled: a batch, a folder or a tar archive."""
    if path.is_file() and not is_tar(path):
        one_set(path, split)
        with open_plain(path) as file:
            return _cifar_batch(file.read(), str(path))
    found = []
    for name, data in _named_files(path, CIFAR_BATCH):
        match = re.fullmatch(CIFAR_BATCH, name)
        if match and (match["train"] is not None) == (split == "train"):
            found.append((match["binary"] is None, int(match["number"] or 0), name, data))
    if not found:
        no_part(path, split, "data_batch_1, ... or train" if split == "train" else "test_batch or test")
    # where both forms of the batches lie side by side, each image is still taken once: binary sorts first
    found = sorted(entry for entry in found if entry[0] == min(found)[0])
    batches = [_cifar_batch(data, f"{path}: {name}") for _, _, name, data in found]
    return np.concatenate([images for images, _ in batches]), np.concatenate([y for _, y in batches])


def is_tar(path: Path) -> bool:
    """Whether a file, decompressed, is a tar archive."""
    with open_plain(path) as file:
        return file.read(512)[257:262] == b"ustar"


def _named_files(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files whose names match, of a folder or of a tar archive."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.is_file() and re.fullmatch(pattern, file.name):
                yield file.name, file.read_bytes()
        return
    with open_plain(path) as raw, tarfile.open(fileobj=raw, mode="r|") as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None and re.fullmatch(pattern, name):
                yield name, content.read()


def _cifar_batch(data: bytes, source: str) -> Parts:
    if data.startswith(b"\x80"):
        pixels, labels = _cifar_pickle(data, source)
    else:
        pixels, labels = _cifar_binary(data, source)
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _cifar_binary(data: bytes, source: str) -> Parts:
    """Records of one label (CIFAR-10) or a coarse and a fine label (CIFAR-100), then 3072 bytes."""
    for n_labels, limits in ((1, (10,)), (2, (20, 100))):
        records, rest = divmod(len(data), n_labels + 3072)
        if rest == 0 and records:
            table = np.frombuffer(data, np.uint8).reshape(records, n_labels + 3072)
            if (table[:, :n_labels] < limits).all():
                return table[:, n_labels:], table[:, n_labels - 1]
    raise DatasetError(
        f"{source}: {len(data)} bytes that are not whole CIFAR records; expected records of 3073 bytes, "
        "the first a label of 0 to 9 (CIFAR-10), or of 3074, labels below 20 and 100 (CIFAR-100)"
    )


def _cifar_pickle(data: bytes, source: str) -> Parts:
    expected = "a dict with 'data', uint8 of shape (n, 3072), and 'labels' or 'fine_labels'"
    try:
        batch = unpickle(data)
        batch = {decoded(key): value for key, value in batch.items()}
        pixels = as_array(batch["data"])
        labels = as_array(batch["fine_labels" if "fine_labels" in batch else "labels"])
    except DatasetError as error:
        raise DatasetError(
            f"{source}: refused, the pickle {error}; expected only arrays, bytes, text, lists and dicts"
        ) from None
    except Exception as error:  # a damaged pickle can end in almost any exception
        raise DatasetError(
            f"{source}: not a CIFAR batch, or damaged ({type(error).__name__}: {error}); expected {expected}"
        ) from error
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise DatasetError(f"{source}: data {pixels.dtype} of shape {pixels.shape}; expected {expected}")
    return pixels, labels

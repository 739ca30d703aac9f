"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hfcnn.datasets.files import (
    Budget,
    DatasetError,
    Parts,
    Wanted,
    no_part,
    one_set,
    open_plain,
    read_plain,
)
from hfcnn.datasets.pickles import as_array, decoded, unpickle
from hfcnn.datasets.tar import is_tar, tar_members

__all__ = ["CIFAR_BATCH", "PICKLE", "read_cifar"]

#: Names of the batches, in a folder or an archive, binary (.bin) or pickled (no ending).
CIFAR_BATCH = r"(?:(?P<train>data_batch_(?P<number>\d{1,4})|train)|test_batch|test)(?P<binary>\.bin)?"

#: How a pickled dict starts, of protocol 2 to 5, 0 or 1.
PICKLE = rb"(?s:\x80[\x02-\x05]|\(dp\d+\r?\n|\}q.[(XU])"

#: Names of what CIFAR-10 holds beside the training batches, and so tells that it is there as a whole.
CIFAR_REST = r"test_batch(\.bin)?|batches\.meta(\.txt)?"

#: Training batches of CIFAR-10.
N_BATCHES = 5


def read_cifar(path: Path, wanted: Wanted) -> Parts:
    """CIFAR-10 or CIFAR-100 (fine labels), binary or pickled: a batch, a folder or a tar archive."""
    if path.is_file() and not _is_archive(path, wanted.budget):
        one_set(path, wanted.split)
        return _cifar_batch(read_plain(path, wanted.budget), str(path), wanted.budget)
    found: dict[tuple[bool, int], tuple[str, bytes]] = {}
    is_whole = False
    for name, data in _wanted_files(path, wanted):
        match = re.fullmatch(CIFAR_BATCH, name)
        if match is None or (match["train"] is not None) != (wanted.split == "train"):
            is_whole |= re.fullmatch(CIFAR_REST, name) is not None
            continue
        key = (match["binary"] is None, int(match["number"] or 0))
        if key in found:
            raise DatasetError(f"{path}: holds {name} and {found[key][0]}; expected each batch once")
        found[key] = (name, data)
    if not found:
        no_part(
            path,
            wanted.split,
            "data_batch_1, ... or train" if wanted.split == "train" else "test_batch or test",
        )
    # where both forms of the batches lie side by side, each image is still taken once: binary sorts first
    form = min(found)[0]
    numbers = sorted(number for is_pickled, number in found if is_pickled == form)
    if wanted.split == "train" and numbers != [0]:
        expected = set(range(1, max(N_BATCHES if is_whole else 1, numbers[-1]) + 1))
        if expected - {*numbers}:
            missing = ", ".join(f"data_batch_{number}" for number in sorted(expected - {*numbers})[:20])
            raise DatasetError(f"{path}: lacks {missing}; expected data_batch_1 to {max(expected)}")
    batches = [
        _cifar_batch(found[form, n][1], f"{path}: {found[form, n][0]}", wanted.budget) for n in numbers
    ]
    wanted.budget.take(sum(images.nbytes for images, _ in batches), path)
    return np.concatenate([images for images, _ in batches]), np.concatenate([y for _, y in batches])


def _is_archive(path: Path, budget: Budget) -> bool:
    with open_plain(path, budget) as file:
        return is_tar(file.read(512))


def _wanted_files(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the batches of the split, and the mere names of other files."""

    def is_wanted(name: str) -> bool:
        match = re.fullmatch(CIFAR_BATCH, name)
        return match is not None and (match["train"] is not None) == (wanted.split == "train")

    if not path.is_dir():
        yield from tar_members(path, is_wanted, wanted.budget)
        return
    for name in sorted(os.listdir(path)):
        file = path / name
        if not file.is_dir():
            yield name, read_plain(file, wanted.budget) if is_wanted(name) else b""


def _is_pickle(start: bytes) -> bool:
    """Whether a file that starts so may be a pickled dict, of protocol 0, 1 or later."""
    return re.match(PICKLE, start) is not None


def _cifar_batch(data: bytes, source: str, budget: Budget) -> Parts:
    pixels, labels = (
        _cifar_pickle(data, source, budget) if _is_pickle(data[:20]) else _cifar_binary(data, source)
    )
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


def _cifar_pickle(data: bytes, source: str, budget: Budget) -> Parts:
    expected = "a dict with 'data', uint8 of shape (n, 3072), and 'labels' or 'fine_labels'"
    try:
        batch = {decoded(key): value for key, value in unpickle(data, budget).items()}
        pixels = as_array(batch["data"], "data")
        labels = as_array(batch["fine_labels" if "fine_labels" in batch else "labels"], "labels")
    except DatasetError as error:
        raise DatasetError(
            f"{source}: refused, the pickle {error}; expected only arrays, bytes, text, lists and dicts"
        ) from None
    except Exception as error:  # a damaged pickle can end in almost any exception
        raise DatasetError(
            f"{source}: not a CIFAR batch, or damaged ({type(error).__name__}: {error}); expected {expected}"
        ) from error
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1:] != (3072,):
        raise DatasetError(f"{source}: data {pixels.dtype} of shape {pixels.shape}; expected {expected}")
    if labels.shape != (len(pixels),):
        raise DatasetError(
            f"{source}: labels of shape {labels.shape}; expected one for each of {len(pixels)} images"
        )
    return pixels, labels

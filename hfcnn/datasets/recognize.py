"""Which reader a file or folder needs: by what a file starts with, and by the names in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray

from hfcnn.datasets.cifar import CIFAR_BATCH, PICKLE, read_cifar
from hfcnn.datasets.decode import looks_like_image
from hfcnn.datasets.files import Budget, DatasetError, Parts, Wanted, open_plain
from hfcnn.datasets.folder import read_image_folder
from hfcnn.datasets.idx import IMAGES_NAME, read_idx
from hfcnn.datasets.matlab import read_mat
from hfcnn.datasets.norb import read_norb
from hfcnn.datasets.npz import read_npz
from hfcnn.datasets.shards import SHARD, Shards, read_shards
from hfcnn.datasets.svmlight import read_svmlight
from hfcnn.datasets.table import TABLE, TABLE_NAME, read_table
from hfcnn.datasets.tree import visible

__all__ = ["EXPECTED", "find_data_folder", "find_reader", "only_dataset_errors", "read"]

Reader: TypeAlias = Callable[[Path, Wanted], "Parts | tuple[Shards, NDArray[Any]]"]

#: What the first 512 bytes of a file, decompressed, match, and who reads it.
FILES: tuple[tuple[bytes, Reader], ...] = (
    (rb"PK\x03\x04", read_npz),
    (rb"\x00\x00[\x08\x09\x0b-\x0e][\x01-\x04]", read_idx),
    (rb"[\x54\x55]\x4c\x3d\x1e", read_norb),
    (rb"MATLAB [57]\.\d MAT-file", read_mat),
    (PICKLE, read_cifar),
    (rb"(?s:.{257})ustar", read_cifar),
    (rb"(?:\s*#[^\n]*\n)*\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?(?:[ \t]+\d+:[-+\d.]|[ \t]*\r?\n)", read_svmlight),
    (TABLE, read_table),
)

#: What the name of some file in a folder matches, and who reads the folder.
FOLDERS: tuple[tuple[str, Reader], ...] = (
    (IMAGES_NAME, read_idx),
    (CIFAR_BATCH, read_cifar),
    (r"(train|test)_32x32\.mat", read_mat),
    (r".*-dat\.mat(\.gz)?", read_norb),
    (TABLE_NAME, read_table),
    (SHARD, read_shards),
)

EXPECTED = (
    "IDX, npz, .npy shards, CIFAR (binary or python), SVHN or simpleNN .mat, NORB .mat, LIBSVM text, "
    "or CSV of pixels"
)

#: How deep below a folder its data set may lie: MNIST/raw in torchvision's root.
DEEPEST_DATA = 3


def read(path: Path, wanted: Wanted) -> tuple[NDArray[Any] | Shards, NDArray[Any]]:
    """Images and labels as they are in a file or folder of any format, within `only_dataset_errors`.

    Raises
    ------
    DatasetError
        If it is damaged, of no known format, too large, or lacks the part.
    OSError
        If it, or a file that belongs to it, is not there or may not be read.
    ImportError
        If a library is missing that reads it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected {EXPECTED}, or a folder of images")
    place, reader = find_reader(path, wanted.budget)
    return reader(place, wanted)


@contextmanager
def only_dataset_errors(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong on the way from a file to checked arrays into an error that names the file.

    Raises
    ------
    DatasetError
        In the place of any error but those of `read`.
    """
    try:
        yield
    except (DatasetError, FileNotFoundError, PermissionError, ImportError):
        raise
    except MemoryError as error:
        raise DatasetError(
            f"{path}: needs more memory than there is; max_bytes sets a lower limit"
        ) from error
    except Exception as error:  # a damaged file leads decoders into almost any exception
        raise DatasetError(f"{path}: damaged ({error}); expected {EXPECTED}") from error


def find_reader(path: Path, budget: Budget) -> tuple[Path, Reader]:
    """Tell where the data set is, at the path or below it, and who reads it.

    Raises
    ------
    DatasetError
        If its format is not known.
    """
    if path.is_dir():
        found = find_data_folder(path)
        if found is not None:
            return found
        if any(entry.is_dir() for entry in path.iterdir()):
            return path, read_image_folder
        raise DatasetError(
            f"{path}: no data set in this folder; expected the files of {EXPECTED}, or images in one "
            "sub-folder per class"
        )
    with open_plain(path, budget) as file:
        head = file.read(512)
        for magic, reader in FILES:
            if re.match(magic, head):
                return path, reader
        if looks_like_image(head):
            raise DatasetError(
                f"{path}: one image, which has no label; expected a folder with one sub-folder per class "
                "(hfcnn.datasets.load_images reads images without labels)"
            )
        # binary CIFAR has no magic number: its length and the labels below 10 or 100 must do
        size = len(head) + sum(map(len, iter(lambda: file.read(1 << 16), b"")))
    if path.name.endswith((".bin", ".bin.gz")) or size and 0 in (size % 3073, size % 3074):
        return path, read_cifar
    raise DatasetError(
        f"{path}: of no known format, starts with {head[:8].hex(' ') or 'nothing'}; expected {EXPECTED}"
    )


def find_data_folder(path: Path) -> tuple[Path, Reader] | None:
    """Find the folder, at the path or below, that holds files of a known data set, and its reader.

    Raises
    ------
    DatasetError
        If there are several.
    """
    layer = [path]
    for _ in range(DEEPEST_DATA):
        found = [(folder, reader) for folder in layer if (reader := _folder_reader(folder)) is not None]
        if len(found) > 1:
            names = ", ".join(str(folder) for folder, _ in found[:5])
            raise DatasetError(f"{path}: holds several data sets; expected the path of one of {names}")
        if found:
            return found[0]
        layer = [folder for parent in layer for folder in _sub_folders(parent)]
    return None


def _folder_reader(folder: Path) -> Reader | None:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.is_dir()]
    for pattern, reader in FOLDERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return reader
    return None


def _sub_folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if visible(e.name) and e.is_dir(follow_symlinks=False))
    return [folder / name for name in names]

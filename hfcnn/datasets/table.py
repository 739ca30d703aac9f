"""CSV of pixels: one image per line, with its label in one column."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import (
    Budget,
    DatasetError,
    MissingPartError,
    Parts,
    Wanted,
    no_part,
    one_set,
    read_plain,
)
from hfcnn.datasets.pixels import flat_to_images, to_uint8

__all__ = ["TABLE", "TABLE_NAME", "read_table"]

#: What a CSV file starts with: names of columns, or a label and at least four numbers.
TABLE = rb'(?:\xef\xbb\xbf)?(?:"?[A-Za-z_][\w .-]*"?,|"?\d+"?(?:,"?[\d.]+"?){4}|,)'

#: Names of the files of a folder, such as Kaggle's train.csv and fashion-mnist_test.csv.
TABLE_NAME = r"(?:.*[-_])?(?P<part>train|test)(?:ing)?\.csv(?:\.gz|\.bz2|\.xz)?"

#: Names of the column of labels and of columns that are neither label nor pixel, in small letters.
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
OTHER_COLUMNS = ("id", "imageid", "image_id", "index", "unnamed: 0", "")

#: Most characters of a label, and of the line of names.
LONGEST_LABEL, LONGEST_HEADER = 1000, 1 << 20

#: Bytes that a line takes besides its text, and a number while it is parsed.
BYTES_PER_LINE, BYTES_PER_NUMBER = 64, 4


def read_table(path: Path, wanted: Wanted) -> Parts:
    """A CSV file with a column of labels and one per pixel; or a folder of a train and a test file."""
    if path.is_dir():
        matches = {name: re.fullmatch(TABLE_NAME, name) for name in sorted(p.name for p in path.iterdir())}
        names = [name for name, match in matches.items() if match and match["part"] == wanted.split]
        if not names:
            no_part(path, wanted.split, f"{wanted.split}.csv")
        if len(names) > 1:
            raise DatasetError(f"{path}: has {', '.join(names)}; expected one file: give its path")
        path = path / names[0]
    elif wanted.labelled:
        one_set(path, wanted.split)
    data = read_plain(path, wanted.budget).removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    end = data.find(b"\n")
    first = next(csv.reader([data[: end if end >= 0 else None][:LONGEST_HEADER].decode("utf-8")]))
    label, pixels, has_header = _columns(first, path)
    if label is None and wanted.labelled:
        raise MissingPartError(f"{path}: no column of labels; expected one of {', '.join(LABEL_COLUMNS)}")
    wanted.budget.take(BYTES_PER_LINE * (data.count(b"\n") + data.count(b"\r")), path)
    lines = data.replace(b'"', b"").splitlines()[has_header:]
    lines = [line for line in lines if line.strip()]
    if not lines or not pixels:
        raise DatasetError(f"{path}: no pixels; expected one image per line")
    for i, line in enumerate(lines):
        if line.count(b",") != len(first) - 1:
            raise DatasetError(
                f"{path}: damaged, image {i} has {line.count(b',') + 1} columns; expected {len(first)}"
            )
    wanted.budget.take(BYTES_PER_NUMBER * len(lines) * len(pixels), path)
    try:
        values = np.loadtxt(lines, np.float32, delimiter=",", usecols=pixels, comments=None, ndmin=2)
    except ValueError as error:
        raise DatasetError(f"{path}: damaged ({error}); expected numbers of pixels") from error
    labels = (
        np.empty(0, np.int64) if label is None else _labels(lines, label, len(first), path, wanted.budget)
    )
    return flat_to_images(to_uint8(values, path, wanted.budget), path, wanted), labels


def _columns(first: list[str], path: Path) -> tuple[int | None, list[int], bool]:
    """Tell the column of labels and those of pixels, and whether the first line is one of names."""
    names = [cell.strip().lower() for cell in first]
    labels = [i for i, name in enumerate(names) if name in LABEL_COLUMNS]
    has_header = bool(labels) or any(not _is_number(name) for name in names[1:])
    if not has_header:
        return 0, list(range(1, len(first))), False
    if len(labels) > 1:
        raise DatasetError(
            f"{path}: has the columns {' and '.join(names[i] for i in labels)}; expected one of labels"
        )
    label = labels[0] if labels else None
    return label, [i for i, name in enumerate(names) if i != label and name not in OTHER_COLUMNS], True


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", text) is not None


def _labels(lines: list[bytes], column: int, n_columns: int, path: Path, budget: Budget) -> NDArray[Any]:
    if column == n_columns - 1:
        cells = [line.rsplit(b",", 1)[-1].strip() for line in lines]
    else:
        cells = [line.split(b",", column + 1)[column].strip() for line in lines]
    if max(map(len, cells)) > LONGEST_LABEL or not all(cells):
        raise DatasetError(f"{path}: labels that are empty or longer than {LONGEST_LABEL} characters")
    # an array of text takes for each what the longest needs, in four bytes per character
    budget.take(BYTES_PER_LINE * len(cells), path)
    texts = [cell.decode("utf-8") for cell in cells]
    if all(re.fullmatch(r"[-+]?\d{1,18}", text) for text in texts):
        return np.array([int(text) for text in texts], np.int64)
    if all(_is_number(text) for text in texts):
        return np.array([float(text) for text in texts])
    budget.take(4 * max(map(len, texts)) * len(texts), path)
    return np.array(texts)

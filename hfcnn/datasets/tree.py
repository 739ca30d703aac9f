"""Folders of image files: what lies in them, and which folders are parts and which are classes."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hfcnn.datasets.decode import is_image_name, looks_like_image
from hfcnn.datasets.files import DatasetError

__all__ = [
    "ImageTree",
    "class_folders",
    "label_of",
    "part_folders",
    "part_of",
    "scan",
    "unwrapped",
    "visible",
]

#: How deep folders may lie in one another.
DEEPEST = 16

#: Endings of files that lie beside images and are passed over.
COMPANIONS = frozenset(
    ".txt .md .rst .html .pdf .json .jsonl .yaml .yml .xml .csv .tsv .ini .db .log .py .ipynb".split()
)

#: Names of a folder of training images, of test images, and of further images without labels, in small
#: letters with "-", "_" and blanks taken out.
PARTS = {
    "train": frozenset(["train", "training", "trainset", "trainingset", "segtrain", "trainimages"]),
    "test": frozenset(["test", "testing", "testset", "testingset", "segtest", "testimages"]),
    "validation": frozenset(["val", "valid", "validation", "valset", "validset", "validationset", "dev"]),
    "unlabelled": frozenset(["pred", "predict", "segpred", "unlabelled", "unlabeled", "unsup"]),
}


@dataclass
class ImageTree:
    """Images of a folder and its sub-folders.

    Attributes
    ----------
    path : Path
        The folder.
    images : list of Path
        Image files that lie in it, sorted by name.
    folders : list of ImageTree
        Its sub-folders, sorted by name.
    others : list of Path
        Files that are neither images nor known companions of images.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: list[ImageTree] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def all_images(self) -> Iterator[Path]:
        """Give the images of the folder and of all below it."""
        yield from self.images
        for folder in self.folders:
            yield from folder.all_images()

    def all_others(self) -> Iterator[Path]:
        """Give the files that cannot be read, of the folder and of all below it."""
        yield from self.others
        for folder in self.folders:
            yield from folder.all_others()


def visible(name: str) -> bool:
    """Whether a file or folder is meant to be seen: not hidden, nor of an archiver of macOS."""
    return not name.startswith(".") and name != "__MACOSX"


def scan(path: Path) -> ImageTree:
    """List the images of a folder and of the folders below it.

    Raises
    ------
    DatasetError
        If there is a link to somewhere else or to a folder, a device, a pipe or a socket, or a folder more
        than 16 deep.
    OSError
        If the system does not list a folder.
    """
    return _scan(path, path.resolve(), 0)


def _scan(path: Path, root: Path, depth: int) -> ImageTree:
    if depth > DEEPEST:
        raise DatasetError(f"{path}: folders more than {DEEPEST} deep; expected images in folders of classes")
    tree = ImageTree(path)
    with os.scandir(path) as entries:
        found = sorted(entry.name for entry in entries if visible(entry.name))
    for name in found:
        file = path / name
        mode = file.lstat().st_mode
        if stat.S_ISLNK(mode):
            _check_link(file, root)
            mode = file.stat().st_mode
        if stat.S_ISDIR(mode):
            tree.folders.append(_scan(file, root, depth + 1))
        elif not stat.S_ISREG(mode):
            raise DatasetError(f"{file}: a device, pipe or socket; expected image files and folders of them")
        elif is_image_name(name) or _starts_as_image(file):
            tree.images.append(file)
        elif file.suffix.lower() not in COMPANIONS and name != "Thumbs.db":
            tree.others.append(file)
    return tree


def _check_link(file: Path, root: Path) -> None:
    target = file.resolve()
    if not target.is_relative_to(root):
        raise DatasetError(
            f"{file}: a link out of {root}; expected the images themselves, or links to others of the folder"
        )
    if not target.is_file():
        kind = "a folder" if target.is_dir() else "nothing that is a file"
        raise DatasetError(f"{file}: a link to {kind}; expected the images themselves, or links to them")


def _starts_as_image(file: Path) -> bool:
    if file.suffix and file.suffix.lower() in COMPANIONS:
        return False
    with open(file, "rb") as opened:
        return looks_like_image(opened.read(16))


def part_of(name: str) -> str | None:
    """Tell which part of a data set a folder of this name holds; None if the name is of none."""
    plain = name.lower().translate({ord(sign): None for sign in "-_ "})
    return next((part for part, names in PARTS.items() if plain in names), None)


def part_folders(tree: ImageTree) -> dict[str, ImageTree]:
    """Folders of parts by "train", "test" and "validation"; none if the folders are classes.

    A folder such as ``train`` is a part if it holds folders and no images itself; otherwise it is a class.

    Raises
    ------
    DatasetError
        If it cannot be told whether folders are parts or classes.
    """
    parts: dict[str, ImageTree] = {}
    for folder in tree.folders:
        part = part_of(folder.path.name)
        if part in ("train", "test", "validation") and folder.folders and not folder.images:
            if part in parts:
                raise DatasetError(
                    f"{tree.path}: has {parts[part].path.name} and {folder.path.name}; expected one folder "
                    f"of {part} images"
                )
            parts[part] = folder
    rest = [f.path.name for f in tree.folders if part_of(f.path.name) is None and any(f.all_images())]
    if parts and rest:
        raise DatasetError(
            f"{tree.path}: has {', '.join(sorted(p.path.name for p in parts.values()))}, which hold folders "
            f"of classes, and beside them {', '.join(rest[:5])}; expected either parts or classes: give the "
            "path of one part, or move the others away"
        )
    return parts


def class_folders(tree: ImageTree, split: str) -> list[ImageTree] | None:
    """Folders of classes of the part asked for, none if it is not there; None if there are no parts.

    Raises
    ------
    DatasetError
        As `part_folders`, or if parts hold images that are in no folder of a class.
    """
    parts = part_folders(tree)
    if not parts:
        _check_flat_parts(tree)
        return None
    chosen = parts.get(split) or (parts.get("validation") if split == "test" else None)
    return [] if chosen is None else unwrapped(chosen, stops_at_part=False).folders


def _check_flat_parts(tree: ImageTree) -> None:
    names = [folder.path.name for folder in tree.folders if any(folder.all_images())]
    if names and all(part_of(name) for name in names):
        raise DatasetError(
            f"{tree.path}: {', '.join(names)} hold images that are in no folder of a class; expected one "
            "sub-folder per class in each, named by its label"
        )


def unwrapped(tree: ImageTree, *, stops_at_part: bool) -> ImageTree:
    """Go down where a folder holds nothing but one other folder of folders, as unpacked archives do."""
    while len(tree.folders) == 1 and not tree.images and tree.folders[0].folders:
        inner = tree.folders[0]
        if inner.images or (stops_at_part and part_of(inner.path.name)):
            break
        tree = inner
    return tree


def label_of(folder: Path) -> str:
    """Label of a class: the name of its folder, composed as Linux and Windows write accents.

    Raises
    ------
    DatasetError
        If the name is no text.
    """
    label = unicodedata.normalize("NFC", folder.name)
    try:
        label.encode()
    except UnicodeEncodeError:
        raise DatasetError(f"{folder!s}: a name that is not in UTF-8; expected one that is text") from None
    return label

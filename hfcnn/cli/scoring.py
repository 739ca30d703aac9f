"""The commands that use a trained model: ``hfcnn predict``, ``evaluate`` and ``export``."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hfcnn.cli.images import load_scaled, load_trained, scaled
from hfcnn.cli.options import DataPath, DeviceName, MaxBytes, ModelPath, SplitName
from hfcnn.commands import print_line, printable

__all__ = ["evaluate", "export", "predict"]


def predict(
    model: ModelPath,
    data: Annotated[
        list[str],
        typer.Argument(help="Image files, folders of them, patterns such as 'photos/*.jpg', or data sets."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="CSV file to write.", show_default="standard output")
    ] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    split: SplitName = None,
    max_bytes: MaxBytes = "auto",
    device: DeviceName = "auto",
) -> None:
    """Predict the class of each image, as CSV: file, label, its probability. No labels are needed."""
    from hfcnn.datasets import load_images
    from hfcnn.files import check_output_path, check_separate, write_atomically

    if output is not None:
        check_output_path(output, "--output")
        check_separate(output, "--output", **{"MODEL": model} | {path: Path(path) for path in data})
    classifier, scaler = load_trained(model, device)
    shape = classifier.image_shape_
    X, files = load_images(data, split=cast(Any, split), image_shape=shape, max_bytes=max_bytes)
    X = scaled(X, scaler)
    text = csv_of(files, classifier.predict(X), classifier.predict_proba(X), classifier.classes_, proba)
    if output is not None:
        write_atomically(output, text.encode(errors="backslashreplace"))
    else:
        sys.stdout.buffer.write(
            text.encode(errors="backslashreplace")
        )  # UTF-8, whatever the terminal's locale
        sys.stdout.flush()


def csv_of(files: Sequence[str], labels: Any, probabilities: Any, classes: Any, has_all: bool) -> str:
    """Table of predictions: a row per image, in the order of the files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = classes.tolist()
    writer.writerow(["file", "label", "probability", *(f"p_{name}" for name in names if has_all)])
    for file, label, row in zip(files, labels.tolist(), probabilities.tolist(), strict=True):
        writer.writerow([file, label, row[names.index(label)], *(row if has_all else ())])
    return text.getvalue()


def evaluate(
    model: ModelPath,
    data: DataPath,
    split: SplitName = None,
    max_bytes: MaxBytes = "auto",
    confusion: Annotated[Path | None, typer.Option(help="PNG file for a confusion matrix.")] = None,
    device: DeviceName = "auto",
) -> None:
    """Print how many images of a data set a model classifies rightly, overall and of each class."""
    from hfcnn.files import check_output_path, check_separate

    if confusion is not None:
        check_output_path(confusion, "--confusion")
        check_separate(confusion, "--confusion", MODEL=model, DATA=data)
    classifier, X, y, part = load_scaled(model, data, split, device, max_bytes)
    if not set(y.tolist()) & set(classifier.classes_.tolist()):
        raise ValueError(
            f"{data} ({part}) has no label that {model} knows: it has {shortened(y)}; the model knows "
            f"{shortened(classifier.classes_)}"
        )
    is_right = classifier.predict(X) == y
    table = Table("class", "images", "right", "accuracy")
    for label in sorted(set(y.tolist())):
        of_class = is_right[y == label]
        table.add_row(
            Text(printable(str(label))),
            str(len(of_class)),
            str(of_class.sum()),
            f"{100 * of_class.mean():.2f} %",
        )
    console = Console()
    console.print(table)
    print_line(console, f"accuracy {100 * is_right.mean():.2f} % of {len(y)} images of {data} ({part})")
    if confusion is not None:
        from hfcnn import plots

        plots.confusion(classifier, X, y).figure.savefig(confusion, dpi=150)


def shortened(labels: Any) -> str:
    """The first of some labels, in words."""
    different = sorted(set(labels.tolist()))
    return ", ".join(map(repr, different[:5])) + (", ..." if len(different) > 5 else "")


def export(
    model: ModelPath,
    onnx: Annotated[Path, typer.Option(help="ONNX file to write.")],
) -> None:
    """Write a model as one ONNX graph: raw pixels in, probabilities and class names out."""
    from hfcnn.files import check_output_path, check_separate

    check_output_path(onnx, "--onnx")
    check_separate(onnx, "--onnx", MODEL=model)
    classifier, scaler = load_trained(model, "cpu")
    classifier.export_onnx(onnx, scaler=scaler)
    shape = ", ".join(map(str, classifier.image_shape_))
    pixels = "float32, scaled as in training" if scaler is classifier.scaler_ else "uint8, raw pixels"
    print_line(Console(), f"{onnx}: images (batch, {shape}), {pixels}; gives probabilities and label")

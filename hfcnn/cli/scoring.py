"""The commands that use a trained model: ``hfcnn predict``, ``evaluate`` and ``export``."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from hfcnn.cli.images import load_scaled, load_trained
from hfcnn.cli.options import DataPath, DeviceName, ModelPath, SplitName
from hfcnn.commands import print_line

__all__ = ["evaluate", "export", "predict"]


def predict(
    model: ModelPath,
    data: DataPath,
    output: Annotated[Path | None, typer.Option(help="CSV file to write. [default: standard output]")] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    split: SplitName = None,
    device: DeviceName = "auto",
) -> None:
    """Predict the label of each image of a data set, as CSV."""
    from hfcnn.files import check_output_path, write_atomically

    if output is not None:
        check_output_path(output, "--output")
    classifier, X, _, _ = load_scaled(model, data, split, device)
    columns = [classifier.predict(X)[:, None]]
    names = ["label"]
    if proba:
        columns.append(classifier.predict_proba(X))
        names += [f"p_{label}" for label in classifier.classes_]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *names])
    for index, rows in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        writer.writerow([index, *(value for row in rows for value in row)])
    if output is not None:
        write_atomically(output, text.getvalue().encode())
    else:
        sys.stdout.write(text.getvalue())


def evaluate(
    model: ModelPath,
    data: DataPath,
    split: SplitName = None,
    confusion: Annotated[Path | None, typer.Option(help="PNG file for a confusion matrix.")] = None,
    device: DeviceName = "auto",
) -> None:
    """Print how many images of a data set a model classifies rightly, overall and of each class."""
    from hfcnn.files import check_output_path

    if confusion is not None:
        check_output_path(confusion, "--confusion")
    classifier, X, y, part = load_scaled(model, data, split, device)
    is_right = classifier.predict(X) == y
    table = Table("class", "images", "right", "accuracy")
    for label in sorted(set(y.tolist())):
        of_class = is_right[y == label]
        table.add_row(str(label), str(len(of_class)), str(of_class.sum()), f"{100 * of_class.mean():.2f} %")
    console = Console()
    console.print(table)
    print_line(console, f"accuracy {100 * is_right.mean():.2f} % of {len(y)} images of {data} ({part})")
    if confusion is not None:
        from hfcnn import plots

        plots.confusion(classifier, X, y).figure.savefig(confusion, dpi=150)


def export(
    model: ModelPath,
    onnx: Annotated[Path, typer.Option(help="ONNX file to write.")],
) -> None:
    """Write a model as one ONNX graph: raw pixels in, probabilities and class names out."""
    from hfcnn.files import check_output_path

    check_output_path(onnx, "--onnx")
    classifier, scaler = load_trained(model, "cpu")
    classifier.export_onnx(onnx, scaler=scaler)
    shape = ", ".join(map(str, classifier.image_shape_))
    pixels = "float32, scaled as in training" if scaler is None else "uint8, raw pixels"
    print_line(Console(), f"{onnx}: images (batch, {shape}), {pixels}; gives probabilities and label")

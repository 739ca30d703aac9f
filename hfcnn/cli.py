"""The command ``hfcnn``: train, use and look at classifiers; and the way to experiments and benchmarks."""

from __future__ import annotations

import csv
import importlib
import math
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from hfcnn._version import __version__
from hfcnn.commands import Commands, print_line

__all__ = ["app"]


class _Lazy(TyperGroup):
    """The commands of another module's `app`, which is imported once one of them is asked for."""

    module: ClassVar[str]

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return self._group().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Look a command up."""
        return self._group().get_command(ctx, cmd_name)

    def _group(self) -> TyperGroup:
        try:
            return typer.main.get_group(importlib.import_module(self.module).app)
        except ModuleNotFoundError as error:
            if error.name != "triton":
                raise
            raise ImportError("the kernels need triton: pip install 'hfcnn[gpu]'") from error


class _Reproduce(_Lazy):
    module = "hfcnn.experiments.cli"


class _Benchmark(_Lazy):
    module = "hfcnn.benchmark.cli"


class _Kernels(_Lazy):
    module = "hfcnn.kernels.tools.cli"


app = typer.Typer(cls=Commands, no_args_is_help=True)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"hfcnn {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train convolutional networks by the subsampled Gauss-Newton method."""


app.add_typer(
    typer.Typer(cls=_Reproduce, no_args_is_help=True),
    name="reproduce",
    help="Run the paper's experiments, and write its tables beside ours.",
)
app.add_typer(
    typer.Typer(cls=_Benchmark, no_args_is_help=True),
    name="benchmark",
    help="Time products, iterations and predictions.",
)
app.add_typer(
    typer.Typer(cls=_Kernels, no_args_is_help=True),
    name="kernels",
    help="Compile, time and tune the Triton kernels.",
)


def _sampling_rate(text: str) -> float | int | str:
    if text == "auto":
        return text
    return int(text) if text.isdigit() else float(text)


def _image_shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


Data = Annotated[Path, typer.Argument(help="Data set: a file or folder in a format of hfcnn.load.")]
Model = Annotated[Path, typer.Argument(help="File that train saved.")]
Split = Annotated[str | None, typer.Option(help="train or test. [default: test if there is one]")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Backend = Annotated[str, typer.Option(help="auto, torch or triton.")]
Precision = Annotated[str, typer.Option(help="auto, ieee, tf32, tf32x3 or bf16: arithmetic of products.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("hfcnn-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and sampling.")] = 0,
) -> None:
    """Train on the 8 x 8 digits that scikit-learn ships: less than a minute."""
    from hfcnn.demo import run

    run(output, seed, Console())


@app.command()
def train(
    data: Data,
    save: Annotated[Path, typer.Option(help="File for the model.")],
    network: Annotated[str, typer.Option(help="cnn3 or cnn5, the paper's.")] = "cnn3",
    C: Annotated[float, typer.Option("--C", help="Regularisation, times the number of images.")] = 0.01,
    loss: Annotated[str, typer.Option(help="squared or cross_entropy.")] = "squared",
    sampling_rate: Annotated[
        Any,
        typer.Option(parser=_sampling_rate, metavar="RATE", help="Images in S: a share, a number or auto."),
    ] = "auto",
    max_iter: Annotated[int, typer.Option(min=1, help="Newton iterations.")] = 100,
    train_size: Annotated[
        int | None, typer.Option(min=2, help="Training images, a stratified choice. [default: all]")
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(help="Data set to test on after each iteration. [default: DATA's test part, if any]"),
    ] = None,
    image_shape: Annotated[
        Any,
        typer.Option(
            parser=_image_shape, metavar="H,W[,C]", help="Shape of images, where a file does not tell."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of choice, weights and sampling.")] = 0,
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(help="File that keeps the run after each iteration.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint of the same run, to go on from.")] = None,
    progress: Annotated[bool, typer.Option(help="Print a row an iteration.")] = True,
) -> None:
    """Train on a data set, scaled as in the paper; Ctrl-C keeps the model that is reached."""
    from sklearn.exceptions import ConvergenceWarning

    from hfcnn.datasets import load
    from hfcnn.estimator import NewtonCNNClassifier
    from hfcnn.persistence import save_model
    from hfcnn.preprocessing import ImageScaler

    if not save.absolute().parent.is_dir():
        raise FileNotFoundError(f"{save}: there is no folder of that name to save in")
    X, y = load(data, image_shape=image_shape)
    X_val, y_val = _test_part(data, test, X.shape[1:])
    X, y = _choose(X, y, train_size, seed)
    scaler = ImageScaler().fit(X)
    classifier = NewtonCNNClassifier(
        network,
        C=C,
        loss=loss,
        sampling_rate=sampling_rate,
        max_iter=max_iter,
        checkpoint=checkpoint,
        backend=backend,
        device=device,
        precision=precision,
        random_state=seed,
        verbose=int(progress),
    )
    console = Console()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)  # not finite, or interrupted
        classifier.fit(
            scaler.transform(X),
            y,
            X_val=None if X_val is None else scaler.transform(X_val),
            y_val=y_val,
            resume_from=resume,
        )
    for warning in caught:
        print_line(console, str(warning.message))
    save_model(classifier, save, scaler)
    accuracy = classifier.history_.get("validation_accuracy", [math.nan])[-1]
    tested = f", test accuracy {100 * accuracy:.2f} %" if math.isfinite(accuracy) else ""
    print_line(console, f"{save}: the model of iteration {classifier.n_iter_}{tested}")


@app.command()
def predict(
    model: Model,
    data: Data,
    output: Annotated[Path | None, typer.Option(help="CSV file to write. [default: standard output]")] = None,
    proba: Annotated[bool, typer.Option("--proba", help="Add the probability of each class.")] = False,
    split: Split = None,
    device: Device = "auto",
) -> None:
    """Predict the label of each image of a data set, as CSV."""
    classifier, X, _ = _model_and_data(model, data, split, device)
    columns = [classifier.predict(X)[:, None]]
    names = ["label"]
    if proba:
        columns.append(classifier.predict_proba(X))
        names += [f"p_{label}" for label in classifier.classes_]
    with output.open("w", newline="") if output else nullcontext(sys.stdout) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", *names])
        for index, rows in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
            writer.writerow([index, *(value for row in rows for value in row)])


@app.command()
def evaluate(
    model: Model,
    data: Data,
    split: Split = None,
    confusion: Annotated[Path | None, typer.Option(help="PNG file for a confusion matrix.")] = None,
    device: Device = "auto",
) -> None:
    """Print how many images of a data set a model classifies rightly, overall and of each class."""
    classifier, X, y = _model_and_data(model, data, split, device)
    is_right = classifier.predict(X) == y
    table = Table("class", "images", "right", "accuracy")
    for label in sorted(set(y.tolist())):
        of_class = is_right[y == label]
        table.add_row(str(label), str(len(of_class)), str(of_class.sum()), f"{100 * of_class.mean():.2f} %")
    console = Console()
    console.print(table)
    console.print(f"accuracy {100 * is_right.mean():.2f} % of {len(y)} images", highlight=False)
    if confusion is not None:
        from hfcnn import plots

        plots.confusion(classifier, X, y).figure.savefig(confusion, dpi=150)


def _model_and_data(model: Path, data: Path, split: str | None, device: str) -> tuple[Any, Any, Any]:
    """Load a classifier, and images, scaled for it, with their labels."""
    from hfcnn.estimator import NewtonCNNClassifier
    from hfcnn.persistence import load_scaler

    classifier = NewtonCNNClassifier.load(model, device=device)
    X, y = _load(data, split, classifier.image_shape_)
    return classifier, load_scaler(model).transform(X), y


def _load(path: Path, split: str | None, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Load a part of a data set: by default its test part, or all where it has none."""
    from hfcnn.datasets import DatasetError, load

    if split is not None:
        return load(path, split=cast(Any, split), image_shape=image_shape)
    try:
        return load(path, split="test", image_shape=image_shape)
    except DatasetError:
        return load(path, image_shape=image_shape)


def _test_part(data: Path, test: Path | None, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Load the images to test on while training: (None, None) if there are none."""
    from hfcnn.datasets import DatasetError, load

    if test is not None:
        return _load(test, None, image_shape)
    try:
        return load(data, split="test", image_shape=image_shape)
    except (DatasetError, FileNotFoundError):
        return None, None


def _choose(X: Any, y: Any, size: int | None, seed: int) -> tuple[Any, Any]:
    """Choose some images, of each class its share."""
    import numpy as np
    from sklearn.model_selection import train_test_split

    if size is None or size >= len(y):
        return X, y
    rows, _ = train_test_split(np.arange(len(y)), train_size=size, stratify=y, random_state=seed)
    return X[rows], y[rows]

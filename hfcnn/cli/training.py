"""The command ``hfcnn train``."""

from __future__ import annotations

import signal
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from hfcnn.cli.images import load_part, load_test_part
from hfcnn.cli.options import (
    BackendName,
    DataPath,
    DeviceName,
    MaxBytes,
    PrecisionName,
    parse_bytes,
    parse_network,
    parse_number,
    parse_sizes,
    parsed,
)
from hfcnn.cli.processes import checkpoint_to_resume, is_worker, join_group, start_workers
from hfcnn.commands import print_line

__all__ = ["train"]


def train(
    data: DataPath,
    save: Annotated[Path, typer.Option(help="File for the model.")],
    network: Annotated[
        str, typer.Option(help="cnn3 or cnn5, the paper's; or layers: conv32x5p2,conv64x3p2,dense128.")
    ] = "cnn3",
    solver: Annotated[
        str,
        typer.Option(
            help="kfac: many steps on small batches, in epochs; newton-cg: iterations over all images, the "
            "paper's; auto: kfac, or newton-cg if --max-iter is given."
        ),
    ] = "auto",
    C: Annotated[
        Any,
        typer.Option(
            "--C",
            parser=parse_number,
            metavar="C",
            help="Inverse strength of the regularisation: smaller is more of it.",
            show_default="0.03, with --max-iter 0.01; more for few images",
        ),
    ] = None,
    loss: Annotated[
        str,
        typer.Option(
            help="squared, cross_entropy, or auto: squared for newton-cg and for 300 images and fewer."
        ),
    ] = "auto",
    sampling_rate: Annotated[
        Any,
        parsed(
            parse_number,
            "RATE",
            "Images by which an iteration of newton-cg measures curvature: a share such as 0.1, a number, or "
            "auto: 5 %, at least 256.",
        ),
    ] = "auto",
    max_iter: Annotated[
        int | None, typer.Option(min=1, help="Most iterations of newton-cg.", show_default="100")
    ] = None,
    epochs: Annotated[
        Any,
        parsed(
            parse_number,
            "EPOCHS",
            "Epochs of kfac, passes over the images; auto ends once they no longer help.",
        ),
    ] = "auto",
    early_stopping: Annotated[
        bool,
        typer.Option(
            "--early-stopping",
            help="Put some training images aside, stop once accuracy on them rises no more, keep the best.",
        ),
    ] = False,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the images that --early-stopping puts aside.")
    ] = 0.1,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: rare classes count as much as frequent ones.")
    ] = None,
    train_size: Annotated[
        int | None,
        typer.Option(min=2, help="Train on so many images, of each class its share.", show_default="all"),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(
            help="Data set to test on after each iteration.", show_default="DATA's test part, if any"
        ),
    ] = None,
    size: Annotated[
        Any, parsed(parse_sizes, "H,W", "Size to bring image files to: resized, then cut at the centre.")
    ] = None,
    color: Annotated[str | None, typer.Option(help="Colour to bring image files to: gray or rgb.")] = None,
    image_shape: Annotated[
        Any, parsed(parse_sizes, "H,W[,C]", "Shape of images, where a file of arrays does not tell.")
    ] = None,
    max_bytes: MaxBytes = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of choice, weights and sampling.")] = 0,
    device: DeviceName = "auto",
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images that go through the network at once.")
    ] = None,
    memory: Annotated[
        Any,
        parsed(
            parse_bytes,
            "BYTES",
            "What newton-cg may keep in memory to be faster: 500M, 2G; auto is a quarter of what is free.",
        ),
    ] = "auto",
    n_jobs: Annotated[int | None, typer.Option(help="Processor threads; -1 is all.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to which the run is written after each iteration or epoch.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint of the same run, to go on from.")] = None,
    nproc: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine that share the images, each with a GPU if any."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Print a row per iteration or epoch.")] = True,
) -> None:
    """Train on a data set or a folder of images; Ctrl-C keeps the model that is reached."""
    from hfcnn.estimator import NewtonCNNClassifier
    from hfcnn.interrupts import hold_interrupts

    check_outputs(save, checkpoint, data, test, resume)
    if nproc is not None and nproc > 1 and not is_worker():
        raise typer.Exit(start_workers(nproc, checkpoint))
    ranks = join_group(device)
    is_first = ranks is None or ranks.rank == 0
    layers = parse_network(network)
    X, y, _ = load_part(data, "train", image_shape, size, color, max_bytes)
    X_test, y_test = load_test_part(data, test, X.shape[1:], max_bytes)
    X, y = choose(X, y, train_size, seed)
    classifier = NewtonCNNClassifier(
        layers,
        scale=True,
        solver=solver,
        epochs=epochs,
        **({} if C is None else {"C": C}),
        loss=loss,
        sampling_rate=sampling_rate,
        max_iter=max_iter,
        early_stopping=early_stopping,
        validation_fraction=validation,
        class_weight=class_weight,
        checkpoint=checkpoint,
        backend=backend,
        device=device,
        precision=precision,
        batch_size=batch_size,
        memory=memory,
        n_jobs=n_jobs,
        random_state=seed,
        verbose=int(progress and is_first),
    )
    # what the best iteration is, test images have no say in
    watched = {} if early_stopping or X_test is None else {"X_val": X_test, "y_val": y_test}
    resume = checkpoint_to_resume(resume, checkpoint)
    # let through where the fit can take them; then the model is saved
    with hold_interrupts(*([signal.SIGTERM] if ranks is None else [])):
        fit_with_warnings(classifier, X, y, resume_from=resume, **watched)
        if not is_first:
            return
        classifier.save(save)
    tested = "" if X_test is None else f", test accuracy {100 * classifier.score(X_test, y_test):.2f} %"
    print_line(Console(), f"{save}: the model of iteration {classifier.n_iter_}{tested}")


def check_outputs(
    save: Path, checkpoint: Path | None, data: Path, test: Path | None, resume: Path | None
) -> None:
    """Check that the files to write can be written, and are none of those that are read."""
    from hfcnn.files import check_output_path, check_separate
    from hfcnn.persistence import is_model_file

    for path, name in ((save, "--save"), (checkpoint, "--checkpoint")):
        if path is not None:
            check_output_path(path, name)
            if not is_model_file(path):  # a model may lie beside the images, and be replaced
                check_separate(path, name, **{"DATA": data, "--test": test})
    if save.absolute() in {path.absolute() for path in (checkpoint, resume) if path is not None}:
        raise OSError(f"--save={str(save)!r} would be written over the checkpoint, from which to go on")


def fit_with_warnings(classifier: Any, X: Any, y: Any, **keywords: Any) -> None:
    """Fit; what ends it early, such as Ctrl-C, is said in one line after the rows of iterations."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        classifier.fit(X, y, **keywords)
    for warning in caught:
        print_line(Console(), str(warning.message))


def choose(X: Any, y: Any, size: int | None, seed: int) -> tuple[Any, Any]:
    """Choose some images, of each class its share."""
    from hfcnn.estimator.labels import stratified_rows

    if size is None or size >= len(y):
        return X, y
    rows, _ = stratified_rows(y, seed, train=size)
    return X[rows], y[rows]

"""The command line of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from hfcnn.benchmark.cases import Case
from hfcnn.benchmark.choices import Choice, choices_table, read_trials, run_trials
from hfcnn.benchmark.contest_cli import contest, small_data
from hfcnn.benchmark.measures import (
    has_bf16,
    measure_bf16,
    measure_iteration,
    measure_memory,
    measure_predict,
    measure_products,
)
from hfcnn.benchmark.profiling import measure_profile
from hfcnn.benchmark.rows import show_rows
from hfcnn.benchmark.scaling import Cluster, Workload, measure_scaling, predict_scaling
from hfcnn.benchmark.streaming import measure_streaming
from hfcnn.commands import Commands, print_line
from hfcnn.network import Network

__all__ = ["app"]

app = typer.Typer(cls=Commands, no_args_is_help=True)

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the rows there as JSON.")]
Markdown = Annotated[Path | None, typer.Option(help="Write the rows there as a Markdown table.")]
Repeats = Annotated[int, typer.Option(min=1, help="Times that each call is timed; the tables show medians.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Tiny sizes, to see that it runs.")]
ImageCount = Annotated[
    list[int] | None,
    typer.Option("--images", help="Number of images; may be repeated.", show_default="500 2000"),
]
Presets = Annotated[
    list[str] | None,
    typer.Option("--network", help="cnn3 or cnn5; may be repeated.", show_default="both"),
]

SHAPES = ((28, 28, 1), (32, 32, 3))

#: Iterations for which scaling is predicted: S is 5 % of the images, as in the paper, and CG takes 30 steps.
LARGE_WORK = {
    "MNIST, cnn3": Workload(Network.preset("cnn3", (28, 28, 1), 10), 60_000, 3_000, 30),
    "CIFAR10, cnn5": Workload(Network.preset("cnn5", (32, 32, 3), 10), 50_000, 2_500, 30),
    "1.28 million images of 224 x 224, cnn5": Workload(
        Network.preset("cnn5", (224, 224, 3), 1000), 1_281_167, 64_058, 30
    ),
}


def _cases(presets: list[str] | None, images: list[int] | None, smoke: bool) -> Iterable[tuple[str, Case]]:
    for preset in ["cnn3"] if smoke else presets or ["cnn3", "cnn5"]:
        for shape in SHAPES[:1] if smoke else SHAPES:
            for n_images in [16] if smoke else images or [500, 2000]:
                name = f"{preset}, {'x'.join(map(str, shape))}, {n_images}"
                yield name, Case.draw(preset, shape, n_images)


app.command()(contest)
app.command()(small_data)


@app.callback()
def benchmark() -> None:
    """Time products, iterations and predictions on this machine's CPU, beside torch and peers."""


@app.command()
def products(
    network: Presets = None,
    images: ImageCount = None,
    repeats: Repeats = 7,
    json_file: JsonFile = None,
    markdown: Markdown = None,
    smoke: Smoke = False,
) -> None:
    """Gradient and Gauss-Newton products against autograd, torch.func, curvlinops and matmul."""
    groups = {
        name: measure_products(case, repeats, has_bf16()) for name, case in _cases(network, images, smoke)
    }
    show_rows("products", groups, json_file, markdown)


@app.command()
def profile(
    network: Presets = None,
    images: ImageCount = None,
    repeats: Repeats = 5,
    json_file: JsonFile = None,
    markdown: Markdown = None,
    smoke: Smoke = False,
) -> None:
    """Where the time of the gradient and of the products goes, by kind of operation."""
    groups = {name: measure_profile(case, repeats) for name, case in _cases(network, images, smoke)}
    show_rows("profile", groups, json_file, markdown)


@app.command()
def iteration(
    repeats: Repeats = 5, json_file: JsonFile = None, markdown: Markdown = None, smoke: Smoke = False
) -> None:
    """A Newton iteration against simpleNN's."""
    sizes = (64, 16, 3) if smoke else (5000, 250, 20)
    show_rows("iteration", {"cnn3, 28x28x1": measure_iteration(*sizes, repeats)}, json_file, markdown)


@app.command()
def predict(
    network: Presets = None,
    images: ImageCount = None,
    repeats: Repeats = 7,
    json_file: JsonFile = None,
    markdown: Markdown = None,
    smoke: Smoke = False,
) -> None:
    """Predicting against the same torch network in eval mode."""
    groups = {name: measure_predict(case, repeats) for name, case in _cases(network, images, smoke)}
    show_rows("predict", groups, json_file, markdown)


@app.command()
def memory(json_file: JsonFile = None, markdown: Markdown = None, smoke: Smoke = False) -> None:
    """Peak memory of a fit against the sampling rate, and against the model (Linux)."""
    n_images, budget = (200, 2**20) if smoke else (4000, 64 * 2**20)
    groups = {
        f"{preset}, {'x'.join(map(str, shape))}": measure_memory(preset, shape, n_images, budget)
        for preset in ("cnn3", "cnn5")[: 1 if smoke else 2]
        for shape in SHAPES[: 1 if smoke else 2]
    }
    show_rows("memory", groups, json_file, markdown)


@app.command()
def scaling(
    processes: Annotated[
        list[int] | None,
        typer.Option("--processes", min=1, help="Number of processes; may be repeated.", show_default="1 2"),
    ] = None,
    repeats: Repeats = 5,
    json_file: JsonFile = None,
    markdown: Markdown = None,
    smoke: Smoke = False,
) -> None:
    """f, its gradient and products on several processes, measured here and predicted for GPUs."""
    sizes = (40, 8) if smoke else (4000, 1000)
    groups = measure_scaling(processes or [1, 2], *sizes, repeats)
    show_rows("scaling", groups, json_file, markdown)
    gpus = Cluster(rate=5e13, bandwidth=2.5e10, latency=5e-6)
    show_rows(
        "predicted for GPUs of 50 TFLOP/s, 25 GB/s and 5 us",
        {
            name: predict_scaling(work, gpus, [1, 4, 16, 64, 256], jitter=0.1)
            for name, work in LARGE_WORK.items()
        },
        None,
        None,
    )


@app.command()
def streaming(
    shards: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Number of shards of 11.7 MiB; may be repeated.", show_default="25 100"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="MiB that a fit may take.")] = 160,
    json_file: JsonFile = None,
    markdown: Markdown = None,
) -> None:
    """Peak memory of fits whose images are in shards on disk, and do not fit into memory (Linux)."""
    groups = {f"{n} shards": measure_streaming(n, limit * 2**20) for n in shards or [25, 100]}
    show_rows("streaming", groups, json_file, markdown)


@app.command()
def bf16(
    data: Annotated[Path, typer.Argument(help="Data that `hfcnn.load` reads, of ten classes.")],
    train_size: Annotated[int, typer.Option(min=10, help="First images to take.")] = 5000,
    iterations: Annotated[int, typer.Option(min=1, help="Newton iterations.")] = 15,
    json_file: JsonFile = None,
    markdown: Markdown = None,
) -> None:
    """Whether products in bfloat16 leave CG counts and accuracy as they are."""
    if not has_bf16():
        raise ValueError("this processor has no bfloat16 arithmetic")
    from hfcnn.datasets import load
    from hfcnn.preprocessing import ImageScaler

    X, y = load(data)
    images = torch.from_numpy(ImageScaler().fit_transform(X[:train_size]))
    labels = torch.from_numpy(np.unique(y[:train_size], return_inverse=True)[1])
    show_rows("bf16", {data.name: measure_bf16(images, labels, iterations)}, json_file, markdown)


@app.command()
def ablation(
    data: Annotated[list[Path], typer.Argument(help="Data sets that `hfcnn.load` reads.")],
    passes: Annotated[
        list[float] | None,
        typer.Option(help="Passes after which to measure; may be repeated.", show_default="0.125 and 0.25"),
    ] = None,
    network: Annotated[str, typer.Option(help="cnn3 or cnn5.")] = "cnn3",
    seed: Annotated[int, typer.Option(min=0, help="Seed of first parameters and draws.")] = 0,
    variant: Annotated[
        list[str] | None,
        typer.Option(help='Row of the table, such as "C = 0.1 l"; may be repeated.', show_default="all"),
    ] = None,
) -> None:
    """What each part of the stochastic solver buys, on held-out training images, as a Markdown table.

    Each row is printed once it is measured.
    """
    from hfcnn.benchmark.ablation import VARIANTS, ablate
    from hfcnn.report import markdown_lines

    points = tuple(sorted(passes or [0.125, 0.25]))
    if unknown := set(variant or ()) - set(VARIANTS):
        raise typer.BadParameter(f"no variant {', '.join(unknown)}; there are: {'; '.join(VARIANTS)}")
    wanted = {title: VARIANTS[title] for title in variant or VARIANTS}
    for path in data:
        header = [path.stem, *(f"{point:g} passes" for point in points)]
        for line in markdown_lines(header, ablate(path, points, seed, network, wanted)):
            typer.echo(line)
        typer.echo()


@app.command()
def choices(
    results: Annotated[Path, typer.Argument(help="File of JSON lines; what it holds is not run again.")],
    data: Annotated[Path | None, typer.Option(help="Data set.", show_default="digits")] = None,
    images: Annotated[
        list[int] | None,
        typer.Option(min=10, help="Training images; may be repeated.", show_default="100 300 1000"),
    ] = None,
    solver: Annotated[
        list[str] | None, typer.Option(help="kfac or newton-cg; may be repeated.", show_default="kfac")
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(help="squared or cross_entropy; may be repeated.", show_default="both"),
    ] = None,
    strength: Annotated[
        list[float] | None,
        typer.Option(help="C times the number of images; may be repeated.", show_default="100"),
    ] = None,
    subset: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            help="Images of a Newton iteration's matrix, 0 for auto; may be repeated.",
            show_default="0",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Choices of the training images.")] = 3,
    max_iter: Annotated[int, typer.Option(min=1, help="Newton iterations per fit.")] = 20,
) -> None:
    """Train on few images by each solver, loss and C: what "auto" was chosen by, as a Markdown table."""
    compared = [
        Choice(*values)
        for values in product(
            solver or ["kfac"], loss or ["squared", "cross_entropy"], strength or [100.0], subset or [0]
        )
    ]
    for trial in run_trials(results, data, images or [100, 300, 1000], compared, seeds, max_iter):
        print_line(
            Console(stderr=True), f"{trial.data} {trial.n_images} {trial.choice}: {trial.accuracy:.4f}"
        )
    typer.echo(choices_table(read_trials(results)))

"""``hfcnn reproduce``: run the paper's experiments and write its tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hfcnn.experiments.runner import Runner, Stopped
from hfcnn.experiments.settings import Settings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


class NetworkName(StrEnum):
    """Networks of Table 4."""

    cnn3 = "cnn3"
    cnn5 = "cnn5"


class Method(StrEnum):
    """Methods of Section 6.2."""

    newton = "newton"
    sg = "sg"
    sg_plain = "sg-plain"


DataDir = Annotated[
    Path,
    typer.Option(
        "--data", exists=True, file_okay=False, help="Folder of the data sets: mnist.npz, svhn/, ..."
    ),
]
Results = Annotated[Path, typer.Option("--output", help="Folder of the cells.")]
TrainSize = Annotated[
    int | None, typer.Option(min=10, help="Training images, a stratified choice. [default: all]")
]
TestSize = Annotated[
    int | None, typer.Option(min=10, help="Test images, a stratified choice. [default: all]")
]
TimeLimit = Annotated[
    float, typer.Option(help="Seconds after which to stop; the same command goes on from there.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]

CELLS = Path("docs/results/cells")
NO_LIMIT = float("inf")


@contextmanager
def _stoppable(console: Console) -> Iterator[None]:
    """Turn the two ways of stopping early into a message and an exit code."""
    try:
        yield
    except Stopped:
        console.print("The time is up. The same command goes on from here.")
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from here.")
        raise typer.Exit(130) from None
    except (FileNotFoundError, ValueError) as error:
        console.print(f"Error: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


@app.callback()
def reproduce() -> None:
    """Reproduce the experiments of Wang, Tan & Lin (2020), Sections 5 and 6."""


@app.command()
def run(
    data: DataDir,
    dataset: Annotated[str, typer.Option(help="Data set.")],
    network: Annotated[NetworkName, typer.Option(help="Network of Table 4.")] = NetworkName.cnn3,
    method: Annotated[Method, typer.Option(help="sg-plain is without momentum and decay.")] = Method.newton,
    C: Annotated[float, typer.Option("--C", help="Regularization, times l.")] = 0.01,
    sampling_rate: Annotated[float, typer.Option(help="Newton: share of the images in S.")] = 0.05,
    rate: Annotated[float, typer.Option(help="SG: initial learning rate.")] = 0.003,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and sampling.")] = 0,
    iterations: Annotated[int, typer.Option(min=1, help="Newton iterations, or epochs of SG.")] = 100,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    output: Results = CELLS,
    time_limit: TimeLimit = NO_LIMIT,
    device: Device = "auto",
) -> None:
    """Run one cell: one method, one data set, one seed."""
    console = Console()
    is_newton = method is Method.newton
    with _stoppable(console):
        settings = Settings(
            dataset,
            network.value,
            method.value,
            C,
            sampling_rate=sampling_rate if is_newton else None,
            learning_rate=None if is_newton else rate,
            seed=seed,
            iterations=iterations,
            train_size=train_size,
            test_size=test_size,
        )
        Runner(data, output, "run", time_limit, device, console).run([settings])

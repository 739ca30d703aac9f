"""The commands ``hfcnn benchmark contest`` and ``small-data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hfcnn.benchmark.contest import ContestPlan, RunRecord, read_runs, run_contest
from hfcnn.benchmark.contest_rivals import CONTESTANTS
from hfcnn.commands import print_line

__all__ = ["contest", "small_data"]

DataFolder = Annotated[
    Path,
    typer.Option(
        "--data", exists=True, file_okay=False, help="Folder of the data sets: mnist.npz, cifar10.npz, ..."
    ),
]
EVERYBODY = ",".join(CONTESTANTS)
Words = Annotated[str, typer.Option(help="Names, separated by commas.")]


def contest(
    data: DataFolder,
    output: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("docs/results"),
    datasets: Words = "mnist,fashion-mnist,cifar10",
    networks: Words = "cnn3",
    contestants: Words = EVERYBODY,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... of the first weights.")] = 5,
    passes: Annotated[float, typer.Option(min=0.05, help="Passes over the images of each run.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, help="Most seconds of each run.")] = 600.0,
    train_size: Annotated[
        int | None, typer.Option(min=10, help="Training images.", show_default="all")
    ] = None,
    rates: Annotated[int, typer.Option(min=1, help="Most learning rates to try of a contestant.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each run.")] = 2,
    clock: Annotated[str, typer.Option(help="Time on the page: seconds or cpu_seconds.")] = "seconds",
    runs: Annotated[bool, typer.Option(help="Run what is not done yet before writing the page.")] = True,
) -> None:
    """Accuracy against time and passes: our solvers, AdamW, SG, Muon and others from the same weights.

    Each run is a JSON file below --output, written as it goes; the same command goes on where it stopped. A
    run that was cut short begins anew.
    """
    from hfcnn.benchmark.contest_report import write_contest  # needs matplotlib, an extra

    console = Console()
    folder = output / "cells" / "contest"
    plan = ContestPlan(
        datasets=_split(datasets),
        networks=_split(networks),
        contestants=_split(contestants),
        seeds=seeds,
        passes=passes,
        seconds=seconds,
        train_size=train_size,
        threads=threads,
        rates=rates,
    )

    def tell(record: RunRecord) -> None:
        last = {name: values[-1] for name, values in record.history.items()}
        print_line(
            console,
            f"{record.run.name}: {100 * last['averaged']:.2f} % after {last['passes']:.2f} passes, "
            f"{last['seconds']:.0f} s, load {last['load']:.1f}",
        )

    if runs:
        for name in run_contest(plan, data, folder, tell):
            print_line(console, f"{name}: left out, {CONTESTANTS[name].package} is not installed")
    print_line(console, str(write_contest(read_runs(folder), output, clock)))


def small_data(
    data: DataFolder,
    output: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("docs/results"),
    datasets: Words = "mnist,fashion-mnist,cifar10",
    seeds: Annotated[int, typer.Option(min=1, help="Choices of the training images.")] = 3,
    sizes: Words = "300,1000,3000",
) -> None:
    """Accuracy from few images: our classifiers beside scikit-learn's and Adam."""
    from hfcnn.benchmark.small_data import measure_small_data, write_small_data

    console = Console()
    folder = output / "cells" / "small-data"
    for cell in measure_small_data(
        data, folder, _split(datasets), [int(size) for size in _split(sizes)], seeds
    ):
        print_line(console, f"{cell.name}: {100 * cell.accuracy:.2f} % in {cell.seconds:.1f} s")
    print_line(console, str(write_small_data(folder, output)))


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))

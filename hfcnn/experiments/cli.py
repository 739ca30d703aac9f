"""``hfcnn reproduce``: run the paper's experiments and write its tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console

from hfcnn.commands import Commands
from hfcnn.estimator.parameters import PAPER_C, STOCHASTIC_C
from hfcnn.experiments import figure3 as figure3_module
from hfcnn.experiments import table5 as table5_module
from hfcnn.experiments import table6 as table6_module
from hfcnn.experiments.paper import DATASETS
from hfcnn.experiments.plan import Plan
from hfcnn.experiments.runner import Runner, Stopped
from hfcnn.experiments.settings import ITERATIONS, CellSettings

__all__ = ["app"]

app = typer.Typer(cls=Commands, no_args_is_help=True)


class NetworkName(StrEnum):
    """Networks of Table 4."""

    cnn3 = "cnn3"
    cnn5 = "cnn5"


class MethodName(StrEnum):
    """Methods of Section 6.2."""

    newton = "newton"
    sg = "sg"
    sg_plain = "sg-plain"
    kfac = "kfac"


DataDir = Annotated[
    Path,
    typer.Option(
        "--data",
        exists=True,
        file_okay=False,
        help="Folder of the data sets, each a file or folder of its name: mnist.npz, svhn/, ...",
    ),
]
Results = Annotated[Path, typer.Option("--output", help="Folder in which every run has its JSON file.")]
TrainSize = Annotated[
    int | None,
    typer.Option(min=10, help="Number of training images, classes in proportion.", show_default="all"),
]
TestSize = Annotated[
    int | None,
    typer.Option(min=10, help="Number of test images, classes in proportion.", show_default="all"),
]
TimeLimit = Annotated[
    float, typer.Option(help="Seconds after which to stop; the same command goes on from there.")
]
DeviceOption = Annotated[str, typer.Option(help="Where to compute: auto (a GPU if any), cpu or cuda.")]

Datasets = Annotated[str, typer.Option(help="Names of data sets, separated by commas.")]
Networks = Annotated[str, typer.Option(help="cnn3 or cnn5 of Table 4, or both separated by a comma.")]
SeedCount = Annotated[int, typer.Option(min=1, help="Number of runs that differ in their seed: 0, 1, ...")]
Iterations = Annotated[int, typer.Option(min=1, help="Newton iterations.")]
Epochs = Annotated[int, typer.Option(min=1, help="Epochs of SG.")]
SearchEpochs = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Epochs of each run of the search for SG's learning rate; 0 takes the paper's rate, without a "
        "search.",
        show_default="as --epochs",
    ),
]

ALL_DATASETS = ",".join(DATASETS)
ITERATIONS_HELP = (
    "Newton iterations, epochs of SG, or most epochs of kfac; without it "
    f"{', '.join(f'{name} {number}' for name, number in ITERATIONS.items())}."
)
CELLS = Path("docs/results/cells")
NO_LIMIT = float("inf")


@contextmanager
def _stoppable(console: Console) -> Iterator[None]:
    """Say, where a run was stopped early, that it can go on."""
    try:
        yield
    except Stopped:
        console.print("The time is up. The same command goes on from here.")
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from here.")
        raise typer.Exit(130) from None


@app.callback()
def reproduce() -> None:
    """Reproduce the experiments of Wang, Tan & Lin (2020), Sections 5 and 6."""


@app.command()
def run(
    data: DataDir,
    dataset: Annotated[str, typer.Option(help="Data set.")],
    network: Annotated[NetworkName, typer.Option(help="Network of Table 4.")] = NetworkName.cnn3,
    method: Annotated[
        MethodName,
        typer.Option(help="sg-plain is sg without momentum and decay; kfac is the stochastic solver."),
    ] = MethodName.newton,
    C: Annotated[
        float | None,
        typer.Option(
            "--C",
            help="Regularisation C over the number of images.",
            show_default=f"{PAPER_C}, kfac {STOCHASTIC_C}",
        ),
    ] = None,
    sampling_rate: Annotated[float, typer.Option(help="Newton: share of the images in each product.")] = 0.05,
    rate: Annotated[float, typer.Option(help="SG: initial learning rate.")] = 0.003,
    seed: Annotated[int, typer.Option(min=0, help="Seed of first weights and order of images.")] = 0,
    iterations: Annotated[int | None, typer.Option(min=1, help=ITERATIONS_HELP)] = None,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    output: Results = CELLS,
    time_limit: TimeLimit = NO_LIMIT,
    device: DeviceOption = "auto",
) -> None:
    """Run one cell: one method, one data set, one seed."""
    console = Console()
    with _stoppable(console):
        settings = CellSettings(
            dataset,
            network.value,
            method.value,
            C if C is not None else STOCHASTIC_C if method is MethodName.kfac else PAPER_C,
            sampling_rate=sampling_rate if method is MethodName.newton else None,
            learning_rate=rate if method.value.startswith("sg") else None,
            seed=seed,
            iterations=iterations or ITERATIONS[method.value],
            train_size=train_size,
            test_size=test_size,
        )
        Runner(data, output, "run", time_limit, device, console).run([settings])


def _add_comparison(module: ModuleType, name: str, networks_: str, seeds_: int) -> None:
    """Add the command of a table or figure for which SG's rate is searched."""

    def command(
        data: DataDir,
        datasets: Datasets = ALL_DATASETS,
        networks: Networks = networks_,
        seeds: SeedCount = seeds_,
        iterations: Iterations = 100,
        epochs: Epochs = 1000,
        search_epochs: SearchEpochs = None,
        train_size: TrainSize = None,
        test_size: TestSize = None,
        output: Results = CELLS,
        time_limit: TimeLimit = NO_LIMIT,
        device: DeviceOption = "auto",
    ) -> None:
        console = Console()
        names = _split(datasets), _split(networks)
        plan = Plan(*names, seeds, iterations, epochs, search_epochs, train_size, test_size)
        with _stoppable(console):
            module.run_cells(Runner(data, output, name, time_limit, device, console), plan)

    app.command(name, help=f"Run the cells of {module.__doc__}")(command)


_add_comparison(table5_module, "table5", "cnn3,cnn5", seeds_=5)
_add_comparison(figure3_module, "figure3", "cnn3", seeds_=1)


@app.command()
def table6(
    data: DataDir,
    datasets: Datasets = ALL_DATASETS,
    seeds: SeedCount = 5,
    iterations: Iterations = 100,
    epochs: Epochs = 1000,
    train_size: TrainSize = None,
    test_size: TestSize = None,
    output: Results = CELLS,
    time_limit: TimeLimit = NO_LIMIT,
    device: DeviceOption = "auto",
) -> None:
    """Run the cells of Table 6: how sensitive Newton and SG are to their parameters."""
    console = Console()
    networks = (table6_module.TABLE6_NETWORK,)
    plan = Plan(
        _split(datasets), networks, seeds, iterations, epochs, train_size=train_size, test_size=test_size
    )
    with _stoppable(console):
        table6_module.run_cells(Runner(data, output, "table6", time_limit, device, console), plan)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder in which every run has its JSON file.")] = CELLS,
    output: Annotated[Path, typer.Option(help="Folder of the pages.")] = CELLS.parent,
) -> None:
    """Write the tables and figures of the cells, the paper's numbers beside ours."""
    from hfcnn.experiments.report import write_report  # needs matplotlib, an extra

    console = Console()
    with _stoppable(console):
        for path in write_report(results, output):
            console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def section5(
    output: Annotated[Path, typer.Option(help="Folder of the page.")] = CELLS.parent,
) -> None:
    """Compare the bytes and operations that Section 5 and hfcnn.cost predict with what torch counts."""
    from hfcnn.experiments.report import write_page
    from hfcnn.experiments.section5 import page

    Console().print(str(write_page(page(output), output)), highlight=False, soft_wrap=True)


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))

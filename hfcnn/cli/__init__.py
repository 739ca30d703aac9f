"""The command ``hfcnn``: train, use and look at classifiers; and the way to experiments and benchmarks."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from rich.console import Console
from typer.core import TyperGroup

from hfcnn._version import __version__
from hfcnn.cli.scoring import evaluate, export, predict
from hfcnn.cli.training import train
from hfcnn.commands import Commands

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
    """Train convolutional networks by Newton's method: no learning rate to choose."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the figures.")] = Path("hfcnn-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and sampling.")] = 0,
) -> None:
    """Train on the 8 x 8 digits that scikit-learn ships: less than a minute."""
    from hfcnn.demo import show_digits

    show_digits(output, seed, Console())


for command in (train, predict, evaluate, export):
    app.command()(command)

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

"""The table that `verbose=1` shows while a fit runs."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from hfcnn.estimator.run import HistoryRow, Monitor, Run

__all__ = ["Progress"]

#: Heading and format of each column, by its name in a row; those that a row lacks are left out.
HEADINGS: dict[str, tuple[str, str]] = {
    "iteration": ("iter", "d"),
    "f": ("f", ".6g"),
    "gradient_norm": ("|g|", ".3e"),
    "step": ("alpha", ".3g"),
    "rho": ("rho", ".3f"),
    "damping": ("lambda", ".3g"),
    "cg_iterations": ("#CG", "d"),
    "learning_rate": ("rate", ".3g"),
    "training_accuracy": ("train", ".2%"),
    "validation_accuracy": ("valid", ".2%"),
    "validation_score": ("score", ".4g"),
    "seconds": ("seconds", ".1f"),
}

CELL_WIDTH = 10


class Progress(Monitor):
    """A row per iteration; on a terminal also a bar with the time that remains.

    Parameters
    ----------
    title : str
        What is fitted, printed first.
    last : int
        Last iteration.
    console : rich.console.Console or None, default=None
        Where to write; None is standard output.
    """

    def __init__(self, title: str, last: int, console: Console | None = None) -> None:
        self.title = title
        self.last = last
        self.console = console or Console()
        self._bar: Bar | None = None
        self._has_heading = False

    def open(self, run: Run) -> bool:
        """Print the title, and start the bar on a terminal."""
        self._print(self.title)
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task("iterations", total=self.last, completed=run.state.iteration)
        return False

    def after(self, run: Run) -> bool:
        """Print the newest row."""
        row = run.rows[-1]
        names = [name for name in HEADINGS if name in row]
        if not self._has_heading:
            self._has_heading = True
            form = getattr(run.state, "form", "")
            if form:
                self._print(f"Gauss-Newton products in the form {form!r}")
            self._print("".join(HEADINGS[name][0].rjust(CELL_WIDTH) for name in names), "bold")
        self._print("".join(_cell(row, name) for name in names))
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=run.state.iteration)
        return False

    def close(self, run: Run) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def _print(self, line: str, style: str = "") -> None:
        self.console.print(Text(line, style=style), soft_wrap=True, highlight=False)


def _cell(row: HistoryRow, name: str) -> str:
    return format(row[name], HEADINGS[name][1]).rjust(CELL_WIDTH)

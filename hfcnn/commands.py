"""The one way in which every command of ``hfcnn`` ends on an error."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

__all__ = ["EXPECTED_ERRORS", "Commands", "print_line", "printable"]

#: Errors that the user can mend, and whose message says how.
EXPECTED_ERRORS = (ImportError, MemoryError, OSError, RecursionError, TypeError, ValueError)


class Commands(TyperGroup):
    """A group of commands; an expected error is one line on the error stream, and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except EXPECTED_ERRORS as error:
            print_line(Console(stderr=True), f"Error: {error}")
            raise typer.Exit(1) from None


def printable(text: str) -> str:
    """Text from a file as it can be shown: what would command the terminal is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_line(console: Console, text: str) -> None:
    """Print text as one line, whatever it holds."""
    console.print(printable(" ".join(text.split())), markup=False, highlight=False, soft_wrap=True)

"""Help and version of every command, and what they do not need."""

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hfcnn import __version__
from hfcnn.cli import app


def succeed(*arguments):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


HELP = [
    [],
    ["demo"],
    ["train"],
    ["predict"],
    ["evaluate"],
    ["export"],
    ["reproduce"],
    ["reproduce", "run"],
    ["reproduce", "table5"],
    ["reproduce", "table6"],
    ["reproduce", "figure3"],
    ["reproduce", "report"],
    ["benchmark"],
    ["benchmark", "products"],
    ["benchmark", "iteration"],
    ["benchmark", "predict"],
    ["kernels"],
    ["kernels", "report"],
]


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help(command):
    assert "Usage: " in succeed(*command, "--help")


def test_help_shows_every_default_that_an_option_names():
    """Brackets in a help text would be taken for markup, and not be shown."""
    assert "[default: (standard output)]" in succeed("predict", "--help").replace("\n", " ")
    commands = [get_command(app)]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        assert "[" not in (command.help or "")
        for parameter in command.params:
            assert "[" not in (getattr(parameter, "help", None) or ""), (command.name, parameter.name)


def test_version():
    assert succeed("--version") == f"hfcnn {__version__}\n"


def test_runs_as_a_module():
    found = subprocess.run([sys.executable, "-P", "-m", "hfcnn", "--version"], capture_output=True, text=True)
    assert found.stdout == f"hfcnn {__version__}\n"


def test_help_needs_no_triton_and_no_matplotlib():
    code = (
        "import sys\nfrom hfcnn.cli import app\ntry:\n    app(['--help'])\n"
        "except SystemExit:\n    sys.exit('triton' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], capture_output=True).returncode == 0

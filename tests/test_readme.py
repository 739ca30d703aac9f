"""README: its example runs, and the files and functions it names are there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_example_classifies_the_digits(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(example, {})
    assert float(capsys.readouterr().out) >= 0.97


def test_functions_of_the_paper_are_where_the_table_says():
    rows = re.findall(r"^\|[^|]*\| `([\w/]+\.py)` \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) > 15
    for file, names in rows:
        source = (ROOT / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                assert re.search(rf"^ *(def |class |){part}\b", source, re.MULTILINE), f"{file}: {name}"


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", README))
def test_links_to_files_lead_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("name", ["demo", "test"])
def test_ci_finds_the_commands(name):
    function = re.search(
        r"^readme_command\(\).*?^}", (ROOT / ".ci/run").read_text(), re.DOTALL | re.MULTILINE
    )
    script = f"set -euo pipefail\n{function.group()}\nreadme_command {name}"
    found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("python3 -m venv .venv && .venv/bin/pip install")
    assert found.stdout in README

"""README: its example runs, and the files and functions it names are there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_example_classifies_the_digits(capsys):
    example = re.findall(r"## Six lines\n\n```python\n(.*?)```", README, re.DOTALL)[0]
    assert len([line for line in example.splitlines() if line]) == 6
    exec(example, {})
    assert float(capsys.readouterr().out) >= 0.97


def test_links_work_on_the_package_index():
    """Only addresses, but for the picture: that has none before the project has one."""
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", README)
    assert len(links) > 3
    for is_picture, link in links:
        assert link.startswith("https://") or (is_picture and (ROOT / link).exists())
    for path in re.findall(r"`((?:docs|hfcnn|tests)/[\w./-]*)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", ["demo", "test"])
def test_ci_finds_the_commands(name):
    function = re.search(
        r"^readme_command\(\).*?^}", (ROOT / ".ci/run").read_text(), re.DOTALL | re.MULTILINE
    )
    script = f"set -euo pipefail\n{function.group()}\nreadme_command {name}"
    found = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("python3 -m venv .venv && .venv/bin/pip install")
    assert found.stdout in README

"""The examples of the documentation run, and the code and the names in its pages are right."""

import re
import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "quickstart.md", *sorted((DOCS / "guide").glob("*.md"))]


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    matplotlib.use("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


@pytest.mark.parametrize("example", sorted((DOCS / "examples").glob("plot_*.py")), ids=lambda path: path.stem)
def test_example_runs_and_draws(example):
    runpy.run_path(str(example), run_name="__main__")
    assert plt.get_fignums()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, page.name, "exec"), namespace)


def test_method_page_names_what_exists():
    page = (DOCS / "method.md").read_text()
    rows = re.findall(r"^\|.*\| `(hfcnn/[\w/]+\.py)` \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 40
    for file, names in rows:
        source = (ROOT / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                pattern = rf"^ *(def |class )?{part}\b *[:=(]"
                assert re.search(pattern, source, re.MULTILINE), f"{file}: {name}"

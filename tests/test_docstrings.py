"""The examples in docstrings give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"hfcnn": "hfcnn", "kernels": "hfcnn.kernels"}
MODULES = [
    ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]).removesuffix(".__init__")
    for folder, package in FOLDERS.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0 or all("+SKIP" in example.source for example in examples(name))
    assert found.failed == 0


def examples(name):
    tests = doctest.DocTestFinder().find(importlib.import_module(name))
    return [example for test in tests for example in test.examples]


def test_the_examples_are_found():
    assert "hfcnn.preprocessing" in MODULES

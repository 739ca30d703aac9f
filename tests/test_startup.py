"""What is imported when: nothing heavy before it is used, and any module first."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hfcnn

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "sklearn", "numpy", "scipy", "triton", "matplotlib", "pandas", "safetensors")


def run(code):
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import hfcnn; dir(hfcnn); hfcnn.__version__",
        "from hfcnn.cli import app; app(['--help'], standalone_mode=False)",
        "from hfcnn.cli import app; app(['train', '--help'], standalone_mode=False)",
    ],
    ids=["import", "help", "train-help"],
)
def test_nothing_heavy_before_it_is_used(code):
    loaded = run(f"{code}\nimport sys; print('LOADED', *set({HEAVY!r}) & set(sys.modules))")
    assert loaded.splitlines()[-1].split() == ["LOADED"]


def test_names_come_when_asked_for():
    code = (
        "import sys, hfcnn\nhfcnn.Conv\nassert 'torch' in sys.modules and 'sklearn' not in sys.modules\n"
        "assert hfcnn.newton.newton.__module__ == 'hfcnn.newton'\n"
        "from hfcnn import *\nassert NewtonCNNClassifier is hfcnn.NewtonCNNClassifier"
    )
    run(code)


def test_every_name_is_there():
    assert set(hfcnn.__all__) <= set(dir(hfcnn))
    for name in hfcnn.__all__:
        assert getattr(hfcnn, name) is not None
    with pytest.raises(AttributeError, match="module 'hfcnn' has no attribute 'NewtonCNN'"):
        hfcnn.NewtonCNN  # noqa: B018


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "hfcnn" / "__init__.py").read_text())
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and "not" not in ast.unparse(node.test)
    )
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"hfcnn.{module}" for name, module in hfcnn._MODULES.items()}
    assert {*seen, "__version__"} == set(hfcnn.__all__)


def test_every_package_is_in_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for name in ("hfcnn", "kernels") for path in (ROOT / name).rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(listed["packages"]) == {name if name[0] == "h" else f"hfcnn.{name}" for name in names}
    for name, folder in listed["package-dir"].items():
        assert (ROOT / folder / "__init__.py").exists() and name in listed["packages"]


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_any_module_can_be_the_first():
    """Torch and scikit-learn are loaded once; then a fork for each module imports it before any other."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "hfcnn").rglob("*.py"))
        if path.stem != "__main__"
    ]
    code = f"""
import importlib, os, warnings
import torch, sklearn.model_selection, rich.progress, typer
warnings.simplefilter("ignore")  # a fork where torch has threads
for module in {modules!r}:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(module)
        except ImportError as error:
            print(module, error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert run(code) == ""

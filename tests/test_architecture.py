"""The house keeps its order: layers, circles, sizes, docstrings and names.

Everything is read from the source by `ast`; nothing is imported. What breaks a rule today stands in
`known_failures.txt`, by rule. A new failure fails the test, and so does a listed one that has vanished:
whoever mends it strikes it off.

An import in a function counts as one at the top of the module does: what it closes is a circle, only put
off, and what it reaches for is as far up. One under ``if TYPE_CHECKING`` never runs, and counts for neither:
so an operation can say of what type its layer is.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

#: The layers of the house from the ground up. A module imports from its own layer and those below it.
LAYERS = {
    "ground": ["hfcnn._version", "hfcnn.files", "hfcnn.interrupts", "hfcnn.memory", "hfcnn.report"],
    "operations": ["hfcnn.ops", "hfcnn.selection", "hfcnn.kernels", "hfcnn.kernels.*"],
    "network": [
        *("hfcnn.backend", "hfcnn.layers", "hfcnn.layers.*", "hfcnn.network", "hfcnn.torch_modules"),
        *("hfcnn.cost", "hfcnn.cuda_graph"),
    ],
    "derivatives": ["hfcnn.linearization", "hfcnn.stored_jacobian", "hfcnn.loss"],
    "sums over images": ["hfcnn.ranks", "hfcnn.image_reader", "hfcnn.batches", "hfcnn.images"]
    + ["hfcnn.objective", "hfcnn.gauss_newton"],
    "solvers": [
        *("hfcnn.conjugate_gradient", "hfcnn.line_search", "hfcnn.damping", "hfcnn.sampling"),
        *("hfcnn.solver", "hfcnn.newton", "hfcnn.sgd", "hfcnn.kfac", "hfcnn.batch_model"),
        *("hfcnn.measured_step", "hfcnn.augmentation", "hfcnn.stochastic*"),
    ],
    "data": ["hfcnn.preprocessing", "hfcnn.datasets", "hfcnn.datasets.*"],
    "estimators": [
        *("hfcnn.estimator", "hfcnn.estimator.*", "hfcnn.persistence", "hfcnn.onnx_export"),
        *("hfcnn.callbacks", "hfcnn.file_values"),
    ],
    "tools": [
        *("hfcnn.commands", "hfcnn.plots", "hfcnn.inspection", "hfcnn.demo"),
        *("hfcnn.kernels.tools", "hfcnn.kernels.tools.*"),
        *("hfcnn.benchmark", "hfcnn.benchmark.*", "hfcnn.experiments", "hfcnn.experiments.*"),
    ],
    "entrances": ["hfcnn", "hfcnn.cli", "hfcnn.cli.*", "hfcnn.__main__"],
}

#: Where a kind of layer may be asked for by its class.
LAYER_MODULES = ["hfcnn.network", "hfcnn.layers", "hfcnn.layers.*", "hfcnn.torch_modules"]

#: Names of one meaning that several modules define, each for its own kind.
ONE_A_KIND = {
    "app": "the commands of a command line",
    "page": "the page of one table or figure of the paper",
    "run_cells": "the cells of one table or figure of the paper",
    "start": "the state of one solver before its first iteration",
}

LONGEST_FUNCTION = 60
LONGEST_FILE = 350


class Import(NamedTuple):
    source: str
    target: str
    runs: bool  # false under TYPE_CHECKING


@functools.cache
def modules() -> dict[str, Path]:
    """Name and file of every module; `kernels/` is imported as hfcnn.kernels."""
    found = {}
    for folder, package in (("hfcnn", "hfcnn"), ("kernels", "hfcnn.kernels")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def statements(node: ast.AST, runs: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it ever runs."""
    for child in ast.iter_child_nodes(node):
        yield child, runs
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield part, False
                yield from statements(part, False)
            for part in child.orelse:
                yield part, runs
                yield from statements(part, runs)
        else:
            yield from statements(child, runs)


def imported_names(node: ast.AST, module: str, path: Path) -> list[str]:
    """Full names that an import statement asks for: modules, or names in modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


@functools.cache
def imports() -> frozenset[Import]:
    """Imports of this package's modules by one another."""
    found = set()
    for module, path in modules().items():
        for node, runs in statements(tree(path)):
            for name in imported_names(node, module, path):
                if name not in modules():
                    name = name.rpartition(".")[0]
                # a module's package runs before it, but for one that is running already
                outer = name.rpartition(".")[0]
                packages = {outer} if outer.count(".") and not f"{module}.".startswith(f"{outer}.") else set()
                found |= {
                    Import(module, target, runs)
                    for target in {name, *packages}
                    if target in modules() and target != module
                }
    return frozenset(found)


def layer(module: str) -> int:
    """Number of the layer that a module is in: the one with the longest pattern that fits."""
    fits = [
        (len(pattern), number)
        for number, patterns in enumerate(LAYERS.values())
        for pattern in patterns
        if fnmatch(module, pattern)
    ]
    assert fits, f"{module} has no place in LAYERS: give it one"
    return max(fits)[1]


def upward_imports() -> set[str]:
    return {f"{i.source} -> {i.target}" for i in imports() if i.runs and layer(i.target) > layer(i.source)}


def circles() -> set[str]:
    """Modules that import one another, directly or not: one entry a circle."""
    reached = defaultdict(set)
    for i in imports():
        if i.runs:
            reached[i.source].add(i.target)
    names = sorted(modules())
    for middle in names:
        for source in names:
            if middle in reached[source]:
                reached[source] |= reached[middle]
    return {
        " <-> ".join(sorted(other for other in reached[name] if name in reached[other]))
        for name in names
        if name in reached[name]
    }


def is_tool(module: str) -> bool:
    return module.startswith("hfcnn.kernels.tools")


def kernel_imports() -> set[str]:
    """What the kernels, their tools apart, import of hfcnn for more than its types."""
    return {
        f"{i.source} -> {i.target}"
        for i in imports()
        if i.source.startswith("hfcnn.kernels")
        and not is_tool(i.source)
        and (is_tool(i.target) or (i.runs and not i.target.startswith("hfcnn.kernels")))
    }


def layer_classes() -> set[str]:
    """Classes of layers and of their descriptions."""
    classes = set()
    for module, path in modules().items():
        if module.startswith("hfcnn.layers."):
            for node in tree(path).body:
                if isinstance(node, ast.ClassDef) and node.name not in ("Layer", "LayerDescription"):
                    classes.add(node.name)
    return classes


def questions_of_kind() -> set[str]:
    """Modules that ask for the kind of a layer, by isinstance or by a match statement."""
    classes = layer_classes()
    found = set()
    for module, path in modules().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked = ast.walk(node.args[1])
            elif isinstance(node, ast.MatchClass):
                asked = ast.walk(node.cls)
            else:
                continue
            names = {n.id if isinstance(n, ast.Name) else n.attr for n in asked if hasattr(n, "ctx")}
            if names & classes and not any(fnmatch(module, pattern) for pattern in LAYER_MODULES):
                found.add(module)
    return found


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child
            yield from functions(child, f"{name}.")
        else:
            yield from functions(child, prefix)


def code_lines(path: Path, function: ast.FunctionDef) -> int:
    """Lines of a function that hold code: no docstring, no blank line, no line of comment alone."""
    text = path.read_text(encoding="utf-8").splitlines()
    numbers = set(range(function.lineno, function.end_lineno + 1))
    for node in ast.walk(function):
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            numbers -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [text[number - 1].strip() for number in numbers]
    return sum(1 for line in lines if line and not line.startswith("#"))


def long_functions() -> set[str]:
    return {
        f"{shown(path)}: {name}"
        for path in modules().values()
        for name, function in functions(tree(path))
        if code_lines(path, function) > LONGEST_FUNCTION
    }


def long_files() -> set[str]:
    files = [*modules().values(), *(ROOT / "tests").rglob("*.py")]
    return {shown(path) for path in files if len(path.read_text("utf-8").splitlines()) > LONGEST_FILE}


def undocumented() -> set[str]:
    """Public modules, classes, functions and methods without a docstring."""

    def missing(node: ast.AST, name: str) -> Iterator[str]:
        if ast.get_docstring(node) is None:
            yield name
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_"):
                if any("overload" in ast.unparse(decorator) for decorator in child.decorator_list):
                    continue
                if isinstance(child, ast.ClassDef) or not isinstance(node, ast.FunctionDef):
                    yield from missing(child, f"{name}.{child.name}")

    return {
        name
        for module, path in modules().items()
        if not module.rpartition(".")[2].startswith("_")
        for name in missing(tree(path), module)
    }


def is_command(node: ast.AST) -> bool:
    """Whether a function is a command, whose name is what the user types."""
    return any("command" in ast.unparse(decorator) for decorator in node.decorator_list)


def names_with_two_meanings() -> set[str]:
    """Public top-level names that more than one module defines.

    A kernel has the name of the operation that it computes, the one in `hfcnn.ops`; and a name that a module
    makes no part of its `__all__` is still read by people, so it counts.
    """
    where = defaultdict(set)
    for module, path in modules().items():
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_command(node):
                where[node.name].add(module)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        where[target.id].add(module)
    twins = {node.name for node in tree(modules()["hfcnn.ops"]).body if isinstance(node, ast.FunctionDef)}
    for name in twins:
        where[name] = {module for module in where[name] if not module.startswith("hfcnn.kernels.")}
    return {
        f"{name}: {', '.join(sorted(found))}"
        for name, found in where.items()
        if len(found) > 1 and not name.startswith("_") and name not in ONE_A_KIND
    }


RULES = {
    rule.__name__: rule
    for rule in (
        upward_imports,
        circles,
        kernel_imports,
        questions_of_kind,
        long_functions,
        long_files,
        undocumented,
        names_with_two_meanings,
    )
}


def known() -> dict[str, set[str]]:
    """Read the failures that are known, by rule."""
    found, rule = {rule: set() for rule in RULES}, ""
    for line in (ROOT / "tests" / "known_failures.txt").read_text(encoding="utf-8").splitlines():
        entry = line.partition("#")[0].strip()
        if entry.startswith("["):
            rule = entry.strip("[]")
        elif entry:
            found[rule].add(entry)
    return found


@pytest.mark.parametrize("rule", RULES)
def test_only_known_failures_break(rule):
    new = RULES[rule]() - known()[rule]
    assert not new, f"{rule}: {sorted(new)}"


@pytest.mark.parametrize("rule", RULES)
def test_known_failures_are_struck_off_once_mended(rule):
    gone = known()[rule] - RULES[rule]()
    assert not gone, f"mended, so strike them off tests/known_failures.txt, {rule}: {sorted(gone)}"

"""Sphinx configuration: ``sphinx-build -W -b html docs docs/_build`` builds the site, examples and all."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib

matplotlib.use("agg")

import typer
from sphinx.util.fileutil import copy_asset
from typer.cli import get_docs_for_click

import hfcnn
from hfcnn.cli import app as command_line

HERE = Path(__file__).parent

project = "hfcnn"
author = "The hfcnn developers"
version = release = hfcnn.__version__
html_title = f"hfcnn {release}"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "myst_parser",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples", "auto_examples/**/*.ipynb"]
suppress_warnings = ["config.cache"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["hfcnn.css"]
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_favicon = "_static/favicon.svg"
html_theme_options = {
    "logo": {"text": f"hfcnn {release}", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {
    page: []
    for page in (
        *("index", "quickstart", "method", "solver", "architecture", "cli", "faq", "kernels", "performance"),
        *("results/*", "changelog", "CONTRIBUTING"),
    )
}

# formulas are set without a network: see copy_mathjax
mathjax_path = "mathjax/tex-chtml.js"

# what is copied of an example is what one types
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {"undoc-members": False}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
default_role = "literal"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1000,
    "write_computation_times": False,
    "thumbnail_size": (560, 360),
}


def write_command_line_reference() -> None:
    """Write every command's options, as ``--help`` knows them, to a page that cli.md includes."""
    command = typer.main.get_command(command_line)
    context = typer.Context(command, info_name="hfcnn")
    text = get_docs_for_click(obj=command, ctx=context, name="hfcnn")
    text = re.sub(
        r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text
    )  # their help cut short; each has its section
    page = HERE / "api" / "generated" / "commands.md.inc"
    page.parent.mkdir(parents=True, exist_ok=True)
    if not page.exists() or page.read_text() != text:
        page.write_text(text)


def escape_docstring(app, what, name, obj, options, lines) -> None:
    """Keep ``|S|``, ``coef_`` and ``(N, *shape)`` in docstrings from being read as markup."""
    for number, line in enumerate(lines):
        entry = re.match(r"[\w, ]+ : ", line)
        head = entry.group() if entry else ""  # names that numpydoc escapes itself
        parts = re.split(r"(`+[^`]*`+)", line[len(head) :])
        parts[::2] = [
            re.sub(r"\||(?<=\w)_(?!\w)|(?<= )\*(?=\w)(?![^*]*\w\*(?!\w))", r"\\\g<0>", part)
            for part in parts[::2]
        ]
        lines[number] = head + "".join(parts)


def drop_missing_reports(app, docname, source) -> None:
    """Take reports that are not written yet out of the front page's menu and links."""
    if docname != "index":
        return
    for pattern in ("solver", "kernels", "performance", "results/index", "results/*"):
        if not list(HERE.glob(f"{pattern}.md")):
            source[0] = re.sub(rf"^{re.escape(pattern)}\n", "", source[0], flags=re.MULTILINE)
            source[0] = re.sub(rf"\[(\w+)\]\({re.escape(pattern)}\.md\)", r"\1", source[0])


def copy_mathjax(app, exception) -> None:
    """Copy of MathJax what the pages use: one script and its fonts, 2 of 24 MB."""
    if exception is None:
        (package,) = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations
        source, target = Path(package, "static", "mathjax"), Path(app.outdir, "_static", "mathjax")
        copy_asset(source / "tex-chtml.js", target)
        copy_asset(source / "output" / "chtml" / "fonts", target / "output" / "chtml" / "fonts")


def setup(app) -> None:
    """Register the above."""
    for stub in (HERE / "api" / "generated").glob("*.rst"):  # of names that may be gone by now
        stub.unlink()
    write_command_line_reference()
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)  # before numpydoc, at 500
    app.connect("source-read", drop_missing_reports)
    app.connect("build-finished", copy_mathjax)

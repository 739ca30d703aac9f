"""The site: names of the reference are there, and built pages render without a complaint of the browser."""

import functools
import http.server
import importlib
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from test_architecture import LAYERS, ROOT

DOCS = Path(__file__).parents[1] / "docs"
SITE = DOCS / "_build"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def names_of(page):
    """Full names that a page of the reference lists."""
    package, is_listing = "", False
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\.\. currentmodule:: (.*)", line):
            package = found.group(1)
        if line and not line.startswith(" "):
            is_listing = line == ".. autosummary::"
        elif is_listing and re.fullmatch(r"   [\w.]+", line):
            yield f"{package}.{line.strip()}"


@pytest.mark.parametrize("page", ["estimators", "blocks", "internals"])
def test_names_of_the_reference_are_there(page):
    names = list(names_of(DOCS / "api" / f"{page}.rst"))
    assert len(names) > 5
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_page_names_the_same_floors():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    floors = re.findall(r"^\| ([a-z ]+) \| ", page, re.MULTILINE)
    assert floors == ["floor", *reversed(LAYERS)]
    for path in re.findall(r"`(?:hfcnn/)?([\w/]+\.py)`", page):
        assert (ROOT / "hfcnn" / path).exists() or (ROOT / path).exists(), path


@pytest.fixture(scope="module")
def server():
    """Server of the built pages: its address, and what it was asked for and did not have."""
    missing = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def send_error(self, code, *rest, **keywords):
            missing.append(self.path)
            super().send_error(code, *rest, **keywords)

    handler = functools.partial(Handler, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", missing
        running.shutdown()


def render(address, tmp_path):
    """Page as the browser leaves it, and what its console says but for what the theme says of its colours."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--virtual-time-budget=20000"]
    command = [BROWSER, *options, "--dump-dom", address]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    complaints = [line for line in found.stderr.splitlines() if "CONSOLE" in line and "[PST]" not in line]
    return found.stdout, complaints


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="no Chromium")
@pytest.mark.skipif(not (SITE / "index.html").exists(), reason="the site is not built")
def test_pages_render_without_errors(server, tmp_path):
    """Every page in one browser: its console is silent, nothing is missing, and formulas are set."""
    address, missing = server
    pages = sorted(
        page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html") if "_static" not in page.parts
    )
    assert "index.html" in pages
    frames = "".join(f'<iframe src="{page}" width="1280" height="900"></iframe>' for page in pages)
    (SITE / "_frames.html").write_text(f"<!doctype html><link rel=icon href=data:,>{frames}")
    try:
        page, complaints = render(f"{address}/_frames.html", tmp_path)
    finally:
        (SITE / "_frames.html").unlink()
    assert page.count("<iframe") == len(pages)
    page, more = render(f"{address}/method.html", tmp_path)
    assert "mjx-container" in page
    assert [*complaints, *more] == []
    assert missing == []

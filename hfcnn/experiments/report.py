"""Turn the cells into the paper's tables and figures, as Markdown pages with pictures."""

from __future__ import annotations

from pathlib import Path

from hfcnn.experiments import figure3, table5, table6
from hfcnn.experiments.markdown import Page
from hfcnn.experiments.paper import CITATION
from hfcnn.experiments.record import read_records
from hfcnn.files import write_atomically

__all__ = ["write_page", "write_report"]

#: Order of the pages; a page that needs no cells is linked if it is there.
MODULES = (table5, figure3, table6)
OTHER_PAGES = {
    "section5": "Section 5: cost analysis",
    "contest": "The contest: our solvers beside first-order methods",
    "small-data": "Few images: our classifiers beside scikit-learn's",
    "acceptance": "The kernels on a GPU: results, times, what failed",
}


def write_report(results: Path, output: Path) -> list[Path]:
    """Write a page for each table and figure that has cells, and an index.

    Parameters
    ----------
    results : Path
        Folder of the cells.
    output : Path
        Folder of the pages and pictures.

    Returns
    -------
    list of Path
        The pages, the index first.

    Raises
    ------
    FileNotFoundError
        If there is no cell.
    """
    records = read_records(results)
    if not records:
        raise FileNotFoundError(f"{results}: no cells; `hfcnn reproduce run` makes one")
    output.mkdir(parents=True, exist_ok=True)
    pages = [page for module in MODULES if (page := module.page(records, output))]
    written = [write_page(page, output) for page in pages]
    titles = {page.slug: page.title for page in pages}
    titles |= {slug: name for slug, name in OTHER_PAGES.items() if (output / f"{slug}.md").exists()}
    links = "\n".join(f"- [{name}]({slug}.md)" for slug, name in titles.items())
    body = (
        f"The experiments of {CITATION}, run again with hfcnn: the paper's numbers beside ours, and of each "
        "of ours the number of images, iterations and seeds, and the machine.\n\n"
        f"{links}\n\n"
        f"Written by `hfcnn reproduce report` from {len(records)} cells.\n"
    )
    return [write_page(Page("index", "Results", body), output), *written]


def write_page(page: Page, output: Path) -> Path:
    """Write a page, and say where."""
    path = output / f"{page.slug}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, f"# {page.title}\n\n{page.body}".encode())
    return path

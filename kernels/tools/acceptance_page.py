"""The page of an acceptance: what a GPU showed, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from hfcnn.report import markdown_table

from .acceptance import Finding
from .benchmark_cases import TOLERANCES

__all__ = ["check_stages", "findings_markdown"]

#: What the times of an operation are set beside: name of the figure, and of its column.
RIVALS = {
    "triton bf16 us": "kernel, bf16, us",
    "torch tf32 us": "torch, tf32, us",
    "torch bf16 us": "torch, bf16, us",
    "func tf32 us": "torch.func, tf32, us",
}
#: Figures that stand side by side.
MOST_COLUMNS = 8
#: What stands above the tables of figures.
TEXTS = {
    "products": (
        "A Gauss-Newton product",
        "`cnn3`, 2,500 images of 32 x 32 x 3, nothing stored. Differences are from a product in float64, by "
        "norm. torch is `hfcnn.ops` in float32; func (torch.func) and curvlinops do without our layers and "
        "repeat the forward pass in each product.",
    ),
    "iteration": (
        "An iteration",
        "Newton-CG on `cnn3`, 50,000 images of 32 x 32 x 3, |S| = 5 %, 20 steps of CG, under torch's "
        "profiler, which takes time itself. An epoch is one of the stochastic solver.",
    ),
    "fit": (
        "A short fit",
        "Newton-CG on the digits that come with scikit-learn, by the kernels and by torch's operations in "
        "float32.",
    ),
}


def findings_markdown(findings: Sequence[Finding]) -> str:
    """Write the page; of a stage that was taken more than once, the last time counts.

    Parameters
    ----------
    findings : sequence of Finding
        Of `hfcnn.kernels.tools.acceptance.accept`, in order.

    Returns
    -------
    str
        Markdown.

    Raises
    ------
    ValueError
        If there are none of the stage "versions", which says what all others were measured on.
    """
    stages = _last_runs(findings)
    check_stages(stages)
    parts = [
        _introduction(stages["versions"]),
        _stages_table(stages),
        _failures(stages),
        _ops_table(stages.get("ops", [])),
        _times_table(stages.get("kernels", [])),
        *(_figures_tables(*text, stages.get(name, [])) for name, text in TEXTS.items()),
    ]
    return "\n".join(part for part in parts if part)


def check_stages(stages: Collection[str]) -> None:
    """Check that a page can be written from the findings of these stages.

    Raises
    ------
    ValueError
        If "versions" is not among them.
    """
    if "versions" not in stages:
        raise ValueError(
            "no findings of the stage versions: a page must say what its figures were measured on"
        )


def _last_runs(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings of each stage's last run; its end is the last of them."""
    runs: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.stage not in runs or runs[finding.stage][-1].what == "stage":
            runs[finding.stage] = []
        runs[finding.stage].append(finding)
    return runs


def _introduction(versions: Sequence[Finding]) -> str:
    about = next(finding.figures for finding in versions if finding.what == "versions")
    rates = [
        f"{finding.what} {value:,.0f} {unit}"
        for finding in versions
        if finding.what not in ("versions", "stage")
        for unit, value in finding.figures.items()
    ]
    return (
        "# The kernels on a GPU\n\n"
        f"What `hfcnn kernels accept` found on one {about['device']}, torch {about['torch']}, Triton "
        f"{about['triton']}, Python {about['python']}, {about['cores']} cores. Rates measured there: "
        f"{', '.join(rates)}.\n"
    )


def _stages_table(stages: dict[str, list[Finding]]) -> str:
    rows = []
    for name, findings in stages.items():
        end = next((finding for finding in findings if finding.what == "stage"), None)
        rest = [finding for finding in findings if finding is not end]
        rows.append(
            [
                name,
                "-" if end is None else f"{end.figures['seconds']:.0f}",
                str(sum(finding.is_passed is True for finding in rest)),
                str(sum(finding.is_passed is False for finding in findings)),
                "not ended" if end is None else end.note,
            ]
        )
    return markdown_table(["Stage", "Seconds", "Passed", "Failed", "How it ended"], rows)


def _failures(stages: dict[str, list[Finding]]) -> str:
    """What failed, equal findings once."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for name, findings in stages.items():
        for finding in findings:
            if finding.is_passed is False:
                note = finding.note or ", ".join(f"{k} {_short(v)}" for k, v in finding.figures.items())
                counts[name, finding.what, note] += 1
    if not counts:
        return "Nothing failed.\n"
    rows = [[*key, str(count)] for key, count in counts.items()]
    return "## What failed\n\n" + markdown_table(["Stage", "What", "Why", "Times"], rows)


def _ops_table(findings: Sequence[Finding]) -> str:
    """Of each op and precision: how many checks, and the largest difference."""
    worst: dict[tuple[str, str], list[float]] = {}
    for finding in findings:
        if "error" in finding.figures:
            op, *_, precision = finding.what.split(", ")
            worst.setdefault((op, precision), []).append(finding.figures["error"])
    if not worst:
        return ""
    rows = [
        [op, precision, str(len(errors)), f"{max(errors):.1e}", f"{TOLERANCES[precision][0]:.0e}"]
        for (op, precision), errors in sorted(worst.items())
    ]
    text = (
        "## Results of the operations\n\nEvery shape of `cnn3`, `cnn5` and a network whose numbers of "
        "filters are no multiples of 4, 1 to 2,500 images, outputs filled with NaN beforehand, twice for the "
        "same bits. The difference from float64 is the largest of all elements, over the largest value.\n\n"
    )
    return text + markdown_table(["Operation", "Precision", "Checks", "Largest difference", "Allowed"], rows)


def _times_table(findings: Sequence[Finding]) -> str:
    timed = [finding for finding in findings if "triton us" in finding.figures]
    if not timed:
        return ""
    rivals = {key: title for key, title in RIVALS.items() if any(key in one.figures for one in timed)}
    rows = []
    for finding in timed:
        op, layer = finding.what.split(", ", 1)
        figures = finding.figures
        ours, torchs = figures["triton us"], figures.get("torch tf32 us")
        ratio = f"{torchs / ours:.1f}" if isinstance(torchs, float) else "–"
        rows.append([op, layer, _short(ours), *(_short(figures.get(key, "–")) for key in rivals), ratio])
    text = (
        "## Times of the operations\n\n2,500 images, by replay of a CUDA graph over four sets of inputs. "
        "torch is `hfcnn.ops` on cuDNN, channels last, the fastest of its algorithms; torch.func repeats the "
        "forward pass. Where an implementation has not the type, its error stands.\n\n"
    )
    header = ["Operation", "Layer", "kernel, tf32, us", *rivals.values(), "torch / kernel, tf32"]
    return text + markdown_table(header, rows)


def _figures_tables(title: str, text: str, findings: Sequence[Finding]) -> str:
    """A table of each group of findings that have the same figures."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        if finding.what != "stage" and finding.figures:
            groups.setdefault(tuple(finding.figures), []).append(finding)
    tables = [_figures_table(names, group) for names, group in groups.items()]
    return f"## {title}\n\n{text}\n\n" + "\n".join(tables) if tables else ""


def _figures_table(names: Sequence[str], group: Sequence[Finding]) -> str:
    """A column for each figure; a row, where they are many and of one finding."""
    if len(group) == 1 and len(names) > MOST_COLUMNS:
        return markdown_table([group[0].what, ""], [[n, _short(v)] for n, v in group[0].figures.items()])
    return markdown_table(
        ["", *names], [[one.what, *(_short(one.figures[name]) for name in names)] for one in group]
    )


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

import json
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hfcnn.benchmark.cases import Case, curvlinops_operator
from hfcnn.benchmark.cli import app
from hfcnn.benchmark.measures import measure_bf16
from hfcnn.benchmark.rows import Row, at_least, at_most, show_rows
from hfcnn.benchmark.timing import fastest, interleave, matmul_rate

runner = CliRunner()


def rows(tmp_path, *arguments):
    file = tmp_path / "rows.json"
    result = runner.invoke(app, [*arguments, "--json", str(file)])
    assert result.exit_code == 0, result.output
    content = json.loads(file.read_text())
    assert content["machine"]["threads"] == torch.get_num_threads()
    return [row for case in content["rows"].values() for row in case]


def test_goals():
    assert at_most("", 1.0, 1.0).is_reached
    assert not at_most("", 1.01, 1.0).is_reached
    assert at_least("", 2.5, 2.5).is_reached
    assert not at_least("", 2.4, 2.5).is_reached


def test_markdown_has_a_column_a_case(tmp_path):
    groups = {
        "a": [Row("time", 1234.5, "s"), at_most("|x|", 0.5, 1)],
        "b": [Row("time", 0.12345, "s"), at_most("|x|", 1.5, 1)],
        "c": [Row("time", 2.0, "s")],
    }
    show_rows("title", groups, None, tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text().splitlines() == [
        "| measure | unit | goal | a | b | c |",
        "| --- | --- | --- | --- | --- | --- |",
        "| time | s |  | 1,234 | 0.123 | 2 |",
        r"| \|x\| | x | <= 1 | 0.5 | 1.5 (no) |  |",
    ]


def test_candidates_take_turns_of_a_call_of_warm_up_and_one_timed():
    calls = []
    seconds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "aabbaabb"
    assert set(seconds) == {"a", "b"}


def test_fastest_and_rate():
    slow, fast = (lambda: sum(range(300_000))), (lambda: None)
    assert fastest([slow, fast]) is fast
    assert matmul_rate({"matmul torch": 2.0, "matmul numpy": 1.0}, 10) == 2000 / 1e9


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of what curvlinops needs
def test_peers_compute_the_same_product():
    """A ratio of times means something only where both sides computed the same."""
    case = Case.draw("cnn3", (8, 8, 1), 6)
    try:
        peer = curvlinops_operator(case, 6)
    except ImportError:
        pytest.skip("curvlinops is not installed")
    parameters = dict(case.network.to_torch(case.v).named_parameters())  # v in torch's order and layout
    theirs = peer @ torch.cat([p.detach().flatten() for p in parameters.values()])
    ours = case.operator("rop") @ case.v - (1 / case.C + 1.0) * case.v
    reordered = dict(case.network.to_torch(ours).named_parameters())
    expected = torch.cat([p.detach().flatten() for p in reordered.values()])
    torch.testing.assert_close(theirs / len(case.images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # of what curvlinops needs
def test_products(tmp_path):
    measured = rows(tmp_path, "products", "--smoke", "--repeats", "1")
    names = [row["what"] for row in measured]
    assert "R-operator product / autograd" in names
    assert "torch.func product / stored" in names
    assert all(row["figure"] > 0 for row in measured)


def test_profile(tmp_path):
    measured = {row["what"]: row["figure"] for row in rows(tmp_path, "profile", "--smoke", "--repeats", "1")}
    for part in ("f and gradient", "R-operator product", "stored product", "stored set-up"):
        kinds = [
            value for name, value in measured.items() if name.startswith(f"{part}: ") and "rate" not in name
        ]
        assert sum(kinds) == pytest.approx(measured[part])
        assert measured[f"{part}: convolutions"] > 0


def test_iteration(tmp_path):
    measured = rows(tmp_path, "iteration", "--smoke", "--repeats", "1")
    assert [row["unit"] for row in measured] == ["s", "s", "s", "GFLOP/s"]


def test_predict(tmp_path):
    assert rows(tmp_path, "predict", "--smoke", "--repeats", "1")[0]["figure"] > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory(tmp_path):
    measured = rows(tmp_path, "memory", "--smoke")
    peaks = [row["figure"] for row in measured if row["unit"] == "MiB"]
    assert len(peaks) == 3
    assert min(peaks) > 0


def test_bf16_counts_and_accuracy():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, 8, 8, 1, generator=generator), torch.arange(40) % 10
    counts, near, accuracy, loss = measure_bf16(images, labels, 3)
    assert counts.figure >= 3
    assert near.figure < 0.5
    assert 0 <= accuracy.figure <= 1
    assert abs(loss.figure) <= 1


@pytest.fixture
def noise(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (120, 8, 8), np.uint8), np.arange(120) % 10
    np.savez(tmp_path / "noise.npz", X_train=images, y_train=labels, X_test=images, y_test=labels)
    return str(tmp_path / "noise.npz")


def test_ablation_prints_a_row_a_variant(noise):
    from hfcnn.benchmark.ablation import VARIANTS

    result = runner.invoke(app, ["ablation", noise, "--passes", "1", "--passes", "2.5"])
    assert result.exit_code == 0, result.output
    header, _, *body = result.output.strip().splitlines()
    assert header == "| noise | 1 passes | 2.5 passes |"
    assert [row.split(" | ")[0].strip("| ") for row in body] == list(VARIANTS)
    assert all(0 <= float(cell) <= 100 for row in body for cell in row.strip("| ").split(" | ")[1:])


def test_ablation_of_chosen_variants(noise):
    command = ["ablation", noise, "--passes", "1", "--variant"]
    result = runner.invoke(app, [*command, "C = 0.1 l"])
    assert result.exit_code == 0, result.output
    (row,) = result.output.strip().splitlines()[2:]
    assert row.startswith("| C = 0.1 l | ")
    wrong = runner.invoke(app, [*command, "no such part"])
    assert wrong.exit_code == 2 and "no variant no such part" in wrong.output


def test_choices_are_tried_once_and_tabled(tmp_path):
    arguments = ["choices", str(tmp_path / "trials"), "--images", "20", "--seeds", "2", "--max-iter", "1"]
    arguments += ["--solver", "newton-cg", "--loss", "squared", "--subset", "5", "--strength", "100"]
    first = runner.invoke(app, arguments)
    assert first.exit_code == 0, first.output
    trials = [json.loads(line) for line in (tmp_path / "trials").read_text().splitlines()]
    mean, least = (100 * f([trial["accuracy"] for trial in trials]) for f in (np.mean, min))
    header, _, row = first.stdout.strip().splitlines()
    assert header == "| data | images | newton-cg, squared, Cl 100, S 5 |"
    assert row.startswith(f"| digits | 20 | {mean:.1f} (from {least:.1f}; ")
    again = runner.invoke(app, arguments)
    assert again.stdout == first.stdout and not again.stderr  # nothing is run again

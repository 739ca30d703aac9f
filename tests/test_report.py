"""Pages from hand-made cells, the cost comparison, and the command line."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from hfcnn import Conv, Network
from hfcnn.experiments import paper
from hfcnn.experiments.cli import app
from hfcnn.experiments.paper import C_VALUES, LEARNING_RATES, SAMPLING_RATES
from hfcnn.experiments.plan import SEARCHED_RATES
from hfcnn.experiments.record import CellRecord, read_records
from hfcnn.experiments.report import write_report
from hfcnn.experiments.section5 import Paper, compare_costs
from hfcnn.experiments.settings import CellSettings

NEWTON = CellSettings("mnist", sampling_rate=0.05, iterations=100)
SG = CellSettings("mnist", method="sg", learning_rate=0.001, iterations=1000)
MACHINE = {"processor": "Abacus 9", "cores": 8, "threads": 4, "device": "cpu"}


def make(settings, accuracies, status="finished", n_train=60_000, n_test=10_000):
    n = len(accuracies)
    history = {
        "iteration": list(range(1, n + 1)),
        "f": [1.0] * n,
        "seconds": [10.0 * (i + 1) for i in range(n)],
        "passes": [2.0 * (i + 1) for i in range(n)],
        "cg_iterations": [7] * n,
        "test_accuracy": accuracies,
        "load": [1.5] * n,
    }
    versions = {"hfcnn": "1", "torch": "2.9.9", "numpy": "2", "python": "3"}
    return CellRecord(settings, status, n_train, n_test, 10, 62_026, versions, MACHINE, history)


def write(records, results):
    for record in records:
        record.save(results / "made" / f"{record.settings.name}.json")


def search(best=0.001):
    return [
        make(
            replace(SG, learning_rate=rate, fold=fold, iterations=7),
            [0.9 if rate == best else 0.8],
            n_train=48_000,
            n_test=12_000,
        )
        for rate in SEARCHED_RATES
        for fold in range(5)
    ]


def row(text, *starts):
    """Cells of the only table row that begins with these."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    found = [cells for cells in rows if cells[: len(starts)] == list(starts)]
    assert len(found) == 1
    return found[0]


def test_table5_has_whole_data_sets_only_and_names_what_is_missing(tmp_path):
    part = make(replace(NEWTON, train_size=5000), [0.8], n_train=5_000)
    fashion = make(replace(NEWTON, dataset="fashion-mnist"), [0.9])
    write([make(NEWTON, [0.97]), part, fashion], tmp_path / "cells")
    write_report(tmp_path / "cells", tmp_path)
    text = (tmp_path / "table5.md").read_text()
    assert row(text, "MNIST", "60,000 / 10,000", "3-layer CNN")[3:5] == ["99.27", "97.00"]
    assert row(text, "Fashion-MNIST", "60,000 / 10,000", "3-layer CNN")[3:5] == ["–", "90.00"]
    assert "5,000" not in text and "80.00" not in text
    assert "Not run: SVHN cnn3, CIFAR10 cnn3, smallNORB cnn3, MNIST cnn5," in text


def test_table5_has_the_stochastic_solver(tmp_path):
    cell = replace(NEWTON, method="kfac", C=0.03, sampling_rate=None, iterations=10)
    other = make(replace(cell, C=0.01), [0.5])  # not the default
    write([other, make(cell, [0.98, 0.99]), make(replace(cell, seed=1), [0.98, 0.992])], tmp_path / "cells")
    write_report(tmp_path / "cells", tmp_path)
    text = (tmp_path / "table5.md").read_text()
    cells = row(text, "MNIST", "60,000 / 10,000", "3-layer CNN")
    assert cells[3:] == ["99.27", "–", "99.17 (0.003)", "–", "99.10 (2 seeds)"]
    source = row(text, "MNIST", "60,000 / 10,000", "cnn3", "K-FAC")
    assert source[5:9] == ["–", "2 of 10", "0, 1", "99.10 (99.00–99.20)"]


def test_table5_shows_means_and_the_rate_that_was_searched(tmp_path):
    newton = [make(replace(NEWTON, seed=seed), [0.5, value]) for seed, value in enumerate((0.98, 0.99))]
    other = make(replace(SG, learning_rate=0.01), [0.3])
    write([*newton, make(SG, [0.5, 0.9712]), other, *search()], tmp_path / "cells")
    write_report(tmp_path / "cells", tmp_path)
    text = (tmp_path / "table5.md").read_text()
    cells = row(text, "MNIST", "60,000 / 10,000", "3-layer CNN")
    assert cells[3:] == ["99.27", "98.50 (2 seeds)", "99.17 (0.003)", "97.12 (0.001, 1,000 epochs)", "–"]
    assert row(text, "MNIST", "60,000", "3-layer CNN")[3:] == [
        "7",
        "80.00",
        "90.00",
        "80.00",
        "80.00",
        "0.001",
        "200",
    ]
    source = row(text, "MNIST", "60,000 / 10,000", "cnn3", "Newton")
    assert source[4:] == [
        "0.01 l", "S 5 %", "2 of 100", "0, 1", "98.50 (98.00–99.00)", "20", "1.5",
        "Abacus 9, 4 of 8 cores, torch 2.9.9",
    ]  # fmt: skip


def test_table5_shows_newton_by_iteration_and_minute(tmp_path):
    accuracies = [0.9 + 0.001 * i for i in range(1, 13)]
    record = make(NEWTON, accuracies, status="running")
    part = make(replace(NEWTON, train_size=1000), [0.8], n_train=1000)
    write([record, part], tmp_path / "cells")
    write_report(tmp_path / "cells", tmp_path)
    text = (tmp_path / "table5.md").read_text()
    assert text.count("by iteration and minute") == 1
    assert row(text, "10") == ["10", "1.7", "1.0000", "70", "91.00"]
    assert row(text, "12") == ["12", "2.0", "1.0000", "84", "91.20"]
    assert "| 11 |" not in text


def test_table5_says_what_is_unfinished_or_not_searched(tmp_path):
    unfinished = make(NEWTON, [0.8], status="running")
    write([unfinished, make(replace(SG, learning_rate=0.003), [0.7])], tmp_path / "cells")
    write_report(tmp_path / "cells", tmp_path)
    cells = row((tmp_path / "table5.md").read_text(), "MNIST", "60,000 / 10,000", "3-layer CNN")
    assert cells[4] == "80.00 (after 1 of 100)"
    assert cells[6] == "70.00 (0.003*, 1,000 epochs)"


def test_table6_shows_the_grid_beside_the_papers(tmp_path):
    newton = [replace(NEWTON, C=C, sampling_rate=rate) for C in C_VALUES for rate in SAMPLING_RATES]
    sg = [replace(SG, C=C, learning_rate=rate) for C in C_VALUES for rate in LEARNING_RATES]
    records = [make(cell, [0.9 + 0.01 * cell.sampling_rate]) for cell in newton]
    records += [
        make(
            cell,
            [0.098 if cell.learning_rate > 0.003 else 0.95],
            "diverged" if cell.learning_rate > 0.003 else "finished",
        )
        for cell in sg
    ]
    write(records, tmp_path / "cells")
    write_report(tmp_path / "cells", tmp_path)
    text = (tmp_path / "table6.md").read_text()
    assert row(text, "0.1 l", "paper", "99.22")[2:] == ["99.22", "99.27", "99.06"]
    assert text.count("|  | ours | 90.10 | 90.05 | 90.01 |") == 3
    assert text.count("| 9.80 (1 diverged) | 9.80 (1 diverged) | 9.80 (1 diverged) | 95.00 |") == 3
    assert (tmp_path / "table6-mnist-60000-10000.png").stat().st_size > 10_000


def test_figure3_shows_when_each_method_reached_an_accuracy(tmp_path):
    plain = replace(SG, method="sg-plain")
    write(
        [make(NEWTON, [0.6, 0.96]), make(SG, [0.8, 0.91, 0.93]), make(plain, [0.1, 0.2]), *search()],
        tmp_path / "cells",
    )
    write_report(tmp_path / "cells", tmp_path)
    text = (tmp_path / "figure3.md").read_text()
    assert row(text, "90 %")[1:] == ["20 s, 4", "20 s, 4", "–", "220 s, 36"]
    assert "chosen by 20 runs of 7 epochs, which took 200 s" in text
    assert (tmp_path / "figure3-mnist-60000-10000-cnn3.png").stat().st_size > 10_000
    index = (tmp_path / "index.md").read_text()
    assert "(figure3.md)" in index and "(table5.md)" in index and "table6.md" not in index


def test_the_papers_tables_agree_with_each_other():
    for (dataset, C), cells in paper.TABLE6.items():
        if C == 0.01:
            assert cells.newton[0.05] == paper.TABLE5[dataset, "cnn3"].newton
    assert len(paper.TABLE6) == 12 and len(paper.TABLE5) == 8


def test_section5_counts_what_is_predicted():
    network = Network([Conv(4, 3, pool=2), Conv(6, 3, pool=2)], (8, 8, 2), 3)
    formulas = Paper(network)
    assert formulas.activations == 8 * 8 * 2 + 4 * 4 * 4 + 2 * 2 * 6 + 3
    assert formulas.jacobian == 3 * (64 * 4 + 16 * 6 + 3)
    assert formulas.expanded == 64 * 9 * 2 + 16 * 9 * 4
    assert formulas.value == 2 * (64 * 4 * 18 + 16 * 6 * 36 + 3 * 24)
    for item in compare_costs(network):
        # torch does not count products that add in place, which the output layer's tangent has
        assert item.operations == pytest.approx(item.ours.operations, rel=0.01)
        assert item.peak_bytes >= item.kept_bytes >= 0 and item.peak_bytes > 0
        assert item.ratio("ours", "bytes") == item.peak_bytes / item.ours.bytes


@pytest.mark.parametrize("preset", ["cnn3", "cnn5"])
def test_section5_predicts_the_peak_of_a_preset(preset):
    for item in compare_costs(Network.preset(preset, (28, 28, 1), 10)):
        assert item.ratio("ours", "operations") == pytest.approx(1, abs=0.01)
        assert item.ratio("ours", "bytes") == pytest.approx(1, abs=0.2)


@pytest.fixture
def data_dir(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 20)
    images = rng.integers(0, 60, (60, 8, 8, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 180
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(
        folder / "bars.npz", X_train=images[:45], y_train=labels[:45], X_test=images[45:], y_test=labels[45:]
    )
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_line_stops_goes_on_and_reports(data_dir, tmp_path):
    cells = ("--output", tmp_path / "cells", "--device", "cpu")
    run = ("run", "--data", data_dir, "--dataset", "bars", "--sampling-rate", 0.5, "--iterations", 3, *cells)
    stopped = invoke(*run, "--time-limit", 0)
    assert stopped.exit_code == 0 and "1/3" in stopped.stdout and "goes on from here" in stopped.stdout
    done = invoke(*run)
    assert done.exit_code == 0 and "3/3" in done.stdout and "1/3" not in done.stdout
    small = ("--data", data_dir, "--datasets", "bars", "--seeds", 1, "--iterations", 1, "--epochs", 1, *cells)
    assert invoke("table5", *small, "--networks", "cnn3").exit_code == 0
    assert invoke("figure3", *small, "--search-epochs", 0).exit_code == 0
    assert invoke("table6", *small).exit_code == 0
    assert len(read_records(tmp_path / "cells")) == 1 + 20 + 9 + 3 * 7 + 1
    result = invoke("report", "--results", tmp_path / "cells", "--output", tmp_path / "pages")
    assert result.exit_code == 0 and "index.md" in result.stdout
    assert {path.stem for path in (tmp_path / "pages").glob("*.md")} == {
        "index",
        "table5",
        "table6",
        "figure3",
    }


def test_errors_of_the_command_line_say_what_is_wrong(data_dir, tmp_path):
    missing = invoke("run", "--data", data_dir, "--dataset", "mnist", "--output", tmp_path)
    assert missing.exit_code == 1 and "mnist" in missing.stderr
    empty = invoke("report", "--results", tmp_path / "none", "--output", tmp_path)
    assert empty.exit_code == 1 and "no cells" in empty.stderr

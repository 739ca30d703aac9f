"""The contest: same start and averaging for all, time without evaluation, runs that go on, and the page."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from hfcnn.benchmark import contest as contest_module
from hfcnn.benchmark.cli import app
from hfcnn.benchmark.contest import (
    ContestPlan,
    ContestRun,
    RunRecord,
    best_rate,
    read_runs,
    run_contest,
    run_one,
)
from hfcnn.benchmark.contest_report import Standing, standings, write_contest
from hfcnn.benchmark.contest_rivals import AVERAGING, CONTESTANTS, AveragedParameters

RUN = ContestRun("digits", "cnn3", "adamw", "cross_entropy", 1e-3, 0, 1.0, 60.0, None, 1, 0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images, labels = load_digits(return_X_y=True)
    images = (15 * images).astype(np.uint8).reshape(-1, 8, 8, 1)
    folder = tmp_path_factory.mktemp("data")
    parts = {"X_train": images[:320], "y_train": labels[:320]}
    np.savez(folder / "digits.npz", **parts, X_test=images[320:420], y_test=labels[320:420])
    return folder


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def made(run, accuracies, step=1.0):
    n = len(accuracies)
    history = {name: [step * (i + 1) for i in range(n)] for name in ("passes", "seconds", "cpu_seconds")}
    history |= {"averaged": accuracies, "load": [1.0] * n}
    return RunRecord(run, True, {"processor": "Abacus 9", "torch": "2"}, history)


def test_the_average_is_the_weighted_sum_of_the_points():
    points = [torch.tensor([float(i), 2.0]) for i in range(4)]
    average = AveragedParameters([points[0]])
    expected = torch.zeros(2)
    for k, point in enumerate(points, start=1):
        average.add([point])
        share = (AVERAGING + 1) / (k + AVERAGING)
        expected = (1 - share) * expected + share * point
    assert torch.allclose(average.values[0], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", CONTESTANTS)
def test_every_contestant_trains(name, data, tmp_path):
    contestant = CONTESTANTS[name]
    if contestant.package:
        pytest.importorskip(contestant.package)
    rate = next(iter(contestant.rates), 0.0)
    run = replace(RUN, contestant=name, loss=contestant.loss, rate=rate, passes=6.0)
    record = run_one(run, data, tmp_path)
    assert record.is_done and max(record.history["averaged"]) > 0.2  # ten classes
    history = record.history
    assert history["passes"] == sorted(history["passes"]) and history["passes"][-1] >= 6.0
    assert len({len(column) for column in history.values()}) == 1
    assert RunRecord.load(tmp_path / f"{run.name}.json") == record


def test_a_run_repeats_itself_and_seeds_differ(data, tmp_path):
    first = run_one(RUN, data, tmp_path / "a").history["averaged"]
    assert run_one(RUN, data, tmp_path / "b").history["averaged"] == first
    assert run_one(replace(RUN, seed=1), data, tmp_path / "a").history["averaged"] != first


def test_looking_takes_no_time_of_the_run(data, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(contest_module.time, "perf_counter", lambda: now[0])
    slow = contest_module.outputs

    def looking(*arguments):
        now[0] += 1000.0
        return slow(*arguments)

    monkeypatch.setattr(contest_module, "outputs", looking)
    assert set(run_one(RUN, data, tmp_path).history["seconds"]) == {0.0}


def test_what_is_done_is_not_run_again(data, tmp_path, monkeypatch):
    first = run_one(RUN, data, tmp_path)
    monkeypatch.setattr(contest_module, "load_dataset", None)
    assert run_one(RUN, data, tmp_path) == first


def test_the_plan_runs_first_rates_all_rates_and_the_best(tmp_path, monkeypatch):
    finals = {1e-3: 0.8, 3e-3: 0.9, 3e-4: 0.7, 1e-2: 0.1, 1e-4: 0.2}
    done = []

    def run(one, data, folder):
        done.append((one.rate, one.seed))
        record = made(one, [finals[one.rate]])
        record.save(folder)
        return record

    monkeypatch.setattr(contest_module, "run_one", run)
    plan = ContestPlan(("digits",), ("cnn3",), ("adamw",), 3, 1.0, 60.0, None, 1)
    assert run_contest(plan, tmp_path, tmp_path, lambda record: None) == []
    assert done[:3] == [(1e-3, 0), (1e-3, 1), (1e-3, 2)]
    assert done[3:] == [(3e-3, 0), (3e-4, 0), (1e-2, 0), (1e-4, 0), (3e-3, 1), (3e-3, 2)]
    assert best_rate(RUN, read_runs(tmp_path)) == 3e-3
    done.clear()
    run_contest(replace(plan, rates=1), tmp_path, tmp_path, lambda record: None)
    assert done == [(1e-3, 0), (1e-3, 1), (1e-3, 2)]


def test_standings():
    records = [
        made(replace(RUN, seed=seed), [0.5, value, 0.99]) for seed, value in enumerate((0.9, 0.8, 0.7))
    ]
    records[0].history["seconds"] = [1.5, 2.5, 4.5]  # the machine had other work
    one = Standing(records, records, records[1], n_tried=2, is_best=True, clock="seconds")
    assert one.name == "AdamW, rate 0.001 (best of 2)" and one.legend == "AdamW, best of 2 rates"
    other = [made(replace(RUN, contestant="kfac", rate=0.0, C=0.5), [0.5])]
    assert Standing(other, other, other[0], n_tried=1, is_best=True, clock="seconds").name.endswith(
        ", C = 0.5 l"
    )
    assert sorted(one.accuracies(2.0)) == pytest.approx([70, 80, 90])
    assert one.accuracies(10.0) == []
    assert one.times(75.0) == [2.0, 2.0, 3.0] and one.times(99.5) == []
    assert one.curve("passes")[1] == pytest.approx([50, 80, 99])
    assert one.curve("seconds")[0] == [1.0, 2.0, 3.0]


def test_passes_take_what_they_took_in_the_fastest_run():
    slow = made(RUN, [0.5, 0.9, 0.99])
    slow.history["seconds"] = [2.0, 4.0, 6.0]
    fast = made(replace(RUN, rate=3e-3), [0.4, 0.7, 0.8])
    short = made(replace(RUN, rate=1e-2), [0.4])  # cut short, it says nothing of three passes
    (found,) = standings([slow, fast, short], "seconds").values()
    assert found[0].times(85.0) == [2.0]


def test_the_page_shows_first_and_best_rate(tmp_path):
    mnist = replace(RUN, dataset="mnist", passes=3.0)
    records = [made(mnist, [0.9, 0.97, 0.985]), made(replace(mnist, rate=3e-3), [0.9, 0.98, 0.991])]
    text = write_contest(records, tmp_path).read_text()
    assert "AdamW, rate 0.001 |" in text and "AdamW, rate 0.003 (best of 2) |" in text
    assert "| AdamW, rate 0.003 (best of 2) | 2.0 | 2.0 | 3.0 | 3.0 | – |" in text
    assert (tmp_path / "contest-mnist-cnn3.png").stat().st_size > 10_000
    assert (tmp_path / "contest.png").stat().st_size > 10_000
    longer = made(replace(mnist, passes=4.0), [0.9, 0.97, 0.985, 0.989])
    longer.history["seconds"] = [0.1, 0.2, 0.3, 0.4]
    text = write_contest([*records, longer], tmp_path).read_text()
    assert "| AdamW, rate 0.001 | 1 | – | – | 90.00 | 97.00 | 98.90 | – |" in text
    # its times do not count: those of the shorter run do
    assert "| AdamW, rate 0.001 | 2.0 | 3.0 | 3.0 | – | – |" in text
    ours = made(replace(mnist, contestant="kfac", rate=0.0, C=CONTESTANTS["kfac"].C), [0.97, 0.98, 0.985])
    ours.machine["processor"] = "Abacus 10"
    text = write_contest([*records, ours], tmp_path).read_text()
    where = "Runs: 2 of 3 passes on Abacus 9, torch 2; 1 of 3 passes on Abacus 10, torch 2; 1 thread, mean"
    assert where in text
    assert "| AdamW, rate 0.001 | 2.0 | 1.5 | 1.0 | – | – |" in text  # times as long
    assert "| AdamW, rate 0.003 (best of 2) | 2.0 | 1.0 | 1.0 | – | – |" in text
    with pytest.raises(ValueError, match="clock must be"):
        write_contest(records, tmp_path, "minutes")


def test_the_command_runs_and_goes_on(data, tmp_path):
    command = ["contest", "--data", str(data), "--output", str(tmp_path), "--datasets", "digits"]
    command += ["--contestants", "newton-cg", "--seeds", "1", "--passes", "1", "--threads", "1"]
    for _ in range(2):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert "newton-cg" in result.output
    (file,) = (tmp_path / "cells" / "contest").glob("*.json")
    assert json.loads(file.read_text())["is_done"]
    wrong = CliRunner().invoke(app, [*command, "--contestants", "adam"])
    assert wrong.exit_code == 1 and "contestant must be one of" in wrong.stderr


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_few_images(data, tmp_path, monkeypatch):
    from hfcnn.benchmark import small_data

    monkeypatch.setattr(small_data, "ADAM_PASSES", 3.0)
    names = ("AdamW", "SVC")
    monkeypatch.setattr(small_data, "CLASSIFIERS", {name: small_data.CLASSIFIERS[name] for name in names})
    cells = list(small_data.measure_small_data(data, tmp_path / "cells", ["digits"], [40, 80], 1))
    assert [(cell.classifier, cell.size) for cell in cells] == [
        (name, size) for size in (40, 80) for name in names
    ]
    assert max(cell.accuracy for cell in cells) > 0.5
    page = small_data.write_small_data(tmp_path / "cells", tmp_path).read_text()
    assert "| digits | SVC |" in page and f"threads of torch: {torch.get_num_threads()}." in page

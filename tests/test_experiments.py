"""Cells: same start for every method, bit for bit after an interruption, never run twice."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.datasets import load_digits

from hfcnn.experiments import data as data_module
from hfcnn.experiments import runner as runner_module
from hfcnn.experiments.data import N_FOLDS, load_data, load_dataset
from hfcnn.experiments.plan import SEARCHED_RATES, Plan, choose_rate, evaluate_search
from hfcnn.experiments.record import CellRecord, load_state, read_records, state_path
from hfcnn.experiments.runner import Runner, Stopped, build_problem
from hfcnn.experiments.settings import CellSettings, state_type

NEWTON = CellSettings("digits", sampling_rate=0.2, C=1.0, iterations=4, train_size=120, test_size=50)
SG = replace(NEWTON, method="sg", sampling_rate=None, learning_rate=0.003)
KFAC = replace(NEWTON, method="kfac", sampling_rate=None)

#: Columns that a second run does not repeat.
CLOCK = ("seconds", "load")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    images, labels = load_digits(return_X_y=True)
    images = (15 * images).astype(np.uint8).reshape(-1, 8, 8, 1)
    folder = tmp_path_factory.mktemp("data")
    parts = {
        "X_train": images[:300],
        "y_train": labels[:300],
        "X_test": images[300:400],
        "y_test": labels[300:400],
    }
    np.savez(folder / "digits.npz", **parts)
    return folder


@pytest.fixture
def make_runner(data_dir, tmp_path):
    def make(experiment="run", **options):
        return Runner(
            data_dir, tmp_path / "cells", experiment, device="cpu", console=Console(quiet=True), **options
        )

    return make


def repeatable(record):
    return {name: column for name, column in record.history.items() if name not in CLOCK}


def interrupt_at(iteration):
    def interrupt(record):
        if record.iteration == iteration:
            raise KeyboardInterrupt

    return interrupt


def run_and_keep_theta(runner, settings):
    """Run a cell to its end: its record, and theta after each iteration, which are deleted at the end."""
    thetas = {}

    def keep(record):
        path = state_path(runner.results / runner.experiment / f"{settings.name}.json")
        if path.exists():
            thetas[record.iteration] = load_state(state_type(settings), path, torch.device("cpu")).theta

    return runner.run_cell(settings, keep), thetas


@pytest.mark.parametrize(
    "settings", [NEWTON, SG, replace(SG, method="sg-plain"), KFAC], ids=lambda s: s.method
)
def test_an_interrupted_run_goes_on_bit_for_bit(make_runner, settings, tmp_path):
    runner = make_runner()
    with pytest.raises(KeyboardInterrupt):
        runner.run_cell(settings, interrupt_at(2))
    path = runner.results / "run" / f"{settings.name}.json"
    assert CellRecord.load(path).status == "running" and state_path(path).exists()

    resumed, thetas = run_and_keep_theta(runner, settings)
    whole, all_thetas = run_and_keep_theta(replace(make_runner(), results=tmp_path / "other"), settings)
    assert resumed.status == whole.status == "finished"
    assert resumed.history["iteration"] == [1, 2, 3, 4]
    assert repeatable(resumed) == repeatable(whole)
    assert list(thetas) == [2, 3, 4] and all(torch.equal(thetas[i], all_thetas[i]) for i in thetas)
    assert repeatable(CellRecord.load(path)) == repeatable(resumed) and not state_path(path).exists()


def test_a_record_ahead_of_its_state_is_cut_to_it(make_runner):
    runner = make_runner()
    with pytest.raises(KeyboardInterrupt):
        runner.run_cell(SG, interrupt_at(3))
    path = runner.results / "run" / f"{SG.name}.json"
    record = CellRecord.load(path)
    record.append({name: 4 if name == "iteration" else 0.5 for name in record.history})
    record.save(path)
    assert runner.run_cell(SG).history["iteration"] == [1, 2, 3, 4]


def test_a_finished_cell_is_not_run_again_by_any_experiment(make_runner, monkeypatch):
    first = make_runner("table5").run([SG])

    def fail(*args):
        raise AssertionError("run again")

    monkeypatch.setattr(runner_module, "solve", fail)
    assert make_runner("table6").run([SG]) == first


def test_the_time_limit_stops_after_an_iteration(make_runner):
    with pytest.raises(Stopped):
        make_runner(time_limit=0).run([SG, NEWTON])
    records = read_records(make_runner().results)
    assert [record.iteration for record in records] == [1] and not records[0].is_done


def test_methods_start_alike(data_dir):
    starts = []
    for settings in (NEWTON, SG):
        objective, theta = build_problem(
            settings, load_data(data_dir, settings), runner_module.get_backend(device="cpu")
        )
        starts.append((theta, objective))
    (theta, objective), (other_theta, other) = starts
    assert torch.equal(theta, other_theta)
    assert objective.network == other.network and objective.C == other.C == NEWTON.C * 120
    assert torch.equal(objective.images, other.images) and objective.loss.name == other.loss.name == "squared"


def test_a_diverged_run_ends_early_at_chance(make_runner, data_dir):
    settings = replace(SG, learning_rate=1e6, iterations=20)
    record = make_runner().run_cell(settings)
    y_test = load_data(data_dir, settings).y_test
    assert record.status == "diverged" and record.iteration < 20
    assert record.last("test_accuracy") == pytest.approx(np.mean(y_test == 0))
    assert not np.isfinite(CellRecord.load(make_runner().results / "run" / f"{settings.name}.json").last("f"))


def test_a_choice_of_images_is_stratified_and_always_the_same(data_dir):
    first = load_data(data_dir, NEWTON)
    data_module._load.cache_clear()
    again = load_data(data_dir, NEWTON)
    assert np.array_equal(first.X_train, again.X_train) and first.X_train.shape == (120, 8, 8, 1)
    assert np.bincount(first.y_train).min() >= 11 and first.n_classes == 10
    assert np.allclose(first.X_train.mean(0), 0, atol=1e-6)  # centred by these images alone


def test_folds_part_the_training_images(data_dir):
    folds = [load_data(data_dir, replace(SG, fold=fold)) for fold in range(N_FOLDS)]
    assert sum(len(data.y_test) for data in folds) == 120
    assert all(len(data.y_train) + len(data.y_test) == 120 for data in folds)
    assert all(np.bincount(data.y_test, minlength=10).min() >= 1 for data in folds)


def test_the_search_takes_the_rate_of_best_mean_validation_accuracy(make_runner):
    plan = Plan(("digits",), ("cnn3",), search_epochs=2, train_size=60)
    runner = make_runner("table5")
    choice = choose_rate(runner, plan, "digits", "cnn3")
    runs = read_records(runner.results)
    means = {
        rate: np.mean([run.last("test_accuracy") for run in runs if run.settings.learning_rate == rate])
        for rate in SEARCHED_RATES
    }
    assert choice.is_searched and choice.epochs == 2 and len(runs) == 20
    assert means[choice.rate] == max(means.values())
    assert choice.accuracies == pytest.approx(means)
    assert choice.seconds == pytest.approx(sum(run.last("seconds") for run in runs))
    assert choice.passes == pytest.approx(20 * 2 * 4 / 5)


def test_without_a_complete_search_the_rate_is_the_papers():
    assert evaluate_search([], "cifar10", "cnn5").rate == 0.0003
    assert evaluate_search([], "fashion-mnist", "cnn3").rate == 0.003
    assert not evaluate_search([], "cifar10", "cnn5").is_searched


def test_settings_ask_for_the_rate_of_their_method():
    with pytest.raises(ValueError, match="newton takes a sampling_rate"):
        CellSettings("digits", learning_rate=0.1)
    with pytest.raises(ValueError, match="method must be one of"):
        CellSettings("digits", method="adam", learning_rate=0.1)


def test_names_tell_cells_apart():
    cells = [NEWTON, SG, replace(SG, method="sg-plain"), replace(SG, fold=1), replace(SG, test_size=None)]
    cells += [replace(SG, seed=1), replace(SG, C=0.1), replace(SG, iterations=5), replace(SG, network="cnn5")]
    assert len({cell.name for cell in cells}) == len(cells)


def test_a_broken_record_is_named(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"broken\.json: not a record"):
        CellRecord.load(path)


def test_a_missing_data_set_is_named(data_dir):
    with pytest.raises(FileNotFoundError, match="svhn"):
        load_data(data_dir, replace(SG, dataset="svhn"))


def test_labels_that_only_the_test_part_has_are_named(data_dir):
    images = np.zeros((4, 4, 4, 1), np.uint8)
    np.savez(data_dir / "odd.npz", X_train=images, y_train=[0, 2, 0, 2], X_test=images, y_test=[0, 1, 2, 0])
    with pytest.raises(ValueError, match=r"test part of .*odd\.npz holds labels .*: 1; the classes are 0, 2"):
        load_dataset(data_dir, "odd")

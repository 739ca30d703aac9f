"""Two and three processes fit what one fits: to 1e-10 in float64, after five iterations."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
from sklearn.base import clone

from hfcnn.ranks import Ranks

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES, GIVEN, IMAGES, X, Y  # noqa: E402

WORKER = Path(__file__).parent / "worker.py"
SIZES = (2, 3)


def alone_in(case):
    classifier, arguments = CASES[case]
    return clone(classifier).fit(IMAGES.get(case, X), Y, **arguments)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every case in this process, by itself; and the folder where two groups of processes have written."""
    folder = tmp_path_factory.mktemp("groups")
    for i, start in enumerate(range(0, len(X), 60)):
        np.save(folder / f"X-{i}.npy", X[start : start + 60])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, str(WORKER), str(folder), *map(str, SIZES)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        fitted = {case: alone_in(case) for case in CASES}
        _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return fitted, folder


@pytest.fixture(scope="module")
def alone(outcomes):
    return outcomes[0]


@pytest.fixture(scope="module", params=SIZES, ids="{} processes".format)
def group(request, outcomes):
    """What each process of a group wrote."""
    return [dict(np.load(outcomes[1] / f"rank{rank}of{request.param}.npz")) for rank in range(request.param)]


def assert_same_fit(found, case, expected):
    theta = found[f"{case}/theta"]
    worst = np.abs(theta - expected.theta_).max() / np.abs(expected.theta_).max()
    assert worst <= 1e-10, f"largest difference {worst:.1e}"
    for name, column in expected.history_.items():
        if name not in ("seconds", "passes"):
            np.testing.assert_allclose(found[f"{case}/{name}"], column, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_same_parameters_as_one_process(case, group, alone):
    for found in group:
        assert_same_fit(found, case, alone[case])
        assert np.array_equal(found[f"{case}/theta"], group[0][f"{case}/theta"]), "the same bits in each"
        for name in alone[case].history_:
            if name != "seconds":
                assert np.array_equal(found[f"{case}/{name}"], group[0][f"{case}/{name}"], equal_nan=True), (
                    name
                )


@pytest.mark.parametrize("case", GIVEN)
def test_own_images_in_uneven_blocks(case, group, alone):
    """The first process has one image; S may have none of it."""
    for found in group:
        assert_same_fit(found, f"given {case}", alone[case])


def test_distributed_false_is_this_process_alone(group):
    for found in group:
        assert np.array_equal(found["alone/theta"], group[0]["alone/theta"])


def test_all_stop_where_one_callback_asks_for_it(group):
    assert [int(found["stop/n"]) for found in group] == [2] * len(group)


def test_a_group_of_one_is_this_process_alone(alone, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert Ranks.current() is None
        assert np.array_equal(alone_in("kfac").theta_, alone["kfac"].theta_)
    finally:
        dist.destroy_process_group()


def test_images_are_scaled_where_those_of_all_are_pixels(alone):
    assert alone["kfac-pixels"].scaler_ is not None
    assert alone["kfac-hardly-pixels"].scaler_ is None


def test_each_reads_its_block_of_shards(group):
    for found in group:
        assert np.array_equal(found["shards/theta"], found["kfac/theta"])


def test_a_stochastic_run_is_resumed_bit_for_bit(group):
    for found in group:
        assert np.array_equal(found["resumed/theta"], found["kfac/theta"])


def test_rejected_trials_occur(alone):
    assert alone["newton-rejected-trials"].history_["n_trials"].max() > 1


def test_sums_of_processes_are_one_call(group):
    """n + 3 numbers for f and its gradient, and for a product; an early exit costs one number seven times."""
    n = len(group[0]["newton/theta"])
    for found in group:
        counts = {
            key.partition("/")[2]: value.tolist() for key, value in found.items() if "reductions" in key
        }
        assert counts["evaluation"] == [n + 3]
        assert counts["set_up"] == []
        assert counts["product"] == [n + 3]
        assert counts["accepted"] == [1] * 7 + [n + 3]
        assert counts["rejected"][:-1] == [1] * (len(counts["rejected"]) - 1)
        assert len(counts["rejected"]) < 7 and counts["rejected"][-1] == 1
        assert 0 < counts["rejected_images"][0] < 75, "a rejected trial is cheap"
        step, check = counts["stochastic_epoch"][:-1], counts["stochastic_epoch"][-1:]
        assert len(step) % 3 == 0 and len(step) >= 9
        assert step[:3] == [2 * (n + 3), counts["factors"][0] + 1, 1], (
            "f and both gradients, factors, curvature"
        )
        assert step == step[:3] * (len(step) // 3)
        assert check == [3], "f of the average"
    assert sum(int(found["reductions/n_own"][0]) for found in group) == len(X)
    assert max(int(found["reductions/n_own"][0]) for found in group) <= -(-len(X) // len(group))


MESSAGES = {
    "nan": ("contains NaN", "process {last} failed: ValueError: .*contains NaN"),
    "images": ("must pass the same arguments", None),
    "parameter": ("C must be a positive number", "process 1 failed: ValueError: C must be"),
    "shard": ('shard must be "block" or "given"', None),
    "balanced": ("pass a dict of weights", None),
    "distributed": ('distributed must be "auto" or False', None),
    "drift": ("are no longer those of process 0", None),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_what_goes_wrong_in_one_process_ends_all(case, group):
    here, elsewhere = MESSAGES[case]
    for rank, found in enumerate(group):
        text = str(found[f"refused/{case}"])
        other = elsewhere and (rank == 0 if case == "parameter" else rank < len(group) - 1)
        expected = elsewhere.format(last=len(group) - 1) if other else here
        assert re.search(expected, text), text

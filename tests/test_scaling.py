"""The model of scaling against the simulation, and a measurement on tiny sizes."""

import pytest

from hfcnn import Network
from hfcnn.benchmark.scaling import Cluster, Workload, iteration_seconds, measure_scaling, simulate

WORK = Workload(Network.preset("cnn3", (28, 28, 1), 10), 60_000, 3_000, 30)
CLUSTER = Cluster(rate=5e13, bandwidth=2.5e10, latency=5e-6)


def test_one_process_only_computes():
    evaluation, product = WORK.operations
    assert iteration_seconds(WORK, CLUSTER, 1) == pytest.approx((evaluation + 30 * product) / 5e13)


@pytest.mark.parametrize("n", [1, 2, 16, 256])
def test_the_simulation_without_delays_is_the_model(n):
    assert simulate(WORK, CLUSTER, n, jitter=0) == pytest.approx(iteration_seconds(WORK, CLUSTER, n))


def test_delays_cost_more_the_more_processes_wait_for_the_slowest():
    """The slowest of n exponential delays of mean m comes m (1 + 1/2 + ... + 1/n) late."""
    fast = Cluster(rate=5e13, bandwidth=1e30, latency=0)
    for n in (1, 2, 8, 64):
        late = simulate(WORK, fast, n, jitter=0.1, repeats=400) / iteration_seconds(WORK, fast, n)
        assert late == pytest.approx(1 + 0.1 * sum(1 / k for k in range(1, n + 1)), rel=0.01)


def test_a_larger_subset_scales_further():
    def efficiency(n_subset):
        work = Workload(WORK.network, 60_000, n_subset, 30)
        return iteration_seconds(work, CLUSTER, 1) / iteration_seconds(work, CLUSTER, 64) / 64

    assert efficiency(3_000) < efficiency(30_000) < efficiency(60_000) < 1


def test_measurement():
    """Times are there, whatever they are; the memory of a process falls with its share of the images."""
    groups = measure_scaling([1, 3], 800, 800, repeats=1)
    assert list(groups) == ["1 process", "3 processes"]
    one, three = ({row.what: row.figure for row in rows} for rows in groups.values())
    for found in (one, three):
        assert found["f and gradient"] > 0 and found["product"] > 0
    assert three["peak memory of a process"] < 0.8 * one["peak memory of a process"]

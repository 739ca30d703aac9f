"""How an iteration scales with the number of processes: measured, predicted, and simulated with delays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hfcnn.benchmark.rows import Row
from hfcnn.cost import gradient_cost, product_cost
from hfcnn.network import Network
from hfcnn.ranks import EXCHANGES

__all__ = ["Cluster", "Workload", "iteration_seconds", "measure_scaling", "predict_scaling", "simulate"]


@dataclass(frozen=True)
class Cluster:
    """Devices and what joins them.

    Attributes
    ----------
    rate : float
        Operations per second of a device on these networks.
    bandwidth : float
        Bytes per second of a process's link.
    latency : float
        Seconds of a message between two processes.
    """

    rate: float
    bandwidth: float
    latency: float

    def reduce_seconds(self, n_numbers: int, n_processes: int) -> float:
        """Seconds to add up float64 numbers of all processes, around a ring."""
        if n_processes == 1:
            return 0.0
        steps = 2 * (n_processes - 1)
        return steps * (self.latency + 8 * n_numbers / n_processes / self.bandwidth)


@dataclass(frozen=True)
class Workload:
    """An iteration: f with its gradient over all images, and CG over S.

    Attributes
    ----------
    network : Network
        The network.
    n_images, n_subset, n_products : int
        Training images, images in S, and CG steps.
    """

    network: Network
    n_images: int
    n_subset: int
    n_products: int

    @property
    def operations(self) -> tuple[float, float]:
        """Operations of f with its gradient, and of a product."""
        pass_operations = gradient_cost(self.network).operations * self.n_images
        return pass_operations, product_cost(self.network, "rop").operations * self.n_subset


def iteration_seconds(work: Workload, cluster: Cluster, n_processes: int) -> float:
    """Seconds of an iteration whose first trial is accepted."""
    evaluation, product = work.operations
    compute = (evaluation + work.n_products * product) / cluster.rate / n_processes
    vectors = (work.n_products + 1) * cluster.reduce_seconds(work.network.n_parameters + 3, n_processes)
    return compute + vectors + (EXCHANGES - 1) * cluster.reduce_seconds(1, n_processes)


def simulate(
    work: Workload, cluster: Cluster, n_processes: int, jitter: float, seed: int = 0, repeats: int = 100
) -> float:
    """Mean seconds of an iteration whose processes are delayed, each part of each by chance.

    Between two all-reduces all wait for the slowest.

    Parameters
    ----------
    jitter : float
        Mean delay of a part, as a share of the time that it takes; exponentially distributed.
    """
    rng = np.random.default_rng(seed)
    evaluation, product = (n / cluster.rate / n_processes for n in work.operations)
    parts = np.array([evaluation / EXCHANGES] * EXCHANGES + [product] * work.n_products)
    vector = cluster.reduce_seconds(work.network.n_parameters + 3, n_processes)
    shared = (work.n_products + 1) * vector + (EXCHANGES - 1) * cluster.reduce_seconds(1, n_processes)
    delays = rng.exponential(jitter, (repeats, len(parts), n_processes)).max(2) if jitter else 0.0
    return float(((1 + delays) * parts).sum(-1).mean()) + shared


def predict_scaling(work: Workload, cluster: Cluster, processes: list[int], jitter: float) -> list[Row]:
    """Efficiency, the speed-up over the number of processes, without and with delays."""
    one = iteration_seconds(work, cluster, 1)
    rows = []
    for n in processes:
        rows.append(Row(_processes(n), one / iteration_seconds(work, cluster, n) / n, "efficiency"))
        late = simulate(work, cluster, n, jitter)
        rows.append(Row(f"{_processes(n)}, {100 * jitter:.0f} % delays", one / late / n, "efficiency"))
    return rows


#: One process: times evaluations and products by turns, and writes the median seconds and its peak memory.
WORKER = """
import json, sys, time, statistics
import numpy as np, torch
import torch.distributed as dist
folder = sys.argv[3]
rank, size, n_images, n_subset, repeats = map(int, sys.argv[1:3] + sys.argv[4:])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous{size}", rank=rank, world_size=size)
from hfcnn import GaussNewton, Network, Objective
from hfcnn.benchmark.process_memory import forget_peak, process_bytes
from hfcnn.ranks import Ranks
network = Network.preset("cnn3", (28, 28, 1), 10)
theta, ranks = network.init(0), Ranks.current()
images = np.load(f"{folder}/images.npy", mmap_mode="r")
objective = Objective(network, images, torch.arange(n_images) % 10, C=1.0, ranks=ranks)
objective.evaluate(theta, indices=np.arange(size) * (n_images // size))
forget_peak()
before = process_bytes("VmRSS")
subset = np.arange(n_subset) * (n_images // n_subset)
matrix = GaussNewton(network, theta, objective.data, form="rop", indices=subset)
seconds = {"evaluation": [], "product": []}
for _ in range(repeats + 1):
    calls = {"evaluation": lambda: objective.evaluate(theta), "product": lambda: matrix @ theta}
    for name, call in calls.items():
        start = time.perf_counter()
        call()
        seconds[name].append(time.perf_counter() - start)
numbers = torch.zeros(network.n_parameters + 3, dtype=torch.float64)
start = time.perf_counter()
for _ in range(20 if ranks else 0):
    ranks.add_up(numbers)
found = {name: statistics.median(times[1:]) for name, times in seconds.items()}
found["reduce"] = (time.perf_counter() - start) / 20
found["memory"] = process_bytes("VmHWM") - before
if rank == 0:
    json.dump(found, open(f"{folder}/{size}.json", "w"))
dist.destroy_process_group()
"""


def measure_scaling(processes: list[int], n_images: int, n_subset: int, repeats: int) -> dict[str, list[Row]]:
    """Time f with its gradient, products and all-reduces of some numbers of processes, one thread each.

    Parameters
    ----------
    processes : list of int
        Numbers of processes; the first is what the others are compared with.
    n_images, n_subset : int
        Images of 28 x 28, and those in S.
    repeats : int
        Times that each is timed; the rows hold medians of process 0.
    """
    groups, first = {}, None
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).random((n_images, 28, 28, 1), dtype=np.float32)
        np.save(Path(folder) / "images.npy", images)
        for n in processes:
            found = _run(n, folder, n_images, n_subset, repeats)
            first = first or found
            rows = [
                Row("f and gradient", found["evaluation"], "s"),
                Row("its speed-up", first["evaluation"] / found["evaluation"], ""),
                Row("its speed-up as predicted", _predicted(first, found, n, "evaluation"), ""),
                Row("product", found["product"], "s"),
                Row("its speed-up", first["product"] / found["product"], ""),
                Row("its speed-up as predicted", _predicted(first, found, n, "product"), ""),
                Row("all-reduce of n + 3 numbers", found["reduce"] * 1e3, "ms"),
                Row("peak memory of a process", found["memory"] / 2**20, "MiB"),
            ]
            groups[_processes(n)] = rows
    return groups


def _predicted(first: dict[str, Any], found: dict[str, Any], n: int, what: str) -> float:
    """What is left of n-fold speed after one all-reduce."""
    return float(first[what] / (first[what] / n + found["reduce"]))


def _processes(n: int) -> str:
    return "1 process" if n == 1 else f"{n} processes"


def _run(n: int, folder: str, *sizes: int) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(n), folder, *map(str, sizes)], env=environment
        )
        for rank in range(n)
    ]
    if any([process.wait() for process in running]):
        raise ValueError(f"a measurement with {n} processes failed; its message is above")
    found: dict[str, Any] = json.loads((Path(folder) / f"{n}.json").read_text())
    return found

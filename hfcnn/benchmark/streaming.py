"""How much memory a fit needs whose images are in shards on disk, under a limit that they do not fit into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hfcnn.benchmark.rows import Row, at_most

__all__ = ["measure_streaming"]

#: Images of a shard, of 64 x 64 pixels in colour: 11.7 MiB.
SHARD_SHAPE = (1000, 64, 64, 3)

#: Fits by both solvers once on a few images, then sets the limit, and fits on all: peak memory on top of
#: what it had then. What has no room is the whole array.
FITS_UNDER_LIMIT = """
import json, resource, sys, warnings
import numpy as np
from hfcnn import Conv, NewtonCNNClassifier, load
from hfcnn.benchmark.process_memory import forget_peak, process_bytes
warnings.simplefilter("ignore")  # a single iteration learns little
folder, limit = sys.argv[1], int(sys.argv[2])
X, y = load(folder)
settings = {"random_state": 0, "n_jobs": 1, "batch_size": 64, "memory": 10**7}
network = [Conv(4, 8, stride=8, padding=0)]
solvers = {"kfac": {"epochs": 1}, "newton-cg": {"max_iter": 1}}
classifiers = {name: NewtonCNNClassifier(network, **settings, **own) for name, own in solvers.items()}
for classifier in classifiers.values():
    classifier.fit(X[:200], y[:200])
found = {"size": X.dtype.itemsize * int(np.prod(X.shape))}
resource.setrlimit(resource.RLIMIT_DATA, (process_bytes("VmData") + limit,) * 2)
before = process_bytes("VmRSS")
for name, classifier in classifiers.items():
    forget_peak()
    classifier.fit(X, y)
    found[name] = process_bytes("VmHWM") - before
try:
    found["whole"] = np.asarray(X).nbytes
except MemoryError:
    found["whole"] = None
json.dump(found, open(f"{folder}/found.json", "w"))
"""


def measure_streaming(n_shards: int, limit: int) -> list[Row]:
    """Fit by both solvers on shards of 11.7 MiB, in a process that may have so many bytes more than it has.

    The shards are links to one file, so that they take little of the disk. Linux only.

    Parameters
    ----------
    n_shards : int
        How many.
    limit : int
        Bytes that the process may take, for all that it does, on top of what it has once it has fitted a few
        images.

    Raises
    ------
    ValueError
        If a fit fails: of memory, above all.
    """
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        first = Path(folder) / "X-0.npy"
        np.save(first, rng.integers(0, 256, SHARD_SHAPE, dtype=np.uint8))
        for i in range(1, n_shards):
            os.link(first, first.with_name(f"X-{i}.npy"))
        np.save(Path(folder) / "y.npy", rng.integers(0, 4, n_shards * SHARD_SHAPE[0]))
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", FITS_UNDER_LIMIT, folder, str(limit)]
        if subprocess.call(command, env=environment):
            raise ValueError(f"a fit with {limit} bytes failed; its message is above")
        found = json.loads((Path(folder) / "found.json").read_text())
    mib = 2**20
    return [
        Row("images", found["size"] / mib, "MiB"),
        at_most("peak of the stochastic solver", found["kfac"] / mib, limit / mib, "MiB"),
        at_most("peak of Newton-CG", found["newton-cg"] / mib, limit / mib, "MiB"),
        Row("images that fit as one array", (found["whole"] or 0) / mib, "MiB"),
    ]

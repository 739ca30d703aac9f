"""Mutate small files of each format, also inside their compression layers, and load them.

Nothing of the package is used but `hfcnn.datasets.load`. What must hold of every input: it loads as images
and labels that belong together, or ends in a ValueError, FileNotFoundError or PermissionError; no input kills
the process, takes longer than `SLOWEST` seconds, or more memory than `MOST_MIB`.

    python tests/fuzz/fuzz_files.py --inputs 100000 --seed 1 --keep failures/

runs many and keeps the inputs that fail; each is told by the seed and its number.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.path.insert(0, str(Path(__file__).parent))

from seeds import seeds

from hfcnn.datasets import load

#: What an input may decompress to.
MAX_BYTES = 1 << 25

#: Growth of a process over a batch of inputs, in MiB: several times MAX_BYTES, and what libraries keep.
MOST_MIB = 300

SLOWEST = 10.0

#: Inputs per process.
BATCH = 500

#: Numbers at the edges of types.
EDGES = [
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    32767,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**64 - 1,
]


def mutate(rng, data, tokens):
    """Change a file in one to four places."""
    data = bytearray(data)
    for _ in range(1 + min(3, rng.geometric(0.5) - 1)):
        at = int(rng.integers(0, len(data) + 1))
        if rng.random() < 0.5:  # headers are where structure is
            at = min(at, int(rng.integers(0, 200)))
        length = int(rng.geometric(0.1))
        kind = rng.integers(0, 9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and at < len(data):
            data[at] = int(rng.integers(0, 256))
        elif kind == 2:
            size = int(rng.choice([1, 2, 4, 8]))
            number = int(EDGES[rng.integers(0, len(EDGES))]) % (1 << 8 * size)
            data[at : at + size] = number.to_bytes(size, str(rng.choice(["little", "big"])))
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = rng.bytes(length)
        elif kind == 5:
            data[at:at] = data[at : at + length] * int(rng.integers(1, 5))
        elif kind == 6:
            del data[at:]
        elif kind == 7 and tokens:
            data[at:at] = tokens[rng.integers(0, len(tokens))] * int(rng.choice([1, 1, 1, 2, 300]))
        else:
            other = int(rng.integers(0, len(data) + 1))
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def make(found, seed, number):
    """Files of an input, what to load of them, and of which kind they are."""
    rng = np.random.default_rng([seed, number])
    name = list(found)[int(rng.integers(0, len(found)))]
    kind = found[name]
    first, *_ = kind.files
    data = kind.files[first]
    try:
        data = kind.pack(mutate(rng, kind.unpack(data), kind.tokens))
    except (struct.error, OverflowError, ValueError):  # what the mutation left cannot be packed
        data = mutate(rng, data, kind.tokens)
    return name, kind.files | {first: data}, kind.load


def try_input(folder, files, target, split="train"):
    """Load an input: what became of it, and what is wrong with that, if anything."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    start = time.perf_counter()
    try:
        X, y = load(folder / target, split=split, max_bytes=MAX_BYTES)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        result, wrong = "refused", None
        if "\n" in str(error).strip() and len(str(error)) > 10_000:
            wrong = "a message of many lines"
    except BaseException as error:
        result, wrong = "error", f"{type(error).__name__}: {error}"
    else:
        sound = X.dtype == np.uint8 and X.ndim == 4 and len(X) == len(y) and y.ndim == 1
        result, wrong = "loaded", None if sound else f"{X.dtype} {X.shape} {y.dtype} {y.shape}"
    seconds = time.perf_counter() - start
    if wrong is None and seconds > SLOWEST:
        wrong = f"took {seconds:.1f} s"
    return result, wrong


def run_batch(found, seed, numbers, folder):
    """Try inputs in a process of its own: counts by kind and result, and failures by number."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "w") as out:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for number in numbers:
                print(json.dumps([number, "started", None, None]), file=out, flush=True)
                name, files, target = make(found, seed, number)
                place = folder / str(number)
                place.mkdir()
                result, wrong = try_input(place, files, target)
                shutil.rmtree(place)
                grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
                if wrong is None and grown > MOST_MIB:
                    wrong, before = f"took {grown:.0f} MiB", before + grown * 1024
                print(json.dumps([number, name, result, wrong]), file=out, flush=True)
        os._exit(0)
    os.close(write)
    counts, failures, last = collections.Counter(), {}, None
    with os.fdopen(read) as lines:
        for line in lines:
            number, name, result, wrong = json.loads(line)
            last = number if name == "started" else None
            if name != "started":
                counts[name, result] += 1
                if wrong is not None:
                    failures[number] = f"{name}: {wrong}"
    _, status = os.waitpid(child, 0)
    if last is not None:
        failures[last] = f"killed the process, status {status}"
    return counts, failures


def run(n, seed, progress=None):
    """Try n inputs: counts by kind and result, and failures by number."""
    found, counts, failures = seeds(), collections.Counter(), {}
    # imported before the forks, so that it is neither repeated nor counted
    import PIL.Image
    import sklearn.datasets  # noqa: F401

    PIL.Image.init()

    warnings.simplefilter("ignore")
    # in memory where there is such a folder: most of the time would go to making and removing folders on disk
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory, prefix="fuzz") as name:
        at = 0
        while at < n:
            numbers = range(at, min(n, at + BATCH))
            more, wrong = run_batch(found, seed, numbers, Path(name))
            counts += more
            failures |= wrong
            # go on after an input that killed the process
            at = max([at + more.total(), *(number + 1 for number in wrong if number >= at)])
            if progress is not None:
                progress(at, failures)
    return counts, failures


def main():
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs that fail")
    options = parser.parse_args()
    start = time.monotonic()

    def progress(done, failures):
        print(f"{done} inputs, {len(failures)} failures, {time.monotonic() - start:.0f} s", flush=True)

    counts, failures = run(options.inputs, options.seed, progress)
    for kind in sorted({kind for kind, _ in counts}):
        print(f"{kind:24} {counts[kind, 'loaded']:7} loaded {counts[kind, 'refused']:7} refused")
    found = seeds()
    for number, wrong in failures.items():
        print(f"input {number} of seed {options.seed}: {wrong}")
        if options.keep is not None:
            for name, data in make(found, options.seed, number)[1].items():
                path = options.keep / str(number) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())

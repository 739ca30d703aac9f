"""Processes of some groups: each fits every case, and writes what came out.

All are forked from one that has imported everything: it takes seconds, and the fits hardly any.
"""

import datetime
import multiprocessing
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import torch.distributed as dist
from cases import CASES, GIVEN, IMAGES, NETWORK, WEIGHT, X, Y, kfac, newton, uneven

from hfcnn import GaussNewton, Network, Objective
from hfcnn.datasets import Shards
from hfcnn.ranks import Ranks
from hfcnn.stochastic import start, stochastic
from hfcnn.stochastic_state import StochasticOptions


def part_of(arguments, block):
    """Arguments of a process that passes its own images; validation images are shared out, too."""
    own = {name: value[block] for name, value in arguments.items() if name == "sample_weight"}
    if "X_val" in arguments:
        own |= {"X_val": arguments["X_val"], "y_val": arguments["y_val"]}
    return own


def outcome(classifier):
    return {
        "theta": classifier.theta_,
        **{name: classifier.history_[name] for name in classifier.history_ if name != "seconds"},
    }


def count_reductions(ranks):
    """All-reduces of a product, of an accepted evaluation and of a rejected one, and numbers in each."""
    seen, original = [], dist.all_reduce

    def counted(tensor, *arguments, **keywords):
        seen.append(tensor.numel())
        return original(tensor, *arguments, **keywords)

    network = Network(NETWORK, (8, 8, 1), 10)
    theta = network.init(0, torch.float64)
    images, labels = torch.from_numpy(X)[..., None], torch.from_numpy(Y)
    weight = torch.from_numpy(WEIGHT)
    objective = Objective(network, images, labels, C=10.0, sample_weight=weight, batch_size=4, ranks=ranks)
    dist.all_reduce = counted
    found = {}
    first = objective.evaluate(theta)
    found["evaluation"], seen[:] = list(seen), []
    matrix = GaussNewton(network, theta, objective.data, C=10.0, indices=np.arange(0, 150, 3))
    found["set_up"], seen[:] = list(seen), []
    matrix @ theta
    found["product"], seen[:] = list(seen), []
    objective.evaluate(theta, bound=first.value * 1.01)
    found["accepted"], seen[:] = list(seen), []
    before = objective.passes.forward
    assert objective.evaluate(theta, bound=first.value / 10).value == np.inf
    found["rejected"], seen[:] = list(seen), []
    found["rejected_images"] = [objective.passes.forward - before]
    options = StochasticOptions(epochs=1, batch_size=len(X), statistics_images=40)
    state = start(objective, theta, options)
    seen[:] = []
    for _ in stochastic(objective, theta, options, state=state):
        pass
    found["stochastic_epoch"] = list(seen)
    found["factors"] = [len(state.factors)]
    dist.all_reduce = original
    found["n_own"] = [objective.data.n_own]
    return found


def refused(ranks):
    """Messages of what goes wrong in one process, or differs between them."""
    rank, messages = ranks.rank, {}

    def message(name, call):
        try:
            call()
            messages[name] = "nothing was raised"
        except (ValueError, RuntimeError, TypeError) as error:
            messages[name] = f"{type(error).__name__}: {error}"

    broken = X.copy()
    broken[-1, 0, 0] = np.nan
    message("nan", lambda: newton().fit(broken, Y))
    message("images", lambda: newton().fit(X[: 100 + rank], Y[: 100 + rank]))
    message("parameter", lambda: newton(C=-1.0 if rank else 1.0).fit(X, Y))
    message("shard", lambda: newton().fit(X, Y, shard="mine"))
    message("balanced", lambda: newton(class_weight="balanced").fit(X, Y, shard="given"))
    message("distributed", lambda: newton().fit(X, Y, distributed=True))
    message("drift", lambda: newton(C=1.0 + 1e-9 * rank).fit(X, Y))
    return messages


def resumed(checkpoint):
    """The case "kfac", stopped after two epochs and resumed from the checkpoint."""
    first = kfac(checkpoint=checkpoint, callbacks=lambda row: row["iteration"] == 2).fit(X, Y)
    assert first.n_iter_ == 2
    return kfac(checkpoint=checkpoint).fit(X, Y, resume_from=checkpoint)


def main(rank, size, folder):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous{size}",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    results = {}
    for name, (classifier, arguments) in CASES.items():
        results[name] = outcome(classifier.fit(IMAGES.get(name, X), Y, **arguments))
    block = uneven(rank, size)
    for name in GIVEN:
        (classifier, arguments), images = CASES[name], IMAGES.get(name, X)
        own = part_of(arguments, block)
        if "X_val" in own and size > 1:
            half = slice(rank * 70 // size, (rank + 1) * 70 // size)
            own |= {"X_val": own["X_val"][half], "y_val": own["y_val"][half]}
        results[f"given {name}"] = outcome(classifier.fit(images[block], Y[block], **own, shard="given"))
    results["shards"] = outcome(kfac().fit(Shards(sorted(Path(folder).glob("X-*.npy"))), Y))
    alone = newton(max_iter=1).fit(X[:60], Y[:60], distributed=False)
    results["alone"] = outcome(alone)
    results["resumed"] = outcome(resumed(Path(folder) / f"run{size}"))
    stopped = []
    newton(callbacks=lambda row: (stopped.append(1), rank == size - 1 and len(stopped) == 2)[1]).fit(X, Y)
    results["stop"] = {"n": np.array(len(stopped))}
    ranks = Ranks.current()
    if ranks is not None:
        results["reductions"] = {name: np.array(n) for name, n in count_reductions(ranks).items()}
        results["refused"] = {name: np.array(text) for name, text in refused(ranks).items()}
    flat = {f"{case}/{name}": value for case, found in results.items() for name, value in found.items()}
    np.savez(Path(folder) / f"rank{rank}of{size}.npz", **flat)
    dist.destroy_process_group()


def run(*arguments):
    """Do what `main` does, telling at once what goes wrong."""
    try:
        main(*arguments)
    except BaseException:
        traceback.print_exc()
        raise


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    sizes = map(int, sys.argv[2:])
    processes = [
        context.Process(target=run, args=(rank, size, sys.argv[1])) for size in sizes for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))

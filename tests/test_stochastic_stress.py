"""Many short runs on random networks, data, scales, losses and sizes: none may end worse than it was."""

import math
import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hfcnn import Conv, Dense, Network, Objective
from hfcnn.stochastic import stochastic
from hfcnn.stochastic_state import StochasticOptions

#: Runs; set HFCNN_STRESS_RUNS=200 for all that the documentation speaks of.
RUNS = int(os.environ.get("HFCNN_STRESS_RUNS", "25"))


def draw_layers(rng):
    """One to three convolutional layers of odd shapes, and none to two dense ones."""
    layers, side = [], 8
    for _ in range(rng.integers(0, 4)):
        pool = int(rng.choice([1, 2])) if side >= 4 else 1
        stride = int(rng.choice([1, 1, 2])) if side >= 4 and pool == 1 else 1
        pooling = str(rng.choice(["max", "average"]))
        layers.append(
            Conv(int(rng.integers(2, 12)), int(rng.choice([1, 3, 5])), stride, pool=pool, pooling=pooling)
        )
        side = -(-side // stride) // pool
    return layers + [Dense(int(rng.integers(3, 40))) for _ in range(rng.integers(0, 3))]


def draw_problem(seed):
    """An objective on digits that are scaled, shifted, noisy, or wrongly labelled; and a start."""
    rng = np.random.default_rng(seed)
    X, y = load_digits(return_X_y=True)
    n = int(np.exp(rng.uniform(np.log(20), np.log(1700))))
    rows = rng.permutation(len(X))[:n]
    X, y = X[rows].reshape(-1, 8, 8, 1) / 16, y[rows].copy()
    X = (X + rng.choice([0, 0, 0.3]) * rng.standard_normal(X.shape)) * 10.0 ** rng.uniform(-2, 2)
    X += rng.choice([0, 0, 1]) * X.std()
    wrong = rng.random(n) < rng.choice([0, 0, 0.2, 1])
    y[wrong] = rng.integers(0, 10, wrong.sum())
    dtype = torch.float64 if rng.random() < 0.3 else torch.float32
    weight = torch.from_numpy(np.exp(rng.normal(0, 1, n))) if rng.random() < 0.3 else None
    network = Network(draw_layers(rng), (8, 8, 1), 10)
    objective = Objective(
        network,
        torch.from_numpy(X).to(dtype),
        torch.from_numpy(y),
        str(rng.choice(["squared", "cross_entropy"])),
        10.0 ** rng.uniform(-1, 5) if rng.random() < 0.9 else math.inf,
        weight,
    )
    options = StochasticOptions(
        epochs=int(rng.integers(3, 15)), batch_size=int(rng.choice([32, 64, 256])), seed=seed
    )
    return objective, network.init(seed, dtype) * 10.0 ** rng.choice([0, 0, 0.5, -0.5]), options


@pytest.mark.parametrize("seed", range(RUNS))
def test_no_run_ends_worse_than_it_was(seed):
    """f never rises; accuracy is held to it, within its standard error, where a run learns what it fits."""
    objective, theta, options = draw_problem(seed)
    f, best, state = objective.value(theta), 0.0, None
    for state in stochastic(objective, theta, options):
        assert state.theta.isfinite().all()
        assert state.f <= f * (1 + 1e-6)
        f, best = state.f, max(best, state.training_accuracy)
    assert state is not None
    assert objective.value(state.theta) == pytest.approx(f, rel=1e-4)
    if objective.C >= 10 and best >= 0.5:
        assert state.training_accuracy >= best - 0.01 - 0.5 / math.sqrt(objective.n_images)

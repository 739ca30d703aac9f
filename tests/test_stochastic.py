"""The stochastic solver: the batch's model against autograd, the step, guards, resumption."""

import math
from dataclasses import replace

import dense
import numpy as np
import pytest
import torch
from dense import assert_close
from networks import each_case, each_loss
from sklearn.datasets import load_digits

from hfcnn import Conv, Network, Objective
from hfcnn.augmentation import Moves, augmented
from hfcnn.batch_model import BatchModel, ImageDraws
from hfcnn.kfac import FactorDraws, KroneckerMetric
from hfcnn.measured_step import MeasuredStep
from hfcnn.stochastic import stochastic
from hfcnn.stochastic_state import StochasticOptions


def problem(loss="cross_entropy", n=300, dtype=torch.float64, weight=None):
    X, y = load_digits(return_X_y=True)
    network = Network([Conv(4, 3, pool=2), Conv(8, 3, pool=2)], (8, 8, 1), 10)
    images = torch.from_numpy(X[:n].reshape(-1, 8, 8, 1) / 16).to(dtype)
    objective = Objective(network, images, torch.from_numpy(y[:n]), loss, 1.0 * n, weight)
    return objective, network.init(0, dtype)


def draws_of(objective, rng):
    """Draws for the statistics of all images of a batch."""
    return lambda n: ImageDraws(None, FactorDraws.draw(objective.network, objective.loss, n, rng))


def adding_to(metric, objective):
    return lambda linear, weights, draws: metric.add(linear, objective.loss, weights, draws)


@each_loss
@each_case
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_batch_model_is_that_of_autograd(case, loss, weighted):
    theta, images, labels = case.draw()
    network, n, C = case.network, len(images), 2.0
    weight = torch.linspace(0.3, 2, n, dtype=torch.float64) if weighted else torch.ones(n).double()
    objective = Objective(network, images, labels, loss, C, weight if weighted else None, batch_size=2)
    batch, mean = np.arange(n)[::-1].copy(), float(weight.mean())
    seen = []
    model = BatchModel(
        objective,
        theta,
        batch,
        n,
        draws_of(objective, np.random.default_rng(0)),
        lambda linear, w, draws: seen.append((len(linear.outputs), w is None)),
    )
    assert sum(size for size, _ in seen) == n
    assert all(is_plain != weighted for _, is_plain in seen)
    whole = (network, theta, images, labels, loss, C, weight)
    assert_close(model.f, dense.objective(*whole))
    assert_close(model.gradient, dense.gradient(*whole))
    middle = -(-n // 2)
    for half, part in zip(model.halves, (batch[:middle], batch[middle:]), strict=True):
        if len(part) == 0:
            part = batch
        w = weight[part]
        expected = dense.gradient(network, theta, images[part], labels[part], loss, math.inf, w)
        assert_close(half, expected * (w.mean() / mean) + theta / C)
    p = torch.randn_like(theta)
    J, B = dense.ggn_factors(network, theta, images, loss)
    Jp = J @ p
    expected = float(torch.einsum("n,ni,nij,nj->", weight / weight.sum(), Jp, B, Jp))
    assert model.curvature(p) == pytest.approx(expected, rel=1e-9, abs=1e-14 * float(Jp.square().sum()))


def test_curvature_is_measured_on_the_last_images():
    objective, theta = problem(n=40)
    objective.batch_size = 7
    batch = np.random.default_rng(0).permutation(40)
    model = BatchModel(objective, theta, batch, n_curvature=17)
    last = objective.images[batch[-17:]]
    p = torch.randn_like(theta)
    J, B = dense.ggn_factors(objective.network, theta, last, "cross_entropy")
    Jp = J @ p
    assert model.n_curvature == 17
    assert_close(model.curvature(p), float(torch.einsum("ni,nij,nj->", Jp, B, Jp)) / 17)


@each_loss
@pytest.mark.parametrize("shortest", [0.0, 1.0, 5.0])
def test_step_is_that_of_a_dense_reference(loss, shortest):
    """Two steps in a row, written out with explicit vectors."""
    objective, theta = problem(loss, n=60)
    metric = KroneckerMetric(objective.network, theta)
    rng = np.random.default_rng(0)
    first = BatchModel(
        objective, theta, np.arange(30), 20, draws_of(objective, rng), adding_to(metric, objective)
    )
    metric.update()
    metric.invert(0.2)
    steps = MeasuredStep(torch.zeros_like(theta))
    steps.use(metric)
    settings = {"momentum": 0.9, "smoothing": 0.9, "relaxation": 2.0, "trust": math.inf, "halves": True}
    settings["shortest"] = shortest
    alpha, p = steps.take(first, metric, **settings)
    assert_close(p, -metric.solve(first.gradient))
    slope, norm = first.halves[0] @ metric.solve(first.halves[1]), -float(first.gradient @ p)
    wanted = max(2 * float(slope), shortest * norm)
    assert alpha == pytest.approx(wanted / (first.curvature(p) + 0.2 * float(p @ p)), rel=1e-10)

    second = BatchModel(objective, theta + alpha * p, np.arange(30, 60), 20)
    beta = 1 / 11
    m = beta * first.gradient + (1 - beta) * second.gradient
    alpha_2, p_2 = steps.take(second, metric, **settings)
    assert_close(p_2, -metric.solve(m))
    slope_2 = (1 - beta) * second.halves[0] @ metric.solve(second.halves[1]) - beta * second.gradient @ p
    c, c_2 = (model.curvature(v) + 0.2 * float(v @ v) for model, v in ((first, p), (second, p_2)))
    norm_2 = -float(m @ p_2)
    expected = max(float(slope / norm + slope_2 / norm_2), shortest) * 2 / (c / norm + c_2 / norm_2)
    assert alpha_2 == pytest.approx(expected, rel=1e-9)


@each_loss
def test_it_learns_the_digits(loss):
    objective, theta = problem(loss, n=1000, dtype=torch.float32)
    *_, state = stochastic(objective, theta, StochasticOptions(epochs=15))
    assert state.iteration == 15
    assert state.training_accuracy > 0.9
    assert state.f < 0.5 * objective.value(theta)
    found = objective.evaluate(state.theta, gradient=False)
    assert state.f == pytest.approx(found.value, rel=1e-6)
    assert state.training_accuracy == pytest.approx(found.accuracy)
    assert 15 < state.passes < 15 * 3


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_resumed_is_bit_for_bit_as_if_never_stopped(weighted):
    weight = torch.linspace(0.2, 2, 300, dtype=torch.float64) if weighted else None
    objective, theta = problem(weight=weight)
    options = StochasticOptions(epochs=4, seed=3)
    states = list(stochastic(objective, theta, options))
    again = list(stochastic(objective, theta, options))
    *_, resumed = stochastic(objective, theta, options, state=states[1])
    for other in (again[-1], resumed):
        for name in ("theta", "point", "average", "momentum", "factors"):
            assert torch.equal(getattr(other, name), getattr(states[-1], name)), name
        assert other.sampler == states[-1].sampler
    *_, different = stochastic(objective, theta, replace(options, seed=4))
    assert not torch.equal(different.theta, states[-1].theta)


def test_weight_two_counts_an_image_twice():
    """Of one batch that is all images, so that nothing is drawn but the order."""
    objective, theta = problem("squared", n=30)
    doubled = Objective(
        objective.network,
        objective.images,
        objective.labels,
        "squared",
        objective.C,
        torch.full((30,), 2.0).double(),
    )
    *_, plain = stochastic(objective, theta, StochasticOptions(epochs=3))
    *_, heavy = stochastic(doubled, theta, StochasticOptions(epochs=3))
    assert_close(heavy.theta, plain.theta, rtol=1e-9)


def test_f_never_rises_and_stalling_ends_it():
    objective, theta = problem(n=200)
    states = list(stochastic(objective, theta, StochasticOptions(epochs=500, tol=0.05, patience=2)))
    values = [state.f for state in states]
    assert all(b <= a for a, b in zip(values, values[1:], strict=False))
    assert len(states) < 500
    assert states[-1].n_stalled == 2


def test_a_start_that_is_not_finite_ends_at_once():
    objective, theta = problem(n=50)
    assert list(stochastic(objective, theta * math.nan)) == []


@pytest.mark.parametrize("n", [1, 2, 3, 31])
def test_a_few_images_are_enough(n):
    objective, theta = problem(n=n)
    *_, state = stochastic(objective, theta, StochasticOptions(epochs=5))
    assert state.f < objective.value(theta)


def test_a_step_that_led_astray_is_taken_back(monkeypatch):
    """Lengths a hundred times too large: the run comes back from each and still learns."""
    objective, theta = problem(n=300)
    take, n_calls = MeasuredStep.take, 0

    def wild(self, *arguments, **settings):
        nonlocal n_calls
        n_calls += 1
        alpha, direction = take(self, *arguments, **settings)
        return (alpha * 1000 if n_calls == 6 else math.nan if n_calls == 20 else alpha), direction

    monkeypatch.setattr(MeasuredStep, "take", wild)
    states = list(stochastic(objective, theta, StochasticOptions(epochs=12)))
    assert states[-1].n_returns >= 2
    assert all(state.theta.isfinite().all() for state in states)
    assert states[-1].training_accuracy > 0.85


def test_trust_bounds_both_terms_of_the_model():
    objective, theta = problem(n=60)
    metric, rng = KroneckerMetric(objective.network, theta), np.random.default_rng(0)
    model = BatchModel(
        objective, theta, np.arange(60), 60, draws_of(objective, rng), adding_to(metric, objective)
    )
    metric.update()
    metric.invert(1e-3)
    settings = {"momentum": 0.9, "smoothing": 0.9, "relaxation": 2.0, "shortest": 1.0, "halves": True}
    free, bound = (MeasuredStep(torch.zeros_like(theta)) for _ in range(2))
    for steps in (free, bound):
        steps.use(metric)
    long, p = free.take(model, metric, trust=math.inf, **settings)
    short, _ = bound.take(model, metric, trust=1e-3, **settings)
    curvature = model.curvature(p) + 1e-3 * float(p @ p)
    slope = float(model.halves[0] @ metric.solve(model.halves[1]))
    assert short < long
    assert short == pytest.approx(1e-3 * model.f / slope)  # the linear term is the tighter one here
    assert short**2 * curvature / 2 < 1e-3 * model.f


@pytest.mark.parametrize(("n", "expected"), [(200, 3 * 50 / 80), (60, 3 * 32 / 80), (400, 3.0)])
def test_the_shortest_step_is_less_on_few_images(monkeypatch, n, expected):
    objective, theta = problem(n=n)
    told, take = [], MeasuredStep.take

    def watched(self, *arguments, **settings):
        told.append(settings["shortest"])
        return take(self, *arguments, **settings)

    monkeypatch.setattr(MeasuredStep, "take", watched)
    list(stochastic(objective, theta, StochasticOptions(epochs=1, max_batch_size=80, shortest=3.0)))
    assert told == pytest.approx([expected] * len(told)) and told


def test_each_step_is_told_of():
    objective, theta = problem(n=200)
    told = []
    states = list(
        stochastic(
            objective,
            theta,
            StochasticOptions(epochs=2),
            after_step=lambda passes, newest, average: told.append((passes, newest, average.clone())),
        )
    )
    assert len(told) == 2 * 4
    assert all(a[0] < b[0] for a, b in zip(told, told[1:], strict=False))
    assert torch.equal(told[-1][1], states[-1].point)
    assert torch.equal(told[-1][2], states[-1].average)


def test_shifts_and_flips_move_images():
    images = torch.arange(8 * 16 * 2, dtype=torch.float32).view(1, 8, 16, 2).expand(200, -1, -1, -1)
    shifted = augmented(images, Moves.draw(200, (8, 16), "shift", np.random.default_rng(0)))
    seen = set()
    for image in shifted:
        down = int(image[4, 8, 0]) // 32 - 4
        across = int(image[4, 8, 0]) % 32 // 2 - 8
        rows = (torch.arange(8) + down).clamp(0, 7)
        columns = (torch.arange(16) + across).clamp(0, 15)
        assert torch.equal(image, images[0][rows][:, columns])
        seen.add((down, across))
    assert seen == {(i, j) for i in (-1, 0, 1) for j in (-2, -1, 0, 1, 2)}
    moves = Moves.draw(200, (8, 16), "shift+flip", np.random.default_rng(0))
    flipped = augmented(images, moves)
    n_flipped = int((flipped[:, 4, 8, 0] > flipped[:, 4, 9, 0]).sum())
    assert 70 < n_flipped < 130
    some = np.array([3, 50])
    assert torch.equal(flipped[some], augmented(images[some], moves.of(some)))


def test_augmented_runs_learn_and_repeat():
    objective, theta = problem(n=400)
    options = StochasticOptions(epochs=10, augment="shift+flip")
    *_, first = stochastic(objective, theta, options)
    *_, second = stochastic(objective, theta, options)
    assert torch.equal(first.theta, second.theta)
    assert first.training_accuracy > 0.7

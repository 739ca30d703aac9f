import dataclasses
import math
from dataclasses import replace

import dense
import numpy as np
import pytest
import torch
from networks import each_loss

from hfcnn import Conv, Dense, Network, Objective
from hfcnn.sgd import SGDOptions, SGDState, sgd, start

NETWORK = Network([Conv(3, 3, pool=2), Dense(4)], (4, 4, 1), 3)
N_IMAGES = 11
OPTIONS = SGDOptions(learning_rate=0.05, decay=0.1, batch_size=4, max_epochs=5, seed=1)


class Recorded(Objective):
    """Remembers the parameters and images of each mini-batch."""

    def __post_init__(self):
        super().__post_init__()
        self.steps = []

    def evaluate(self, theta, *, indices=None, **keywords):
        self.steps.append((theta.clone(), indices.copy()))
        return super().evaluate(theta, indices=indices, **keywords)


def problem(**keywords):
    g = torch.Generator().manual_seed(2)
    images = torch.randn(N_IMAGES, *NETWORK.input_shape, generator=g, dtype=torch.float64)
    labels = torch.randint(3, (N_IMAGES,), generator=g)
    keywords = {"loss": "cross_entropy", "C": 5.0} | keywords
    return Recorded(NETWORK, images, labels, **keywords), NETWORK.init(3, torch.float64)


def assert_same(state, other):
    """Equal bit for bit, but for the time."""
    for field in dataclasses.fields(SGDState):
        a, b = getattr(state, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), field.name
        elif field.name != "seconds":
            assert a == b or (a != a and b != b), field.name


@each_loss
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_equal_the_hand_written_update(momentum, decay, loss):
    objective, theta = problem(loss=loss)
    options = replace(OPTIONS, momentum=momentum, decay=decay, max_epochs=2)
    *_, last = sgd(objective, theta, options)
    expected, v = theta.clone(), torch.zeros_like(theta)
    for t, (used, indices) in enumerate(objective.steps):
        dense.assert_close(used, expected)
        g = dense.gradient(NETWORK, expected, objective.images[indices], objective.labels[indices], loss, 5.0)
        v = momentum * v - 0.05 / (1 + decay * t) * g
        expected = expected + v
    dense.assert_close(last.theta, expected)
    dense.assert_close(last.velocity, v)
    assert last.n_steps == len(objective.steps) == 6
    assert last.learning_rate == 0.05 / (1 + decay * 6)
    dense.assert_close(last.gradient_norm, g.norm())


def test_an_epoch_takes_each_image_once():
    objective, theta = problem()
    orders = []
    for state in sgd(objective, theta, OPTIONS):
        batches = [indices for _, indices in objective.steps]
        assert [len(batch) for batch in batches] == [4, 4, 3]
        orders.append(tuple(np.concatenate(batches)))
        assert sorted(orders[-1]) == list(range(N_IMAGES))
        assert state.passes == state.iteration
        objective.steps.clear()
    assert len(set(orders)) == 5


def test_f_is_the_mean_over_the_epoch():
    objective, theta = problem()
    state = next(sgd(objective, theta, OPTIONS))
    f = accuracy = 0.0
    for used, indices in objective.steps:
        batch, labels = objective.images[indices], objective.labels[indices]
        f += float(dense.objective(NETWORK, used, batch, labels, "cross_entropy", 5.0)) * len(indices)
        accuracy += float((dense.forward(NETWORK, used, batch).argmax(1) == labels).sum())
    dense.assert_close(state.f, f / N_IMAGES)
    assert state.training_accuracy == pytest.approx(accuracy / N_IMAGES)


def test_it_learns():
    objective, theta = problem()
    *_, last = sgd(objective, theta, replace(OPTIONS, max_epochs=30, decay=0.0))
    assert objective.value(last.theta, np.arange(N_IMAGES)) < 0.8 * objective.value(
        theta, np.arange(N_IMAGES)
    )


def test_same_seed_same_bits():
    first, second = (list(sgd(*problem(), OPTIONS)) for _ in range(2))
    for state, other in zip(first, second, strict=True):
        assert_same(state, other)
    *_, last = sgd(*problem(), replace(OPTIONS, seed=2))
    assert not torch.equal(last.theta, first[-1].theta)


def test_resumes_from_any_state():
    states = list(sgd(*problem(), OPTIONS))
    for k, state in enumerate(states):
        objective, theta = problem()
        rest = list(sgd(objective, theta, OPTIONS, state=state))
        assert len(rest) == 4 - k
        for resumed, expected in zip(rest, states[k + 1 :], strict=True):
            assert_same(resumed, expected)


def test_goes_on_from_the_public_start():
    objective, theta = problem()
    first = start(theta, OPTIONS)
    assert (first.iteration, first.n_steps) == (0, 0)
    assert math.isnan(first.f)
    for state, expected in zip(
        sgd(objective, theta, OPTIONS, state=first), sgd(*problem(), OPTIONS), strict=True
    ):
        assert_same(state, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergence_ends_with_f_that_is_not_finite(dtype):
    objective, theta = problem(loss="squared")
    options = replace(OPTIONS, learning_rate=1e6, decay=0.0, max_epochs=1000)
    states = list(sgd(objective, theta.to(dtype), options))
    assert len(states) < 1000
    assert not math.isfinite(states[-1].f)
    assert all(math.isfinite(state.f) for state in states[:-1])
    assert list(sgd(objective, theta.to(dtype), options, state=states[-1])) == []


def test_arguments_are_left_alone():
    objective, theta = problem()
    before = theta.clone()
    states = list(sgd(objective, theta, OPTIONS))
    kept = [(state.theta.clone(), state.velocity.clone()) for state in states]
    list(sgd(objective, theta, OPTIONS, state=states[1]))
    assert torch.equal(theta, before)
    for state, (was_theta, was_velocity) in zip(states, kept, strict=True):
        assert torch.equal(state.theta, was_theta)
        assert torch.equal(state.velocity, was_velocity)

import dataclasses
import math
from dataclasses import replace
from itertools import islice

import dense
import numpy as np
import pytest
import torch
from networks import each_form, each_loss

from hfcnn import Conv, Dense, GaussNewton, Linearization, Network, Objective
from hfcnn.newton import NewtonOptions, NewtonState, newton, start
from hfcnn.objective import Evaluation

NETWORK = Network([Conv(3, 3, pool=2), Dense(4)], (4, 4, 1), 3)
N_IMAGES = 12
OPTIONS = NewtonOptions(max_iter=6, sampling_rate=5, seed=1)


def images_and_labels(n_images=N_IMAGES, input_shape=NETWORK.input_shape):
    g = torch.Generator().manual_seed(2)
    images = torch.randn(n_images, *input_shape, generator=g, dtype=torch.float64)
    return images, torch.randint(3, (n_images,), generator=g)


def problem(kind=Objective, **keywords):
    keywords = {"loss": "cross_entropy", "C": 50.0} | keywords
    return kind(NETWORK, *images_and_labels(), **keywords), NETWORK.init(3, torch.float64)


def assert_same(state, other):
    """Equal bit for bit, but for the time."""
    for field in dataclasses.fields(NewtonState):
        a, b = getattr(state, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), field.name
        elif field.name != "seconds":
            assert a == b or (a != a and b != b), field.name


@each_form
@each_loss
@pytest.mark.parametrize("sampling", ["random", "cycle"])
def test_objective_never_rises(sampling, loss, form):
    objective, theta = problem(loss=loss)
    options = replace(OPTIONS, max_iter=12, sampling=sampling, gauss_newton=form)
    states = list(newton(objective, theta, options))
    values = [objective.value(theta), *(state.f for state in states)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.8 * values[0]
    assert [state.iteration for state in states] == list(range(1, 13))
    assert {state.form for state in states} == {form}


def test_state_tells_what_is_at_theta():
    objective, theta = problem()
    for state in newton(objective, theta, OPTIONS):
        result = objective.evaluate(state.theta)
        assert (state.f, state.training_accuracy) == (result.value, result.accuracy)
        assert torch.equal(state.gradient, result.gradient)
        assert state.gradient_norm == float(state.gradient.norm())
        assert state.seconds > 0


@each_form
@each_loss
def test_first_iteration_by_dense_matrices(loss, form):
    """One iteration on all images: the direction of (36), Armijo's rule (35), rho and lambda (37)."""
    objective, theta = problem(loss=loss, C=5.0)
    options = replace(OPTIONS, sampling_rate=1.0, cg_tol=1e-13, damping=0.3, gauss_newton=form)
    state = next(newton(objective, theta, options))
    data = (NETWORK, theta, objective.images)
    gradient = dense.gradient(*data, objective.labels, loss, 5.0)
    G = dense.ggn(*data, loss, 5.0)
    d = torch.linalg.solve(G + 0.3 * torch.eye(len(theta), dtype=torch.float64), -gradient)

    def f(theta):
        return float(dense.objective(NETWORK, theta, objective.images, objective.labels, loss, 5.0))

    slope = float(gradient @ d)
    alpha = next(a for a in (0.5**k for k in range(20)) if f(theta + a * d) <= f(theta) + 1e-4 * a * slope)
    predicted = alpha * slope + alpha**2 * float(d @ G @ d) / 2
    rho = (f(theta + alpha * d) - f(theta)) / predicted
    assert state.step == alpha
    assert state.n_trials == 1 - math.log2(alpha)
    dense.assert_close(state.theta, theta + alpha * d)
    dense.assert_close(state.rho, rho)
    assert state.damping == 0.3
    assert state.next_damping == 0.3 * (2 / 3 if rho >= 0.75 else 1 if rho >= 0.25 else 3 / 2)


@pytest.mark.parametrize("sampling", ["random", "cycle"])
def test_same_seed_same_bits(sampling):
    options = replace(OPTIONS, sampling=sampling)
    first, second = (list(newton(*problem(), options)) for _ in range(2))
    for state, other in zip(first, second, strict=True):
        assert_same(state, other)
    *_, last = newton(*problem(), replace(options, seed=2))
    assert not torch.equal(last.theta, first[-1].theta)


@pytest.mark.parametrize("sampling", ["random", "cycle"])
def test_resumes_from_any_state(sampling):
    options = replace(OPTIONS, sampling=sampling)
    states = list(newton(*problem(), options))
    assert len(states) == 6
    for k, state in enumerate(states):
        objective, theta = problem()
        rest = list(newton(objective, theta, options, state=state))
        assert len(rest) == 5 - k
        for resumed, expected in zip(rest, states[k + 1 :], strict=True):
            assert_same(resumed, expected)


def test_goes_on_from_the_public_start():
    objective, theta = problem()
    first = start(objective, theta, OPTIONS)
    assert (first.iteration, first.f, first.next_damping) == (0, objective.value(theta), 1.0)
    for state, expected in zip(
        newton(objective, theta, OPTIONS, state=first), newton(*problem(), OPTIONS), strict=True
    ):
        assert_same(state, expected)


def test_an_accepted_first_trial_costs_one_pass_each_way(monkeypatch):
    seen = []

    class Counted(Linearization):
        def __init__(self, network, theta, images, *rest):
            super().__init__(network, theta, images, *rest)
            seen.append(len(images))

    def no_forward(*arguments):
        raise AssertionError("f was evaluated without its gradient")

    monkeypatch.setattr("hfcnn.objective.Linearization", Counted)
    monkeypatch.setattr("hfcnn.objective.forward", no_forward)
    objective, theta = problem(batch_size=5)
    first = start(objective, theta, OPTIONS)
    n_first_trials, passes = 0, first.passes
    seen.clear()
    before = replace(objective.passes)
    for state in newton(objective, theta, OPTIONS, state=first):
        if state.n_trials == 1:
            n_first_trials += 1
            assert seen == [5, 5, 2]
            assert objective.passes.forward - before.forward == N_IMAGES
            assert objective.passes.backward - before.backward == N_IMAGES
            assert state.passes - passes == pytest.approx(1 + state.cg_iterations * 5 / N_IMAGES)
        seen.clear()
        before, passes = replace(objective.passes), state.passes
    assert n_first_trials >= 3


class Poisoned(Objective):
    """Evaluates the first `n_bad` trials to `bad`; f at the start has no bound and is right."""

    bad, n_bad, n_seen = math.nan, 0, 0

    def evaluate(self, theta, *, bound=math.inf, **keywords):
        if bound < math.inf:
            self.n_seen += 1
            if self.n_seen <= self.n_bad:
                return Evaluation(self.bad, None, math.nan)
        return super().evaluate(theta, bound=bound, **keywords)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_trials_that_are_not_finite_are_rejected(bad):
    objective, theta = problem(Poisoned)
    objective.bad, objective.n_bad = bad, 20
    first, second = islice(newton(objective, theta, OPTIONS), 2)
    assert (first.step, first.n_trials, first.n_failures) == (0.0, 20, 1)
    assert torch.equal(first.theta, theta)
    assert first.f == objective.value(theta)
    assert math.isnan(first.rho)
    assert (first.damping, first.next_damping) == (1.0, 1.5)
    assert (second.damping, second.n_failures) == (1.5, 0)
    assert second.step > 0
    assert second.f < first.f


def test_a_shorter_step_is_taken_where_the_first_trial_is_not_finite():
    objective, theta = problem(Poisoned)
    objective.n_bad = 1
    state = next(newton(objective, theta, OPTIONS))
    assert (state.step, state.n_trials) == (0.5, 2)
    assert state.f < objective.value(theta)


def test_ends_after_ten_failures():
    objective, theta = problem(Poisoned)
    objective.n_bad = 10**9
    states = list(newton(objective, theta, replace(OPTIONS, max_iter=50, max_trials=3)))
    assert [state.n_failures for state in states] == list(range(1, 11))
    assert [state.damping for state in states] == pytest.approx([1.5**k for k in range(10)])
    assert torch.equal(states[-1].theta, theta)


def test_directions_that_are_not_finite_are_failures(monkeypatch):
    """CG gives up at once and the direction is zero: no step, and no endless run of them."""
    monkeypatch.setattr(GaussNewton, "matvec", lambda self, v: v * math.nan)
    objective, theta = problem()
    states = list(newton(objective, theta, replace(OPTIONS, max_iter=50)))
    assert [state.n_failures for state in states] == list(range(1, 11))
    assert {state.cg_stop for state in states} == {"not_finite"}
    assert states[-1].damping == pytest.approx(1.5**9)


def test_start_that_is_not_finite_yields_nothing():
    objective, theta = problem()
    theta[0] = math.nan
    assert list(newton(objective, theta, OPTIONS)) == []


@pytest.mark.parametrize("C", [10.0, 0.5])
@pytest.mark.parametrize("input_shape", [(1, 1, 4), (2, 3, 2)], ids=str)
def test_linear_network_is_ridge_regression(input_shape, C):
    """f = |W|^2 / 2C + mean |W x - y|^2 is least at W = (2/l) Y^T X ((2/l) X^T X + I/C)^-1, x with a 1."""
    images, labels = images_and_labels(20, input_shape)
    network = Network([], input_shape, 3)
    options = NewtonOptions(tol=1e-12, sampling_rate=1.0, cg_tol=1e-7, damping=1e-7)
    *_, last = newton(Objective(network, images, labels, C=C), network.init(0, torch.float64), options)
    X = np.hstack([images.flatten(1).numpy(), np.ones((20, 1))])
    Y = np.eye(3)[labels.numpy()]
    W = np.linalg.solve(X.T @ X / 10 + np.eye(X.shape[1]) / C, X.T @ Y / 10).T
    dense.assert_close(last.theta, np.concatenate([W[:, :-1].ravel(), W[:, -1]]))
    assert last.gradient_norm <= 1e-12
    assert last.iteration < 10


def test_ends_at_the_tolerance():
    objective, theta = problem()
    norms = [state.gradient_norm for state in newton(objective, theta, replace(OPTIONS, max_iter=12))]
    tol = sorted(norms)[3]
    k = next(i for i, norm in enumerate(norms) if norm <= tol)
    states = list(newton(*problem(), replace(OPTIONS, max_iter=12, tol=tol)))
    assert len(states) == k + 1 < 12
    assert list(newton(*problem(), replace(OPTIONS, tol=1e9))) == []


def test_weights_of_one_change_no_bit():
    ones = torch.ones(N_IMAGES, dtype=torch.float64)
    for state, other in zip(
        newton(*problem(), OPTIONS), newton(*problem(sample_weight=ones), OPTIONS), strict=True
    ):
        assert_same(state, other)


def test_memory_changes_no_bit():
    options = replace(OPTIONS, gauss_newton="rop")
    for state, other in zip(
        newton(*problem(batch_size=2), options),
        newton(*problem(batch_size=2), replace(options, memory=0)),
        strict=True,
    ):
        assert_same(state, other)


def test_arguments_are_left_alone():
    objective, theta = problem()
    before = theta.clone()
    states = list(newton(objective, theta, OPTIONS))
    kept = [state.theta.clone() for state in states]
    assert torch.equal(theta, before)
    list(newton(objective, theta, replace(OPTIONS, max_iter=9), state=states[2]))
    assert all(torch.equal(state.theta, was) for state, was in zip(states, kept, strict=True))

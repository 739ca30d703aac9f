import math

import dense
import pytest
import scipy.sparse.linalg
import torch
from networks import BY_NAME

from hfcnn import GaussNewton
from hfcnn.conjugate_gradient import conjugate_gradient


def spd(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=g, dtype=torch.float64)
    return A @ A.t() / n + torch.eye(n, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def assert_residual_is_consistent(result, A, b):
    difference = (result.residual - (b - A @ result.x)).norm()
    assert difference <= 1e-12 * b.norm()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_equals_a_direct_solve(n):
    A, b = spd(n)
    result = conjugate_gradient(lambda v: A @ v, b, tol=1e-12)
    dense.assert_close(result.x, torch.linalg.solve(A, b))
    assert result.stop == "tolerance"
    assert result.n_iterations <= n + 1
    assert_residual_is_consistent(result, A, b)


@pytest.mark.parametrize("tol", [0.5, 0.1, 1e-3, 1e-8])
def test_iterations_equal_those_of_scipy(tol):
    A, b = spd(30, seed=3)
    counts = []
    x, info = scipy.sparse.linalg.cg(A.numpy(), b.numpy(), rtol=tol, callback=counts.append)
    assert info == 0
    result = conjugate_gradient(lambda v: A @ v, b, tol=tol)
    assert result.n_iterations == len(counts)
    dense.assert_close(result.x, torch.from_numpy(x))
    assert result.residual.norm() <= tol * b.norm()


def test_stops_at_the_first_residual_within_the_tolerance():
    A, b = spd(30, seed=3)
    result = conjugate_gradient(lambda v: A @ v, b)
    before = conjugate_gradient(lambda v: A @ v, b, max_iterations=result.n_iterations - 1)
    assert result.stop == "tolerance"
    assert result.residual.norm() <= 0.1 * b.norm() < before.residual.norm()
    assert_residual_is_consistent(result, A, b)


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_max_iterations(limit):
    A, b = spd(5)
    calls = []
    result = conjugate_gradient(lambda v: calls.append(1) or A @ v, b, tol=1e-14, max_iterations=limit)
    assert result.stop == "max_iterations"
    assert result.n_iterations == limit == len(calls)
    assert_residual_is_consistent(result, A, b)
    x, _ = scipy.sparse.linalg.cg(A.numpy(), b.numpy(), rtol=1e-14, maxiter=limit)
    dense.assert_close(result.x, torch.from_numpy(x))


def test_iterates_decrease_the_quadratic():
    """x minimises x^T A x / 2 - b^T x over growing Krylov spaces."""
    A, b = spd(5)
    values = []
    for limit in range(1, 6):
        x = conjugate_gradient(lambda v: A @ v, b, tol=0, max_iterations=limit).x
        values.append(float(x @ A @ x / 2 - b @ x))
    assert values[0] < 0
    assert values == sorted(values, reverse=True)
    assert math.isclose(values[-1], float(-b @ torch.linalg.solve(A, b) / 2), rel_tol=1e-10)


def test_zero_right_hand_side():
    A, _ = spd(2)
    result = conjugate_gradient(lambda v: A @ v, vector(0, 0))
    assert (result.stop, result.n_iterations) == ("zero_right_hand_side", 0)
    assert result.x.tolist() == result.residual.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("diagonal", "n_products"),
    [((-1, -1), 1), ((0, 0), 1), ((1, -1), 1), ((5, -1), 2)],
    ids=["negative", "zero", "no curvature", "negative at the second product"],
)
def test_not_positive_definite(diagonal, n_products):
    A, b = torch.diag(vector(*diagonal)), vector(1, 1)
    result = conjugate_gradient(lambda v: A @ v, b, tol=1e-12)
    assert (result.stop, result.n_iterations) == ("not_positive_definite", n_products)
    if n_products == 1:
        assert result.x.tolist() == [0, 0]
    else:  # the last iterate before: the steepest-descent step b (b^T b) / (b^T A b)
        dense.assert_close(result.x, b * (b @ b) / (b @ A @ b))
    assert_residual_is_consistent(result, A, b)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 3])
def test_not_finite(bad, at):
    A, b = spd(5)
    calls = []

    def matvec(v):
        calls.append(1)
        return A @ v if len(calls) < at else torch.full_like(v, bad)

    result = conjugate_gradient(matvec, b, tol=1e-12)
    assert (result.stop, result.n_iterations) == ("not_finite", at)
    assert torch.isfinite(result.x).all()
    assert bool(result.x.any()) == (at > 1)
    assert_residual_is_consistent(result, A, b)


def test_right_hand_side_is_left_alone():
    A, b = spd(5)
    before = b.clone()
    conjugate_gradient(lambda v: A @ v, b, tol=1e-12)
    assert torch.equal(b, before)


def test_update_is_replaceable():
    """A backend passes its own step; CG gives it x, r, p, A p and r^T r, and takes what it returns."""
    A, b = spd(5)
    seen = []

    def update(x, r, p, Ap, status, before):
        rr = status[0].clone()
        seen.append(float(rr))
        torch.testing.assert_close(Ap, A @ p)
        curvature = p @ Ap
        x += rr / curvature * p
        r -= rr / curvature * Ap
        rr_next = r @ r
        p.copy_(r + rr_next / rr * p)
        status.copy_(torch.stack((rr_next, curvature)))

    result = conjugate_gradient(lambda v: A @ v, b, tol=1e-12, update=update)
    dense.assert_close(result.x, torch.linalg.solve(A, b))
    assert len(seen) == result.n_iterations
    assert seen[0] == float(b @ b)


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_curvature_along_the_solution_costs_no_product(damping):
    """d^T G d = -g^T d - r^T d - lambda d^T d for (G + lambda I) d = -g - r, as Algorithm 1 uses it."""
    case = BY_NAME["two-layers"]
    theta, images, labels = case.draw()
    gradient = dense.gradient(case.network, theta, images, labels, "cross_entropy", 5.0)
    damped, plain = (
        GaussNewton(case.network, theta, images, "cross_entropy", 5.0, value) for value in (damping, 0.0)
    )
    result = conjugate_gradient(damped.matvec, -gradient)
    d = result.x
    assert 0 < result.residual.norm() <= 0.1 * gradient.norm()
    curvature = -gradient @ d - result.residual @ d - damping * d @ d
    dense.assert_close(curvature, d @ (plain @ d))


def test_captured_steps_work_on_the_same_buffers():
    """A captured step is replayed with no arguments; only the buffers it closed over carry the iteration."""
    A, b = spd(5, seed=3)
    captured = []

    def capture(step):
        captured.append(step)
        return step

    plain = conjugate_gradient(lambda v: A @ v, b, tol=1e-12)
    replayed = conjugate_gradient(lambda v: A @ v, b, tol=1e-12, capture=capture)
    assert len(captured) == 1
    assert torch.equal(plain.x, replayed.x)
    assert plain.n_iterations == replayed.n_iterations > 2

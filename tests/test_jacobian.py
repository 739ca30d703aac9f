import dense
import torch
from networks import BY_NAME, each_case

from hfcnn import Linearization, StoredJacobian


def directions(case, generator):
    v = torch.randn(case.network.n_parameters, generator=generator, dtype=torch.float64)
    q = torch.randn(case.n_images, case.network.n_outputs, generator=generator, dtype=torch.float64)
    return v, q


@each_case
def test_outputs_equal_torch(case):
    theta, images, _ = case.draw()
    outputs = StoredJacobian(case.network, theta, images).outputs
    dense.assert_close(outputs, dense.forward(case.network, theta, images))


@each_case
def test_products_equal_the_dense_jacobian(case, generator):
    theta, images, _ = case.draw()
    v, q = directions(case, generator)
    J = dense.jacobian(case.network, theta, images)
    stored = StoredJacobian(case.network, theta, images)
    dense.assert_close(stored.jvp(v), J @ v)
    dense.assert_close(stored.vjp(q), torch.einsum("ik,ikn->n", q, J))


@each_case
def test_products_equal_those_of_the_r_operator(case, generator):
    theta, images, _ = case.draw()
    v, q = directions(case, generator)
    stored, linear = (kind(case.network, theta, images) for kind in (StoredJacobian, Linearization))
    dense.assert_close(stored.jvp(v), linear.jvp(v))
    dense.assert_close(stored.vjp(q), linear.vjp(q))


def test_products_leave_the_jacobian_as_it_was(generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v, q = directions(case, generator)
    stored = StoredJacobian(case.network, theta, images)
    first = stored.jvp(v), stored.vjp(q)
    assert torch.equal(stored.jvp(v), first[0])
    assert torch.equal(stored.vjp(q), first[1])


def test_rows_are_derivatives_after_the_selection():
    """Layer by layer, rows @ change of a layer's output is the change of the network's outputs."""
    case = BY_NAME["hidden-dense"]
    theta, images, _ = case.draw()
    stored = StoredJacobian(case.network, theta, images)
    w1, b1 = case.network.parameters(theta)[-2]
    w2, _ = case.network.parameters(theta)[-1]
    z = stored.inputs[-2]
    on = (z @ w1.t() + b1 > 0).double()
    dense.assert_close(stored.rows[-2], w2 * on[:, None, :])
    assert stored.rows[-1] is None

import dense
import torch
from networks import BY_NAME, each_case

from hfcnn import Conv, Linearization, Network, StoredJacobian


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


def test_block_is_columns_of_the_dense_jacobian():
    """A layer of fewer parameters than outputs keeps these instead of rows, input and selection."""
    network = Network([Conv(3, 3, pool=2), Conv(2, 3, pool=2)], (12, 12, 1), 3)
    generator = torch.Generator().manual_seed(0)
    theta = network.init(0, torch.float64)
    images = torch.randn(2, 12, 12, 1, generator=generator, dtype=torch.float64)
    stored = StoredJacobian(network, theta, images)
    # 30 parameters, 108 outputs; 56 parameters, 18 outputs
    assert [block is not None for block in stored.blocks] == [True, False, False]
    assert [rows is not None for rows in stored.rows] == [False, True, False]
    assert stored.inputs[0] is stored.selections[0] is None
    dense.assert_close(stored.blocks[0], dense.jacobian(network, theta, images)[..., :30])

import dense
import pytest
import torch
from networks import each_loss

from hfcnn.loss import LOSSES, SquaredLoss, get_loss

K = 5


@pytest.fixture
def outputs(generator):
    return 3 * torch.randn(7, K, generator=generator, dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 3, 4, 4, 0])


@each_loss
def test_value_is_one_number_an_image(loss, outputs, labels):
    dense.assert_close(get_loss(loss).value(outputs, labels), dense.loss_value(loss, outputs, labels))


@each_loss
def test_gradient_equals_autograd(loss, outputs, labels):
    leaf = outputs.clone().requires_grad_()
    (expected,) = torch.autograd.grad(dense.loss_value(loss, leaf, labels).sum(), leaf)
    dense.assert_close(get_loss(loss).gradient(outputs, labels), expected)


@each_loss
def test_hessian_product_equals_autograd(loss, outputs, generator):
    u = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    expected = torch.einsum("ijk,ik->ij", dense.loss_hessian(loss, outputs), u)
    dense.assert_close(get_loss(loss).hessian_product(outputs, u), expected)


@each_loss
def test_hessian_is_symmetric_and_positive_semidefinite(loss, outputs):
    columns = [
        get_loss(loss).hessian_product(outputs, e.expand_as(outputs)) for e in torch.eye(K).double().unbind(0)
    ]
    B = torch.stack(columns, 2)
    dense.assert_close(B, B.transpose(1, 2).contiguous())
    assert torch.linalg.eigvalsh(B).min() >= -1e-12


def test_squared_loss_has_no_factor_one_half():
    outputs = torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    label = torch.tensor([1])
    assert SquaredLoss().value(outputs, label).item() == 0.25 + 1.0
    assert SquaredLoss().gradient(outputs, label).tolist() == [[1.0, 2.0]]


def test_cross_entropy_of_large_outputs_stays_finite():
    outputs = torch.tensor([[1000.0, 0.0, -1000.0]], dtype=torch.float64)
    loss = get_loss("cross_entropy")
    assert loss.value(outputs, torch.tensor([1])).item() == 1000
    assert loss.gradient(outputs, torch.tensor([1])).tolist() == [[1, -1, 0]]
    assert loss.hessian_product(outputs, torch.ones_like(outputs)).tolist() == [[0, 0, 0]]


@each_loss
def test_arguments_are_left_alone(loss, outputs, labels):
    before, u = outputs.clone(), torch.ones_like(outputs)
    loss = get_loss(loss)
    loss.value(outputs, labels)
    loss.gradient(outputs, labels)
    loss.hessian_product(outputs, u)
    assert torch.equal(outputs, before)
    assert torch.equal(u, torch.ones_like(u))


def test_lookup():
    assert set(LOSSES) == {"squared", "cross_entropy"}
    own = SquaredLoss()
    assert get_loss(own) is own
    with pytest.raises(ValueError, match="no loss 'hinge'; the losses are squared, cross_entropy"):
        get_loss("hinge")

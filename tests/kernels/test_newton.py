"""The whole method on the kernels: they serve the objective, both forms of the product, and CG."""

import numpy as np
import pytest
import torch

from hfcnn import Conv, Dense, Network, NewtonCNNClassifier, Objective
from hfcnn.backend import TORCH, get_backend
from hfcnn.gauss_newton import GaussNewton
from hfcnn.linearization import Linearization
from hfcnn.newton import NewtonOptions, newton

NETWORK = Network([Conv(5, 3, pool=2), Conv(6, 3, padding=0), Dense(7)], (9, 8, 2), 3)


def last_state(backend, form, loss, dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(12, *NETWORK.input_shape, generator=generator).to(backend.device, dtype)
    labels = torch.arange(12) % 3
    objective = Objective(NETWORK, images, labels, loss, C=10.0, backend=backend, batch_size=5)
    # damped so that CG does not amplify rounding: float32 itself is then good to 1e-6 here
    options = NewtonOptions(max_iter=2, sampling_rate=8, cg_max_iter=6, gauss_newton=form, damping=30.0)
    theta = NETWORK.init(0, dtype).to(backend.device)
    *_, state = newton(objective, theta, options)
    return state


def triton_backend(precision="ieee"):
    return get_backend("triton", "auto", precision)


@pytest.mark.parametrize("form", ["rop", "jacobian"])
@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_two_iterations_give_the_theta_of_torch(form, loss):
    ours, expected = last_state(triton_backend(), form, loss), last_state(TORCH, form, loss)
    assert ours.iteration == expected.iteration == 2
    assert ours.cg_iterations == expected.cg_iterations
    error = (ours.theta.cpu() - expected.theta).norm() / expected.theta.norm()
    assert error < 1e-5
    assert not torch.equal(ours.theta.cpu(), NETWORK.init(0))


def test_float64_agrees_to_rounding():
    ours = last_state(triton_backend(), "rop", "squared", torch.float64)
    expected = last_state(TORCH, "rop", "squared", torch.float64)
    torch.testing.assert_close(ours.theta.cpu(), expected.theta, rtol=1e-9, atol=1e-11)


def test_same_seed_same_bits():
    first, second = (last_state(triton_backend("tf32"), "rop", "squared") for _ in range(2))
    assert torch.equal(first.theta, second.theta)


def test_classifier_fits_on_the_kernels():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12, 9, 8, 2)).astype(np.float32), np.arange(12) % 3
    settings = {"network": NETWORK.specs, "C": 1.0, "max_iter": 2, "cg_max_iter": 6, "random_state": 0}
    ours = NewtonCNNClassifier(**settings, backend="triton", precision="ieee").fit(X, y)
    expected = NewtonCNNClassifier(**settings, backend="torch", device="cpu").fit(X, y)
    np.testing.assert_allclose(ours.theta_, expected.theta_, rtol=1e-3, atol=1e-5)
    assert (ours.predict(X) == expected.predict(X)).all()


def test_bf16_products_are_near_and_add_in_float32():
    # of few digits, so that bf16 decides no ReLU and no window otherwise than float64 does
    images = (torch.randn(12, *NETWORK.input_shape, generator=torch.Generator().manual_seed(4)) > 0).float()
    theta, v = (4 * NETWORK.init(0)).round() / 4, NETWORK.init(1)
    exact = GaussNewton(NETWORK, theta.double(), images.double(), form="rop", C=10.0) @ v.double()
    backend = get_backend("triton", "auto", "bf16")
    on_device = (x.to(backend.device) for x in (theta, images))
    product = GaussNewton(NETWORK, *on_device, form="rop", C=10.0, backend=backend) @ v.to(backend.device)
    assert product.dtype == torch.float32
    assert 1e-4 < (product.cpu().double() - exact).norm() / exact.norm() < 0.01


def test_a_linearization_keeps_images_as_kernels_read_them():
    backend = triton_backend()
    images = torch.randn(5, *NETWORK.input_shape, generator=torch.Generator().manual_seed(4))
    linear = Linearization(NETWORK, NETWORK.init(0), images, backend.product_ops)
    assert [type(z).__name__ for z in linear.inputs] == ["Bordered", "Bordered", "Tensor", "Tensor"]
    assert linear.inputs[0].whole.shape == (5, 11, 10, 4) and linear.inputs[1].whole.shape == (5, 4, 4, 8)
    assert torch.equal(linear.inputs[0].contiguous(), images)

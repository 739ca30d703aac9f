"""What the package computes, by another route: torch's functional layers, autograd and explicit matrices.

Nothing numeric here comes from hfcnn; a network's `specs` are read as data.
"""

import warnings

import torch
import torch.nn.functional as F

from hfcnn import Conv

with warnings.catch_warnings():  # torch's own deprecated call, at the first use of forward mode
    warnings.simplefilter("ignore")
    torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


def assert_close(actual, expected, rtol=1e-10):
    """Compare by the largest difference over the largest expected entry; zeros must be zeros."""
    actual, expected = (
        torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else torch.as_tensor(x)
        for x in (actual, expected)
    )
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    assert torch.isfinite(expected).all(), "the expected values are not finite"
    worst = (actual - expected).abs().max()
    scale = expected.abs().max()
    assert worst <= rtol * scale, f"largest difference {worst:.2e}, largest value {scale:.2e}"


def forward(network, theta, images):
    """Outputs (N, K) with the ReLU before the pooling, as networks are usually written."""
    start = 0

    def take(*shape):
        nonlocal start
        size = torch.Size(shape).numel()
        start += size
        return theta[start - size : start].reshape(shape)

    z = images.permute(0, 3, 1, 2)
    is_image = True
    for spec in network.specs:
        if isinstance(spec, Conv):
            kernel = (spec.kernel,) * 2 if isinstance(spec.kernel, int) else spec.kernel
            padding = tuple(k // 2 for k in kernel) if spec.padding == "same" else spec.padding
            w = take(spec.filters, *kernel, z.shape[1]).permute(0, 3, 1, 2)
            z = F.relu(F.conv2d(z, w, take(spec.filters), spec.stride, padding))
            z = (F.max_pool2d if spec.pooling == "max" else F.avg_pool2d)(z, spec.pool)
        else:
            z = z.permute(0, 2, 3, 1).flatten(1) if is_image else z
            is_image = False
            z = F.relu(F.linear(z, take(spec.units, z.shape[1]), take(spec.units)))
    z = z.permute(0, 2, 3, 1).flatten(1) if is_image else z
    z = F.linear(z, take(network.n_outputs, z.shape[1]), take(network.n_outputs))
    assert start == len(theta)
    return z


def loss_value(loss, outputs, labels):
    """Losses (N,) of each image."""
    if loss == "squared":
        return ((outputs - F.one_hot(labels, outputs.shape[1])) ** 2).sum(1)
    return torch.logsumexp(outputs, 1) - outputs.gather(1, labels[:, None])[:, 0]


def objective(network, theta, images, labels, loss, C=float("inf"), weight=None):
    """f, differentiable in theta."""
    values = loss_value(loss, forward(network, theta, images), labels)
    weight = torch.ones_like(values) if weight is None else weight
    return theta @ theta / (2 * C) + (weight * values).sum() / weight.sum()


def gradient(network, theta, images, labels, loss, C=float("inf"), weight=None):
    """Gradient of f by autograd."""
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(objective(network, leaf, images, labels, loss, C, weight), leaf)[0]


def jacobian(network, theta, images):
    """J of shape (N, K, n), a row at a time by reverse mode."""
    return torch.func.jacrev(lambda t: forward(network, t, images))(theta)


def loss_hessian(loss, outputs):
    """B of shape (N, K, K) by autograd; it does not depend on the labels."""
    label = torch.tensor([0])
    hessian = torch.autograd.functional.hessian
    return torch.stack([hessian(lambda z: loss_value(loss, z[None], label).sum(), row) for row in outputs])


def ggn_factors(network, theta, images, loss):
    """J and B, for products with a matrix that is too large to write down."""
    return jacobian(network, theta, images), loss_hessian(loss, forward(network, theta, images))


def ggn(network, theta, images, loss, C=float("inf"), damping=0.0, weight=None):
    """(1/C + damping) I + weighted mean of J^T B J, entry by entry."""
    J, B = ggn_factors(network, theta, images, loss)
    weight = torch.ones(len(images), dtype=theta.dtype) if weight is None else weight
    G = torch.einsum("i,ikm,ikj,ijn->mn", weight / weight.sum(), J, B, J)
    return G + (1 / C + damping) * torch.eye(len(theta), dtype=theta.dtype)

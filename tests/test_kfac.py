"""Factors against sums over all positions by autograd; the metric against dense matrices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense import assert_close, forward, ggn, loss_hessian
from networks import BY_NAME, each_case, each_loss, each_odd_case

from hfcnn import Conv, Linearization, Network, kfac
from hfcnn.kfac import Factor, FactorDraws, KroneckerMetric
from hfcnn.layers import conv
from hfcnn.loss import get_loss
from hfcnn.ops import conv_patch_gram


class Offsets:
    """Stands in for a generator: offsets from a list, and the cotangent that is asked for."""

    def __init__(self, offsets=()):
        self.offsets = list(offsets)
        self.rng = np.random.default_rng(0)

    def integers(self, high):
        return self.offsets.pop(0) if self.offsets else self.rng.integers(high)

    def random(self, shape):
        return self.rng.random(shape)

    def standard_normal(self, shape):
        return self.rng.standard_normal(shape)


def metric_of(network, theta, images, loss, weights=None, rng=None):
    metric = KroneckerMetric(network, theta)
    loss = get_loss(loss)
    draws = FactorDraws.draw(network, loss, len(images), rng or Offsets())
    metric.add(Linearization(network, theta, images), loss, weights, draws)
    metric.update()
    return metric


def positions(network, theta, images, u):
    """Patches with a one, and cotangents, of every layer at every position: lists of (N, T, size)."""
    z, patches, values = images.permute(0, 3, 1, 2), [], []
    for spec, layer, (w, b) in zip(
        [*network.specs, None], network.layers, network.parameters(theta), strict=True
    ):
        if isinstance(spec, Conv):
            columns = F.unfold(z, layer.kernel, padding=layer.padding, stride=layer.stride)
            columns = columns.view(len(z), layer.channels, -1, columns.shape[2])  # (N, C, KH KW, T)
            patches.append(columns.permute(0, 3, 2, 1).flatten(2))
            s = F.conv2d(z, w.permute(0, 3, 1, 2), b, layer.stride, layer.padding)
            values.append(s.requires_grad_() if s.is_leaf else s)
            pool = F.avg_pool2d if spec.pooling == "average" else F.max_pool2d
            z = pool(F.relu(s), layer.pool)
        else:
            z = z.permute(0, 2, 3, 1).flatten(1) if z.dim() == 4 else z
            patches.append(z.unsqueeze(1))
            values.append(F.linear(z, w, b))
            z = values[-1] if spec is None else F.relu(values[-1])
    cotangents = torch.autograd.grad((z * u).sum(), values)
    cotangents = [e.flatten(2).transpose(1, 2) if e.dim() == 4 else e.unsqueeze(1) for e in cotangents]
    ones = [torch.cat([a, torch.ones_like(a[..., :1])], 2).detach() for a in patches]
    return ones, cotangents


@each_loss
@each_case
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_factors_are_the_sums_over_all_positions(case, loss, weighted, monkeypatch):
    monkeypatch.setattr(conv, "SMALL_SIDE", 100)
    theta, images, _ = case.draw()
    network, n = case.network, len(images)
    weights = torch.linspace(0.3, 2, n, dtype=torch.float64) if weighted else None
    metric = metric_of(network, theta, images, loss, weights)
    outputs = forward(network, theta, images)
    u = get_loss(loss).sample(outputs, get_loss(loss).draw(*outputs.shape, Offsets()))
    w = torch.ones(n, dtype=torch.float64) if weights is None else weights
    w = w / w.sum()
    patches, cotangents = positions(network, theta.clone().requires_grad_(), images, u)
    for m, (a, e) in enumerate(zip(patches, cotangents, strict=True)):
        left, right = metric.pairs[m]
        assert_close(left.blocks[0], torch.einsum("n,nti,ntj->ij", w, a, a))
        if m < len(patches) - 1:
            expected = torch.einsum("n,nti,ntj->ij", w, e, e) / e.shape[1]
        else:
            expected = torch.einsum("n,nij->ij", w, loss_hessian(loss, outputs))
        assert_close(right.blocks[0], expected)


def test_a_grid_of_positions_is_an_unbiased_sum():
    network = Network([Conv(3, 3)], (8, 8, 2), 3)
    theta, images = network.init(0, torch.float64), torch.rand((4, 8, 8, 2), dtype=torch.float64)
    grids = [
        metric_of(network, theta, images, "squared", rng=Offsets([i, j])) for i in range(2) for j in range(2)
    ]
    mean = sum(metric.pairs[0][0].blocks[0] for metric in grids) / 4
    patches, _ = positions(
        network, theta.clone().requires_grad_(), images, torch.ones((4, 3), dtype=torch.float64)
    )
    assert_close(mean, torch.einsum("nti,ntj->ij", patches[0], patches[0]) / 4)


@each_loss
def test_draws_have_the_covariance_of_the_loss_hessian(loss):
    outputs = torch.randn((1, 4), dtype=torch.float64).expand(200_000, 4)
    u = get_loss(loss).sample(outputs, get_loss(loss).draw(*outputs.shape, np.random.default_rng(0)))
    expected = loss_hessian(loss, outputs[:1])[0]
    assert u.mean(0).abs().max() < 0.02
    assert (u.t() @ u / len(u) - expected).abs().max() < 0.02 * expected.abs().max()


def test_of_one_linear_layer_the_metric_is_the_gauss_newton_matrix():
    case = BY_NAME["linear"]
    theta, images, _ = case.draw()
    metric = metric_of(case.network, theta, images, "squared")
    C = 3.0
    metric.invert(1 / C)
    solved = torch.stack([metric.solve(row) for row in torch.eye(len(theta), dtype=torch.float64)])
    assert_close(solved @ ggn(case.network, theta, images, "squared", C), torch.eye(len(theta)).double())


def test_a_step_with_full_data_solves_ridge_regression():
    network, C, n = Network([], (3, 2, 2), 3), 5.0, 40
    images = torch.randn((n, 3, 2, 2), dtype=torch.float64)
    labels = torch.randint(3, (n,))
    theta = network.init(0, torch.float64)
    metric = metric_of(network, theta, images, "squared")
    metric.invert(1 / C)
    a = torch.cat([images.flatten(1), torch.ones((n, 1), dtype=torch.float64)], 1)
    W = torch.linalg.solve(
        2 * a.t() @ a / n + torch.eye(13).double() / C, 2 * a.t() @ F.one_hot(labels, 3).double() / n
    )
    linear = Linearization(network, theta, images)
    gradient = linear.vjp(get_loss("squared").gradient(linear.outputs, labels)) / n + theta / C
    weight, bias = network.parameters(theta - metric.solve(gradient))[0]
    assert_close(torch.cat([weight, bias.unsqueeze(1)], 1), W.t().contiguous())


@each_loss
@each_odd_case
def test_solve_is_the_inverse_of_the_damped_kronecker_product(case, loss):
    theta, images, _ = case.draw()
    metric = metric_of(case.network, theta, images, loss)
    metric.invert(0.3)
    v = torch.randn_like(theta)
    result, start = metric.solve(v), 0
    for (left, right), layer in zip(metric.pairs, case.network.layers, strict=True):
        stop = start + layer.n_parameters
        a, g = left.blocks[0], right.blocks[0]
        eye_a, eye_g = torch.eye(len(a)).double(), torch.eye(len(g)).double()
        mean_a, mean_g = a.trace() / len(a), g.trace() / len(g)
        if mean_g > 0 and torch.allclose(g, mean_g * eye_g, rtol=0, atol=1e-7 * float(mean_g)):
            damped = torch.kron(g, a) + 0.3 * torch.eye(len(a) * len(g)).double()
        else:
            pi = (mean_a / mean_g).sqrt().clamp(1e-6, 1e6)
            damped = torch.kron(g + 0.3**0.5 / pi * eye_g, a + 0.3**0.5 * pi * eye_a)
        # a layer's vector is its weights, then its biases; the product's is filter by filter
        order = torch.arange(layer.n_parameters).view(layer.filters, layer.fan_in + 1)
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
        expected = torch.linalg.solve(
            damped, torch.zeros(len(order)).double().scatter(0, order, v[start:stop])
        )
        assert_close(result[start:stop], expected[order], rtol=1e-8)
        start = stop


@pytest.mark.parametrize(("size", "block"), [(7, 3), (8, 4), (5, 1), (6, 10)])
def test_blocks_of_a_factor(size, block):
    rows = torch.randn((20, size), dtype=torch.float64)
    factor = Factor(size, block, rows)
    factor.average(factor.gram(rows), 1.0)
    n_blocks = -(-size // block)
    side = -(-size // n_blocks)
    number = torch.arange(size) // side
    dense = (rows.t() @ rows) * (number[:, None] == number)
    assert_close(factor.blocks_of(rows.t() @ rows), factor.blocks)
    assert factor.mean_eigenvalue == pytest.approx(float(dense.trace()) / size, rel=1e-12)
    factor.invert(0.5)
    assert_close(factor.solve(rows), torch.linalg.solve(dense + 0.5 * torch.eye(size).double(), rows.t()).t())


def test_factors_of_a_wide_layer_are_blocked(monkeypatch):
    monkeypatch.setattr(kfac, "MAX_NUMBERS", 400)
    case = BY_NAME["hidden-dense"]
    theta, images, labels = case.draw()
    metric = metric_of(case.network, theta, images, "squared")
    held = sum(factor.blocks.numel() for pair in metric.pairs for factor in pair)
    assert held < 600 < sum(factor.size**2 for pair in metric.pairs for factor in pair)
    metric.invert(0.1)
    assert float(theta @ metric.solve(theta)) > 0


def test_running_averages_and_their_state():
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    metric = KroneckerMetric(case.network, theta)
    draws = FactorDraws.draw(case.network, get_loss("squared"), len(images), Offsets())
    totals = []
    for k in range(3):
        linear = Linearization(case.network, theta, images * (k + 1))
        metric.add(linear, get_loss("squared"), None, draws)
        totals.append(metric_of(case.network, theta, images * (k + 1), "squared").pairs[1][0].blocks)
        metric.update()
    assert metric.n_updates == 3
    assert_close(metric.pairs[1][0].blocks, sum(totals) / 3)
    copy = KroneckerMetric(case.network, theta)
    copy.restore(metric.state)
    assert torch.equal(copy.state, metric.state)
    # statistics that are not finite are passed over
    metric.add(Linearization(case.network, theta, images * torch.nan), get_loss("squared"), None, draws)
    metric.update()
    assert metric.n_updates == 3
    assert torch.equal(copy.state, metric.state)


@each_odd_case
def test_patches_of_a_grid_are_those_of_the_kernels_twin(case):
    _, images, _ = case.draw()
    for layer in case.network.layers:
        if not isinstance(layer, conv.ConvLayer):
            continue
        z = torch.randn((2, *layer.input_shape), dtype=torch.float64)
        u = torch.zeros((2, layer.conv_height, layer.conv_width, layer.filters), dtype=torch.float64)
        sides = (layer.conv_height, layer.conv_width)
        gap = tuple(1 if side <= conv.SMALL_SIDE else max(2, -(-side // conv.GRID)) for side in sides)
        first = tuple(g - 1 for g in gap)
        patches, _ = layer.factor_rows(z, u, first)
        assert_close(patches.t() @ patches, conv_patch_gram(z, layer, gap=gap, first=first))

import math

import dense
import numpy as np
import pytest
import torch
from networks import BY_NAME, each_case
from torch import nn

from hfcnn import Conv, Dense, Network


@pytest.mark.parametrize(
    ("name", "input_shape", "n"),
    [("cnn3", (32, 32, 3), 68_106), ("cnn5", (32, 32, 3), 161_450), ("cnn3", (28, 28, 1), 62_026)],
)
def test_number_of_parameters(name, input_shape, n):
    network = Network.preset(name, input_shape, 10)
    assert network.n_parameters == n
    assert len(network.init()) == n
    assert sum(p.numel() for p in network.to_torch(network.init()).parameters()) == n


@pytest.mark.parametrize(
    ("name", "input_shape", "shapes"),
    [
        ("cnn3", (28, 28, 1), [(14, 14, 32), (7, 7, 64), (3, 3, 64), (10,)]),
        ("cnn3", (32, 32, 3), [(16, 16, 32), (8, 8, 64), (4, 4, 64), (10,)]),
        ("cnn5", (32, 32, 3), [(16, 16, 32), (16, 16, 32), (8, 8, 64), (8, 8, 64), (4, 4, 128), (10,)]),
        ("cnn3", (2, 2, 1), [(1, 1, 32), (1, 1, 64), (1, 1, 64), (10,)]),
        ("cnn3", (1, 30, 1), [(1, 15, 32), (1, 7, 64), (1, 3, 64), (10,)]),
    ],
)
def test_shapes_of_presets(name, input_shape, shapes):
    assert [layer.output_shape for layer in Network.preset(name, input_shape, 10).layers] == shapes


def test_unknown_preset():
    with pytest.raises(ValueError, match="no preset 'cnn4'; the presets are cnn3, cnn5"):
        Network.preset("cnn4", (8, 8, 1), 10)


@each_case
def test_to_torch_equals_the_functional_forward(case):
    theta, images, _ = case.draw()
    module = case.network.to_torch(theta)
    outputs = module(images.permute(0, 3, 1, 2))
    dense.assert_close(outputs.detach(), dense.forward(case.network, theta, images))


@each_case
def test_round_trip(case):
    theta, _, _ = case.draw()
    network, again = Network.from_torch(case.network.to_torch(theta), case.network.input_shape)
    assert network == case.network
    assert torch.equal(again, theta)


def test_module_holds_copies():
    network = BY_NAME["two-layers"].network
    theta = network.init(0, torch.float64)
    before = theta.clone()
    module = network.to_torch(theta)
    _, read = Network.from_torch(module, network.input_shape)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    assert torch.equal(theta, before)
    assert torch.equal(read, before)


def head(*modules):
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(modules[0].out_channels * 9, 2))


@pytest.mark.parametrize(
    "module",
    [
        head(nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        head(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        head(nn.Conv2d(1, 3, 3, padding="same", bias=False), nn.ReLU(), nn.MaxPool2d((2, 2), 2)),
        head(nn.Conv2d(1, 3, 4, padding="valid"), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(36, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)),
        nn.Sequential(nn.Flatten(), nn.Linear(36, 2)),
        head(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
    ],
    ids=["pool before ReLU", "pool after ReLU", "no bias", "valid padding", "dense", "linear", "average"],
)
def test_from_torch_reads_what_the_module_computes(module, generator):
    module = module.double()
    images = torch.randn(4, 6, 6, 1, generator=generator, dtype=torch.float64)
    network, theta = Network.from_torch(module, (6, 6, 1))
    expected = module(images.permute(0, 3, 1, 2)).detach()
    dense.assert_close(dense.forward(network, theta, images), expected)
    dense.assert_close(network.to_torch(theta)(images.permute(0, 3, 1, 2)).detach(), expected)


CONV, LINEAR = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(108, 2)
REST = (nn.ReLU(), nn.Flatten(), LINEAR)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            (CONV, nn.BatchNorm2d(3), *REST),
            r"module 1 \(BatchNorm2d.*only Conv2d, ReLU, MaxPool2d, AvgPool2d",
        ),
        ((CONV, nn.Sigmoid(), nn.Flatten(), LINEAR), r"module 1 \(Sigmoid.*only Conv2d, ReLU"),
        ((CONV, nn.AvgPool2d(2), *REST), r"module 1 \(AvgPool2d.*must come after the ReLU"),
        ((CONV, nn.ReLU(), nn.AvgPool2d(3, 2), *REST[1:]), r"module 2 \(AvgPool2d.*do not overlap"),
        ((CONV, nn.ReLU(), nn.AvgPool2d(2, divisor_override=3), *REST[1:]), r"module 2 .*divisor_override"),
        ((CONV, nn.ReLU(), nn.AvgPool2d(2), nn.MaxPool2d(2), *REST[1:]), r"module 3 \(MaxPool2d.*one each"),
        ((nn.Sequential(CONV, nn.ReLU()), nn.Flatten(), LINEAR), r"module 0 \(Sequential.*only Conv2d, ReLU"),
        ((CONV, nn.ReLU(), nn.Flatten(), nn.Dropout(), LINEAR), r"module 3 \(Dropout.*only Conv2d, ReLU"),
        ((nn.Conv2d(1, 3, 3, dilation=2), *REST), r"module 0 \(Conv2d.*dilation, groups"),
        ((CONV, nn.ReLU(), nn.Conv2d(3, 3, 3, groups=3), *REST), r"module 2 \(Conv2d.*dilation, groups"),
        ((nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), *REST), r"module 0 \(.*padding modes"),
        ((nn.Conv2d(1, 3, 2, padding="same"), *REST), r'module 0 \(.*padding "same" needs an odd kernel'),
        ((CONV, nn.MaxPool2d(3, 2), *REST), r"module 1 \(MaxPool2d.*do not overlap"),
        ((CONV, nn.MaxPool2d(2, padding=1), *REST), r"module 1 \(MaxPool2d.*without padding"),
        ((CONV, nn.MaxPool2d(2, dilation=2), *REST), r"module 1 \(MaxPool2d.*only windows"),
        ((CONV, nn.MaxPool2d(2, ceil_mode=True), *REST), r"module 1 \(MaxPool2d.*ceil_mode is not supported"),
        ((CONV, nn.MaxPool2d(2), nn.MaxPool2d(2), *REST), r"module 2 \(MaxPool2d.*one each"),
        ((nn.MaxPool2d(2), CONV, *REST), r"module 0 \(MaxPool2d.*must follow a Conv2d"),
        ((CONV, CONV, *REST), r"module 1 \(Conv2d.*expected a ReLU before it"),
        ((CONV, nn.Flatten(), LINEAR), r"module 1 \(Flatten.*expected a ReLU before it"),
        ((nn.Flatten(), LINEAR, nn.Linear(2, 2)), r"module 2 \(Linear.*expected a ReLU before it"),
        ((nn.ReLU(), CONV, *REST), r"module 0 \(ReLU.*must follow"),
        ((CONV, nn.ReLU(), *REST), r"module 2 \(ReLU.*must follow"),
        ((CONV, nn.ReLU(), LINEAR), r"module 2 \(Linear.*expected a Flatten"),
        ((CONV, nn.ReLU(), nn.Flatten(2), LINEAR), r"module 2 \(Flatten.*only Flatten\(1, -1\)"),
        ((CONV, nn.ReLU(), nn.Flatten(), CONV, *REST), r"module 3 \(Conv2d.*cannot follow a Flatten"),
        ((CONV, *REST, nn.ReLU()), "the last layer must be a Linear without ReLU"),
        ((CONV,), "the last layer must be a Linear without ReLU"),
        ((), "the last layer must be a Linear without ReLU"),
        ((nn.Conv2d(2, 3, 3, padding=1), *REST), r"its weight is of shape \(3, 2, 3, 3\)"),
        ((CONV, nn.ReLU(), nn.Flatten(), nn.Linear(107, 2)), r"its weight is of shape \(2, 107\)"),
    ],
)
def test_from_torch_refuses(modules, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Network.from_torch(nn.Sequential(*modules), (6, 6, 1))


@pytest.mark.parametrize(
    ("layers", "input_shape", "message"),
    [
        ([Conv(2, 5, padding=0)], (4, 8, 1), r"layer 1 shrinks the image to nothing.*4 x 8.*its convolution"),
        ([Conv(2, 3), Conv(2, 3, pool=5)], (4, 8, 1), "layer 2 shrinks the image to nothing.*its pooling"),
        ([Conv(2, 4)], (8, 8, 1), 'layer 1: padding "same" needs an odd kernel'),
        ([Conv(2, 3, padding=-1)], (8, 8, 1), "layer 1: padding must not be negative"),
        ([Conv(0)], (8, 8, 1), "layer 1: filters, kernel, stride and pool must be at least 1"),
        ([Conv(2, stride=0)], (8, 8, 1), "layer 1: filters, kernel, stride and pool must be at least 1"),
        ([Conv(2, pool=(1, 0))], (8, 8, 1), "layer 1: filters, kernel, stride and pool must be at least 1"),
        ([Conv(2, pool=16)], (32, 32, 1), "layer 1: a window of max pooling may hold at most 255 positions"),
        ([Conv(2, pooling="mean")], (8, 8, 1), "layer 1: pooling must be .*got 'mean'"),
        ([Conv(2, (3, 3, 3))], (8, 8, 1), "expected an integer or a pair of them"),
        ([Dense(3), Conv(2)], (8, 8, 1), "layer 2: a Conv cannot follow a Dense layer"),
        ([Dense(0)], (8, 8, 1), "layer 1: units must be at least 1; got 0"),
        ([32], (8, 8, 1), "layer 1 must be a Conv or a Dense; got 32"),
        ([], (8, 8), "input_shape must be"),
        ([], (8, 0, 1), "input_shape must be"),
    ],
)
def test_errors(layers, input_shape, message):
    with pytest.raises(ValueError, match=message):
        Network(layers, input_shape, 3)


def test_no_outputs_is_an_error():
    with pytest.raises(ValueError, match="n_outputs must be at least 1; got 0"):
        Network([], (8, 8, 1), 0)


def test_parameters_are_views_weight_first():
    network = Network([Conv(2, (1, 3)), Dense(4)], (2, 3, 5), 3)
    theta = torch.arange(float(network.n_parameters))
    parts = network.parameters(theta)
    weights, biases = zip(*parts, strict=True)
    assert [tuple(w.shape) for w in weights] == [(2, 1, 3, 5), (4, 12), (3, 4)]
    assert [tuple(b.shape) for b in biases] == [(2,), (4,), (3,)]
    assert torch.equal(torch.cat([p.reshape(-1) for pair in parts for p in pair]), theta)
    parts[1].bias.zero_()
    assert theta[32 + 48 : 32 + 48 + 4].tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"expected a vector of shape \(99,\), got \(2,\)"):
        network.parameters(torch.zeros(2))


def test_he_initialisation():
    network = Network.preset("cnn5", (32, 32, 3), 10)
    for layer, (weight, bias) in zip(
        network.layers, network.parameters(network.init(1, torch.float64)), strict=True
    ):
        assert not bias.any()
        n, variance = weight.numel(), 2 / layer.fan_in
        # four standard errors of the mean and of the variance of n normal numbers
        assert abs(weight.mean()) < 4 * math.sqrt(variance / n)
        assert abs(weight.var() / variance - 1) < 4 * math.sqrt(2 / n)


def test_seed_decides_the_bits():
    network = BY_NAME["two-layers"].network
    theta = network.init(5, torch.float64)
    assert torch.equal(theta, network.init(5, torch.float64))
    assert torch.equal(theta, network.init(np.random.default_rng(5), torch.float64))
    assert not torch.equal(theta, network.init(6, torch.float64))
    assert network.init(5).dtype == torch.float32
    assert torch.equal(network.init(5), theta.float())


def test_equality_and_repr():
    layers = [Conv(3, 3, pool=2), Dense(4)]
    network = Network(layers, (6, 6, 1), 2)
    same = Network([Conv(3, (3, 3), padding=1, pool=(2, 2)), Dense(4)], (6, 6, 1), 2)
    assert network == same
    assert hash(network) == hash(same)
    for other in (Network(layers, (6, 6, 2), 2), Network(layers, (6, 6, 1), 3), Network([], (6, 6, 1), 2)):
        assert network != other
    assert network != "network"
    assert eval(repr(network), {"Network": Network, "Conv": Conv, "Dense": Dense}) == network


def test_a_convolution_knows_the_border_that_the_next_one_wants():
    network = Network([Conv(4, 5, padding=0), Conv(4, (3, 1)), Conv(2, padding=2), Dense(3)], (20, 20, 1), 2)
    assert [layer.border for layer in network.layers[:3]] == [(1, 0), (2, 2), None]

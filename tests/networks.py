"""Tiny networks with data, one for each shape or situation that has gone wrong somewhere."""

from dataclasses import dataclass

import pytest
import torch

from hfcnn import Conv, Dense, Network


@dataclass(frozen=True)
class Case:
    """A network and how its parameters and images are drawn.

    kind: "random"; "ones" and "binary" have few different pixels and weights that are multiples of 1/4, so
    that pre-activations are exact and tie; "off" has every hidden ReLU off.
    """

    name: str
    network: Network
    n_images: int = 3
    kind: str = "random"

    def draw(self, seed=0):
        """Draw theta (n,), images (N, H, W, C) and labels (N,), in float64."""
        g = torch.Generator().manual_seed(seed)
        network = self.network
        theta = network.init(seed, torch.float64)
        theta += 0.1 * torch.randn(theta.shape, generator=g, dtype=torch.float64)
        images = torch.randn((self.n_images, *network.input_shape), generator=g, dtype=torch.float64)
        labels = torch.randint(network.n_outputs, (self.n_images,), generator=g)
        if self.kind in ("ones", "binary"):
            theta = (4 * theta).round() / 4
            images = (images > 0).double() if self.kind == "binary" else torch.ones_like(images)
        if self.kind == "off":
            for _, bias in network.parameters(theta)[:-1]:
                bias.fill_(-100)
        return theta, images, labels


def _case(name, layers, input_shape, n_outputs=3, **keywords):
    return Case(name, Network(layers, input_shape, n_outputs), **keywords)


ODD_CASES = [
    _case("two-layers", [Conv(3, 3, pool=2), Conv(2, 3, pool=2)], (8, 8, 2)),
    _case("stride-2", [Conv(3, 3, stride=2), Conv(2, 3, stride=2, pool=2)], (9, 8, 2)),
    _case("stride-over-kernel", [Conv(3, 1, stride=2), Conv(2, 2, stride=3, padding=0)], (10, 9, 2)),
    _case("no-pooling", [Conv(3, 3), Conv(2, 3)], (5, 4, 2)),
    _case("pool-remainder", [Conv(3, 3, pool=2), Conv(2, 3, pool=2)], (7, 11, 2)),
    _case("pool-3", [Conv(2, 3, pool=3)], (8, 7, 2)),
    _case(
        "rectangular", [Conv(3, (3, 1), (1, 2), pool=(2, 1)), Conv(2, (2, 3), 1, (0, 1), (1, 2))], (7, 8, 2)
    ),
    _case("even-kernel", [Conv(2, 2, padding=1, pool=2), Conv(2, 4, padding=2)], (6, 5, 1)),
    _case("wide-padding", [Conv(2, 3, padding=2), Conv(2, 1, padding=1, pool=2)], (4, 4, 1)),
    _case("one-channel", [Conv(1, 3, pool=2), Conv(1, 3)], (6, 6, 1)),
    _case("one-image", [Conv(3, 3, pool=2), Conv(2, 3)], (6, 6, 2), n_images=1),
    _case("one-pixel", [Conv(2, 3), Dense(3)], (1, 1, 2)),
    _case("one-output", [Conv(2, 3, pool=2)], (4, 4, 1), n_outputs=1),
    _case(
        "few-parameters",
        [Conv(2, 3, pool=2), Conv(2, (2, 3), padding=(0, 1), pool=2), Conv(4, 3)],
        (12, 13, 2),
    ),
    _case(
        "average",
        [Conv(2, (3, 2), (1, 2), 1, (2, 3), "average"), Conv(3, 3, pool=2), Conv(2, 3, pooling="average")],
        (9, 14, 2),
    ),
    _case(
        "average-few-parameters",
        [Conv(2, 3, pool=2, pooling="average"), Conv(2, 3, pool=(4, 5), pooling="average"), Dense(4)],
        (8, 11, 1),
    ),
    _case(
        "average-ties", [Conv(3, 3, pool=2), Conv(3, 3, pool=2, pooling="average")], (8, 9, 1), kind="binary"
    ),
    _case("hidden-dense", [Conv(2, 3, pool=2), Dense(5), Dense(4)], (6, 5, 2)),
    _case("no-conv", [Dense(5)], (3, 2, 2)),
    _case("linear", [], (3, 2, 2)),
    _case("ties-everywhere", [Conv(4, 2, padding=0, pool=2), Dense(4)], (7, 7, 1), kind="ones"),
    _case("ties-and-zeros", [Conv(4, 3, pool=2), Conv(3, 3, pool=2)], (8, 9, 1), kind="binary"),
    _case("relu-off", [Conv(3, 3, pool=2), Conv(2, 3), Dense(3)], (6, 6, 1), kind="off"),
]
PRESET_CASES = [
    Case("cnn3", Network.preset("cnn3", (8, 8, 1), 3), n_images=2),
    Case("cnn5", Network.preset("cnn5", (8, 8, 3), 3), n_images=2),
]
CASES = ODD_CASES + PRESET_CASES
BY_NAME = {case.name: case for case in CASES}

LOSSES = ("squared", "cross_entropy")
FORMS = ("rop", "jacobian")

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_odd_case = pytest.mark.parametrize("case", ODD_CASES, ids=lambda case: case.name)
each_loss = pytest.mark.parametrize("loss", LOSSES)
each_form = pytest.mark.parametrize("form", FORMS)

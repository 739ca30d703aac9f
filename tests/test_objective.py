import math
from dataclasses import replace
from functools import partial

import dense
import numpy as np
import pytest
import torch
from networks import BY_NAME, each_case, each_loss

from hfcnn import Linearization, Objective
from hfcnn.objective import forward, outputs
from hfcnn.ops import encode

C = 3.0
CASE = BY_NAME["two-layers"]
BATCH_SIZES = (1, 2, 3, None)


def problem(case=CASE, n_images=None, **keywords):
    """An objective, theta, and its dense counterpart as functions of theta."""
    theta, images, labels = case.draw()
    if n_images:
        images = torch.randn(n_images, *case.network.input_shape, generator=torch.Generator().manual_seed(1))
        images, labels = images.double(), torch.arange(n_images) % case.network.n_outputs
    keywords = {"C": C, "loss": "squared"} | keywords
    return Objective(case.network, images, labels, **keywords), theta


def expected(objective, theta, indices=slice(None), weight=None):
    """f and gradient by autograd."""
    arguments = (objective.network, theta, objective.images[indices], objective.labels[indices])
    settings = (objective.loss.name, objective.C, weight)
    return dense.objective(*arguments, *settings), dense.gradient(*arguments, *settings)


def assert_equals(actual, reference):
    dense.assert_close(actual[0], reference[0])
    dense.assert_close(actual[1], reference[1])


@each_loss
@each_case
def test_value_and_gradient_equal_autograd(case, loss):
    objective, theta = problem(case, loss=loss)
    reference = expected(objective, theta)
    assert_equals(objective.value_and_gradient(theta), reference)
    dense.assert_close(objective.value(theta), reference[0])


@each_case
def test_forward_and_outputs_equal_torch(case):
    theta, images, _ = case.draw()
    reference = dense.forward(case.network, theta, images)
    dense.assert_close(forward(case.network, theta, images), reference)
    for batch_size in BATCH_SIZES:
        result = outputs(case.network, theta, images.numpy(), batch_size=batch_size)
        assert isinstance(result, np.ndarray)
        dense.assert_close(result, reference)


@each_loss
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_any_batch_size(loss, batch_size):
    objective, theta = problem(n_images=7, loss=loss, batch_size=batch_size)
    assert_equals(objective.value_and_gradient(theta), expected(objective, theta))


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("indices", [[3], [0, 1, 2], [6, 2, 4, 0], list(range(7))], ids=str)
def test_index_sets(indices, batch_size):
    objective, theta = problem(n_images=7, batch_size=batch_size)
    indices = np.array(indices)
    reference = expected(objective, theta, torch.from_numpy(indices))
    assert_equals(objective.value_and_gradient(theta, indices), reference)
    assert objective.value(theta, indices) == objective.evaluate(theta, indices=indices).value


def test_parts_average_to_the_whole():
    objective, theta = problem(n_images=7, C=math.inf)
    parts = [np.array([5, 0]), np.array([1, 2, 3, 4, 6])]
    results = [objective.value_and_gradient(theta, part) for part in parts]
    value = sum(len(part) * f for part, (f, _) in zip(parts, results, strict=True)) / 7
    gradient = sum(len(part) * g for part, (_, g) in zip(parts, results, strict=True)) / 7
    assert_equals((value, gradient), objective.value_and_gradient(theta))


def test_regularisation_covers_biases():
    objective, theta = problem(C=0.5)
    free, _ = problem(C=math.inf)
    value, gradient = objective.value_and_gradient(theta)
    free_value, free_gradient = free.value_and_gradient(theta)
    dense.assert_close(value - free_value, theta @ theta)
    dense.assert_close(gradient - free_gradient, 2 * theta)


@each_loss
@pytest.mark.parametrize("name", ["two-layers", "hidden-dense", "rectangular"])
def test_gradient_by_a_five_point_stencil(name, loss, generator):
    objective, theta = problem(BY_NAME[name], loss=loss)
    network, images = objective.network, objective.images
    h = 1e-4

    def decisions(theta):
        return torch.cat(
            [
                (s > 0 if isinstance(s, torch.Tensor) else encode(s)).flatten().to(torch.int64)
                for s in Linearization(network, theta, images).selections
                if s is not None
            ]
        )

    for _ in range(3):
        v = torch.randn(len(theta), generator=generator, dtype=torch.float64)
        v /= v.norm()
        at = {k: theta + k * h * v for k in (-2, -1, 1, 2)}
        assert all(torch.equal(decisions(t), decisions(theta)) for t in at.values()), "too near a kink"
        f = {k: objective.value(t) for k, t in at.items()}
        stencil = (f[-2] - 8 * f[-1] + 8 * f[1] - f[2]) / (12 * h)
        _, gradient = objective.value_and_gradient(theta)
        # the stencil's own rounding is some eps * f / h
        assert abs(float(gradient @ v) - stencil) <= 10 * 2.3e-16 * objective.value(theta) / h


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_weights_of_one_change_no_bit(batch_size):
    plain, theta = problem(n_images=7, batch_size=batch_size)
    ones, _ = problem(n_images=7, batch_size=batch_size, sample_weight=torch.ones(7, dtype=torch.float64))
    first, second = plain.evaluate(theta), ones.evaluate(theta)
    assert (first.value, first.accuracy) == (second.value, second.accuracy)
    assert torch.equal(first.gradient, second.gradient)


@each_loss
def test_weights(loss):
    weight = torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64)
    objective, theta = problem(loss=loss, sample_weight=weight, batch_size=2)
    assert_equals(objective.value_and_gradient(theta), expected(objective, theta, weight=weight))
    some = np.array([2, 0])
    reference = expected(objective, theta, torch.from_numpy(some), weight=weight[some])
    assert_equals(objective.value_and_gradient(theta, some), reference)


@each_loss
def test_integer_weights_equal_repetition(loss):
    repeats = torch.tensor([2, 0, 3])
    weighted, theta = problem(loss=loss, sample_weight=repeats.double(), batch_size=2)
    images, labels = (x.repeat_interleave(repeats, 0) for x in (weighted.images, weighted.labels))
    repeated = Objective(CASE.network, images, labels, loss=loss, C=C)
    assert_equals(weighted.value_and_gradient(theta), repeated.value_and_gradient(theta))
    dense.assert_close(weighted.evaluate(theta).accuracy, repeated.evaluate(theta).accuracy)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_bound_stops_exactly_above(batch_size, gradient):
    objective, theta = problem(n_images=7, batch_size=batch_size)
    evaluate = partial(objective.evaluate, theta, gradient=gradient)
    free = evaluate()
    at = evaluate(bound=free.value)
    assert (at.value, at.accuracy) == (free.value, free.accuracy)
    assert at.gradient is None if not gradient else torch.equal(at.gradient, free.gradient)
    below = evaluate(bound=math.nextafter(free.value, 0))
    assert below.value == math.inf
    assert below.gradient is None
    assert math.isnan(below.accuracy)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_bound_stops_at_the_first_batch_that_exceeds_it(share):
    objective, theta = problem(n_images=7, batch_size=1)
    norm = float(theta @ theta) / (2 * C)
    losses = dense.loss_value(
        "squared", dense.forward(CASE.network, theta, objective.images), objective.labels
    )
    bound = norm + share * (objective.value(theta) - norm)
    needed = int((norm + losses.cumsum(0) / 7 <= bound).sum()) + 1
    assert needed < 7 or share == 0.9
    before = objective.passes.forward
    assert objective.evaluate(theta, bound=bound).value == math.inf
    assert objective.passes.forward - before == needed


def test_not_finite_outputs():
    objective, theta = problem(n_images=4, batch_size=2)
    theta[-1] = math.nan
    for bound in (math.inf, 1.0):
        result = objective.evaluate(theta, bound=bound)
        assert not math.isfinite(result.value)
        assert result.gradient is None
    theta[-1] = 1e300
    assert objective.evaluate(theta, bound=1.0).value == math.inf


def test_passes_count_images():
    objective, theta = problem(n_images=7, batch_size=3)
    objective.value(theta)
    assert (objective.passes.forward, objective.passes.backward) == (7, 0)
    objective.value_and_gradient(theta)
    assert (objective.passes.forward, objective.passes.backward) == (14, 7)
    objective.value_and_gradient(theta, np.array([1, 2]))
    assert (objective.passes.forward, objective.passes.backward) == (16, 9)


def test_accuracy_is_the_share_of_right_labels():
    objective, theta = problem(n_images=7, batch_size=2)
    z = dense.forward(CASE.network, theta, objective.images)
    labels = z.argmax(1)
    assert replace(objective, labels=labels).evaluate(theta).accuracy == 1
    labels[:2] = (labels[:2] + 1) % 3
    assert replace(objective, labels=labels).evaluate(theta).accuracy == 5 / 7


@pytest.mark.parametrize("kind", ["uint8 array", "float32 tensor", "file"])
def test_images_of_any_kind(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 9, (5, *CASE.network.input_shape), dtype=np.uint8)
    images = pixels
    if kind == "float32 tensor":
        images = torch.from_numpy(pixels).float()
    elif kind == "file":
        np.save(tmp_path / "images.npy", pixels)
        images = np.load(tmp_path / "images.npy", mmap_mode="r")
    labels = torch.tensor([0, 1, 2, 0, 1])
    theta = CASE.network.init(0, torch.float64)
    objective = Objective(CASE.network, images, labels, C=C, batch_size=2)
    plain = Objective(CASE.network, torch.from_numpy(pixels).double(), labels, C=C, batch_size=2)
    for indices in (None, np.array([4, 1, 2])):
        value, gradient = objective.value_and_gradient(theta, indices)
        assert value == plain.value(theta, indices)
        assert torch.equal(gradient, plain.value_and_gradient(theta, indices)[1])


@each_loss
def test_float32_is_near_float64(loss):
    objective, theta = problem(n_images=7, loss=loss)
    value, gradient = objective.value_and_gradient(theta.float())
    exact_value, exact_gradient = objective.value_and_gradient(theta)
    assert math.isclose(value, exact_value, rel_tol=1e-6)
    dense.assert_close(gradient, exact_gradient.float(), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(3, 8, 8, 1)}, r"images must be of shape .*got \(3, 8, 8, 1\)"),
        ({"labels": torch.zeros(2)}, r"labels must be of shape \(3,\); got \(2,\)"),
        ({"images": torch.zeros(0, 8, 8, 2), "labels": torch.zeros(0)}, "there are no images"),
        ({"C": 0.0}, "C must be positive; got 0.0"),
        ({"C": math.nan}, "C must be positive; got nan"),
        ({"loss": "hinge"}, "no loss 'hinge'"),
    ],
    ids=["image shape", "label shape", "no images", "C = 0", "C = nan", "loss"],
)
def test_errors(change, message):
    arguments = {"network": CASE.network, "images": torch.zeros(3, 8, 8, 2), "labels": torch.zeros(3)}
    with pytest.raises(ValueError, match=message):
        Objective(**(arguments | change))

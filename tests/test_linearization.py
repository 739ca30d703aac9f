import dense
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import BY_NAME, Case, each_case

from hfcnn import Conv, Dense, Linearization, Network


def functional(case, images):
    return lambda theta: dense.forward(case.network, theta, images)


def directions(case, generator):
    v = torch.randn(case.network.n_parameters, generator=generator, dtype=torch.float64)
    q = torch.randn(case.n_images, case.network.n_outputs, generator=generator, dtype=torch.float64)
    return v, q


@each_case
def test_outputs_equal_torch(case):
    theta, images, _ = case.draw()
    outputs = Linearization(case.network, theta, images).outputs
    dense.assert_close(outputs, dense.forward(case.network, theta, images))


@each_case
def test_jvp_equals_forward_mode(case, generator):
    theta, images, _ = case.draw()
    v, _ = directions(case, generator)
    _, expected = torch.func.jvp(functional(case, images), (theta,), (v,))
    dense.assert_close(Linearization(case.network, theta, images).jvp(v), expected)


@each_case
def test_vjp_equals_reverse_mode(case, generator):
    theta, images, _ = case.draw()
    _, q = directions(case, generator)
    _, vjp = torch.func.vjp(functional(case, images), theta)
    dense.assert_close(Linearization(case.network, theta, images).vjp(q), vjp(q)[0])


@each_case
def test_adjoint_identity(case, generator):
    theta, images, _ = case.draw()
    v, q = directions(case, generator)
    linear = Linearization(case.network, theta, images)
    # against the sum of absolute products, which bounds the rounding of either side
    scale = (q * linear.jvp(v)).abs().sum() + (linear.vjp(q) * v).abs().sum()
    assert ((q * linear.jvp(v)).sum() - linear.vjp(q) @ v).abs() <= 1e-12 * scale


def test_products_leave_the_linearisation_as_it_was(generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v, q = directions(case, generator)
    before = [x.clone() for x in (theta, images, v, q)]
    linear = Linearization(case.network, theta, images)
    first = linear.jvp(v), linear.vjp(q)
    assert torch.equal(linear.jvp(v), first[0])
    assert torch.equal(linear.vjp(q), first[1])
    for was, now in zip(before, (theta, images, v, q), strict=True):
        assert torch.equal(was, now)


def test_jvp_is_the_directional_derivative_by_a_five_point_stencil(generator):
    case = BY_NAME["hidden-dense"]
    theta, images, _ = case.draw()
    v, _ = directions(case, generator)
    h = 1e-4
    at = {k: Linearization(case.network, theta + k * h * v, images).outputs for k in (-2, -1, 1, 2)}
    stencil = (at[-2] - 8 * at[-1] + 8 * at[1] - at[2]) / (12 * h)
    dense.assert_close(Linearization(case.network, theta, images).jvp(v), stencil, rtol=1e-9)


def test_all_relus_off_leave_the_output_bias_only(generator):
    case = BY_NAME["relu-off"]
    theta, images, _ = case.draw()
    linear = Linearization(case.network, theta, images)
    output_bias = case.network.parameters(theta)[-1].bias
    assert torch.equal(linear.outputs, output_bias.expand_as(linear.outputs))
    v, q = directions(case, generator)
    assert torch.equal(linear.jvp(v), case.network.parameters(v)[-1].bias.expand_as(linear.outputs))
    gradient = linear.vjp(q)
    assert not gradient[:-3].any()
    dense.assert_close(gradient[-3:], q.sum(0))


def test_float32_follows_theta(generator):
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    v, q = directions(case, generator)
    linear = Linearization(case.network, theta.float(), images.float())
    exact = Linearization(case.network, theta, images)
    dense.assert_close(linear.outputs, exact.outputs.float(), rtol=1e-5)
    dense.assert_close(linear.jvp(v.float()), exact.jvp(v).float(), rtol=1e-5)
    dense.assert_close(linear.vjp(q.float()), exact.vjp(q).float(), rtol=1e-5)


def test_vector_of_another_length_is_an_error():
    case = BY_NAME["two-layers"]
    theta, images, _ = case.draw()
    n = case.network.n_parameters
    with pytest.raises(ValueError, match=rf"expected a vector of shape \({n},\), got \({n + 1},\)"):
        Linearization(case.network, theta, images).jvp(torch.zeros(n + 1, dtype=torch.float64))


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
convs = st.builds(
    Conv,
    filters=st.integers(1, 3),
    kernel=pairs,
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    pool=pairs,
)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    layers=st.lists(convs, min_size=1, max_size=2),
    dense_units=st.lists(st.integers(1, 3), max_size=1),
    input_shape=st.tuples(st.integers(2, 8), st.integers(2, 8), st.integers(1, 2)),
    n_images=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_drawn_networks(layers, dense_units, input_shape, n_images, seed):
    try:
        network = Network([*layers, *map(Dense, dense_units)], input_shape, 2)
    except ValueError as error:
        assume("shrinks the image to nothing" not in str(error))
        raise
    case = Case("drawn", network, n_images)
    theta, images, _ = case.draw(seed)
    v, q = directions(case, torch.Generator().manual_seed(seed))
    linear = Linearization(network, theta, images)
    outputs, tangent = torch.func.jvp(functional(case, images), (theta,), (v,))
    _, vjp = torch.func.vjp(functional(case, images), theta)
    dense.assert_close(linear.outputs, outputs)
    dense.assert_close(linear.jvp(v), tangent)
    dense.assert_close(linear.vjp(q), vjp(q)[0])

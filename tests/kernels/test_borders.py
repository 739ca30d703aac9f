"""Images with a border of zeros, and weights at any offset: what kernels choose and nobody else sees."""

import pytest
import torch

from hfcnn import Conv, Dense, Network, ops
from hfcnn.backend import get_backend
from hfcnn.cost import linearization_bytes, stored_jacobian_bytes
from hfcnn.linearization import Linearization
from hfcnn.stored_jacobian import StoredJacobian

BORDERED = (
    "three-channels",
    "stride-2",
    "pool-3-remainder",
    "rectangular",
    "many-small-images",
    "channels-48",
)


def outside(images):
    """Elements around the images, and of the channels that only fill up."""
    whole = images.whole.clone()
    inside = type(images).within(whole, tuple(images.shape))
    inside.zero_()
    return whole


@pytest.mark.parametrize("name", BORDERED)
def test_what_a_convolution_reads_has_zeros_around(name, odd, kernels):
    p = odd(name)
    z_next, _ = kernels.conv_forward(p.z, p.w, p.b, p.layer)
    value = kernels.conv_value(p.z, p.w, p.b, p.layer)
    z_dot = kernels.conv_jvp(p.z, p.z_dot, p.w, p.v, p.v_bias, p.code, p.layer)
    rows, columns = p.layer.border
    height, width, filters = p.layer.output_shape
    for images in (z_next, value, z_dot):
        assert images.shape == (len(p.z), height, width, filters)
        assert images.whole.shape[1:3] == (height + 2 * rows, width + 2 * columns)
        assert images.whole.shape[3] % 4 == 0 and images.whole.shape[3] - filters < 4
        assert images.any() and not outside(images).any()


def test_layers_hand_each_other_what_they_want(kernels, check):
    network = Network([Conv(5, 3, pool=2), Conv(6, (3, 2), padding=(2, 0)), Dense(3)], (9, 8, 2), 2)
    first, second, _, _ = network.layers
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 9, 8, 2, generator=generator)
    theta = network.init(0)
    (w, b), (w2, b2), *_ = network.parameters(theta)
    between, _ = kernels.conv_forward(z, w, b, first)
    assert tuple(between.whole.shape) == (3, 8, 4, 8)
    plain = between + 0
    assert type(plain) is torch.Tensor and not hasattr(plain, "whole")
    out, code = kernels.conv_forward(between, w2, b2, second)
    same, same_code = kernels.conv_forward(plain, w2, b2, second)
    assert type(out) is torch.Tensor and out.is_contiguous()
    assert torch.equal(out, same) and torch.equal(code, same_code)
    jvp = kernels.conv_jvp(between, between, w2, w2, b2, code, second)
    assert torch.equal(jvp, kernels.conv_jvp(plain, plain, w2, w2, b2, code, second))
    g = torch.randn(out.shape, generator=generator)
    for ours, others in zip(
        kernels.conv_vjp_weight(g, between, code, second),
        kernels.conv_vjp_weight(g, plain, code, second),
        strict=True,
    ):
        assert torch.equal(ours, others)
    expected = ops.conv_value(ops.conv_value(z, w, b, first), w2, b2, second)
    check("two layers", out, expected.double(), torch.float32)


def test_images_of_a_batch_keep_their_border(odd, kernels):
    p = odd("many-small-images")
    z_next, _ = kernels.conv_forward(p.z, p.w, p.b, p.layer)
    some = z_next.view(70, *p.layer.output_shape)[3:9]
    assert tuple(some.whole.shape) == (6, 3, 3, 4) and not outside(some).any()
    assert torch.equal(some, z_next.contiguous()[3:9])
    assert not hasattr(z_next[0], "whole") and not hasattr(z_next.view(70, 1, *p.layer.output_shape), "whole")


def test_a_border_of_another_size_is_copied(odd, kernels):
    p = odd("channels-48")
    expected = kernels.conv_value(p.z, p.w, p.b, p.layer)
    whole = torch.zeros(2, 8, 9, 48)
    z = kernels.borders.Bordered.within(whole, tuple(p.z.shape)).copy_(p.z)
    assert torch.equal(kernels.conv_value(z, p.w, p.b, p.layer), expected)


def test_a_view_into_any_array_is_no_border(odd, kernels):
    p = odd("channels-48")
    whole = torch.randn(2, 6, 7, 48)
    with pytest.raises(ValueError, match="z must be contiguous"):
        kernels.conv_value(whole[:, 1:5, 1:6], p.w, p.b, p.layer)


@pytest.mark.parametrize("name", ["channels-48", "three-channels", "channels-40"])
def test_weights_at_an_odd_offset(name, odd, kernels):
    p = odd(name)

    def moved(w):
        theta = torch.zeros(w.numel() + 1)
        theta[1:] = w.flatten()
        return theta[1:].view(w.shape)

    jvp = kernels.conv_jvp(p.z, p.z_dot, p.w, p.v, p.v_bias, p.code, p.layer)
    assert torch.equal(kernels.conv_jvp(p.z, p.z_dot, moved(p.w), moved(p.v), p.v_bias, p.code, p.layer), jvp)
    g_input = kernels.conv_vjp_input(p.g, p.w, p.code, p.layer)
    assert torch.equal(kernels.conv_vjp_input(p.g, moved(p.w), p.code, p.layer), g_input)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("filters", [(5, 4, 7), (8, 6, 3)])
def test_bytes_are_those_that_the_allocator_gave(filters, precision):
    """Borders, filled channels and codes: what a linearisation keeps of each image, and no more."""
    first, second, third = filters
    specs = [Conv(first, 5, pool=2), Conv(second, 3, padding=0), Conv(third, 3, pool=2), Dense(6)]
    network, n_images = Network(specs, (13, 11, 3), 4), 3
    backend = get_backend("triton", "cuda" if torch.cuda.is_available() else "cpu", precision)
    theta = network.init(0).to(backend.device, backend.product_dtype(torch.float32))
    images = torch.rand(n_images, *network.input_shape).to(theta)
    for kind, count in ((Linearization, linearization_bytes), (StoredJacobian, stored_jacobian_bytes)):
        kept = kind(network, theta, images, backend.product_ops)
        kept.jvp(theta)
        arrays = [kept.outputs, *kept.inputs, *kept.selections]
        arrays += [*kept.rows, *kept.blocks] if kind is StoredJacobian else []
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in arrays if x is not None
        }
        assert sum(storages.values()) == n_images * count(network, theta.itemsize, "triton")
        assert count(network, theta.itemsize, "triton") != count(network, theta.itemsize)

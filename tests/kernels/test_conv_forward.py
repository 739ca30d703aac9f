import torch

from hfcnn import ops


def test_forward(p, tiles, kernels, check):
    z_next, code = kernels.conv_forward(p.z, p.w, p.b, p.layer, precision="ieee")
    check("z_next", z_next, p.z_next, p.dtype)
    assert code.dtype == torch.uint8
    assert torch.equal(code, p.code)
    value = kernels.conv_value(p.z, p.w, p.b, p.layer, precision="ieee")
    assert torch.equal(value, z_next)


def test_relu_off_is_code_255(kernels, odd):
    p = odd("relu-off")
    z_next, code = kernels.conv_forward(p.z, p.w, p.b, p.layer)
    assert not z_next.any()
    assert (code == ops.RELU_OFF).all()


def test_first_position_wins_ties(kernels, odd):
    p = odd("ties-everywhere")
    _, code = kernels.conv_forward(p.z, p.w, p.b, p.layer)
    assert set(code.unique().tolist()) == {0, ops.RELU_OFF}


def test_nan_is_not_dropped(kernels, odd):
    p = odd("three-channels")
    p.z[0, 2, 2, 0] = float("nan")
    expected, _ = ops.conv_forward(p.z, p.w, p.b, p.layer)
    z_next, _ = kernels.conv_forward(p.z, p.w, p.b, p.layer)
    assert expected.isnan().any()
    assert torch.equal(z_next.isnan(), expected.isnan())


def test_every_precision_is_near(kernels, odd, check):
    p = odd("channels-48")
    for precision, tolerance in (("tf32", 5e-3), ("tf32x3", 1e-5), ("ieee", 1e-5)):
        z_next, _ = kernels.conv_forward(p.z, p.w, p.b, p.layer, precision=precision)
        check(precision, z_next, p.z_next, p.dtype, tolerance)


def test_no_images(kernels, odd):
    p = odd("three-channels")
    z_next, code = kernels.conv_forward(p.z[:0], p.w, p.b, p.layer)
    assert z_next.shape == code.shape == (0, *p.layer.output_shape)

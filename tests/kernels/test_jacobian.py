import pytest
import torch

from hfcnn import ops


def test_jvp(p, tiles, kernels, check):
    x = p.exact
    expected = ops.jacobian_jvp(x.z, x.D, x.v, x.v_bias, p.code.cpu(), p.layer)
    actual = kernels.jacobian_jvp(p.z, p.D, p.v, p.v_bias, p.code, p.layer, precision="ieee")
    check("(N, K)", actual, expected, p.dtype)


def test_vjp(p, tiles, kernels, check):
    x = p.exact
    expected = ops.jacobian_vjp(x.z, x.D, x.q, p.code.cpu(), p.layer)
    actual = kernels.jacobian_vjp(p.z, p.D, p.q, p.code, p.layer, precision="ieee")
    for name, a, e in zip(("g_weight", "g_bias"), actual, expected, strict=True):
        check(name, a, e, p.dtype)


@pytest.mark.parametrize("name", ["three-channels", "stride-2", "channels-over-a-block"])
def test_adjoint_identity(name, odd, kernels):
    p = odd(name, torch.float64)
    forward = (p.q * kernels.jacobian_jvp(p.z, p.D, p.v, p.v_bias, p.code, p.layer)).sum()
    g_weight, g_bias = kernels.jacobian_vjp(p.z, p.D, p.q, p.code, p.layer)
    torch.testing.assert_close(
        forward, (g_weight * p.v).sum() + (g_bias * p.v_bias).sum(), rtol=1e-12, atol=1e-12
    )


def test_same_bits_again(odd, kernels):
    p = odd("many-small-images")
    for op, v in (("jacobian_jvp", (p.v, p.v_bias)), ("jacobian_vjp", (p.q,))):
        once, again = (getattr(kernels, op)(p.z, p.D, *v, p.code, p.layer) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_no_images(odd, kernels):
    p = odd("three-channels")
    none = p.z[:0], p.D[:0]
    assert kernels.jacobian_jvp(*none, p.v, p.v_bias, p.code[:0], p.layer).shape == (0, p.D.shape[1])
    g_weight, g_bias = kernels.jacobian_vjp(*none, p.q[:0], p.code[:0], p.layer)
    assert not g_weight.any() and not g_bias.any()

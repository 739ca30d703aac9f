"""Every op against its torch twin at shapes that hypothesis draws."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfcnn import ops
from hfcnn.network import ConvLayer

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def layers(draw):
    kernel, stride, pool = draw(PAIRS), draw(PAIRS), draw(PAIRS)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    least = [
        max(1, (r - 1) * s + k - 2 * p) for k, s, r, p in zip(kernel, stride, pool, padding, strict=True)
    ]
    height, width = (n + draw(st.integers(0, 4)) for n in least)
    channels, filters = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    return ConvLayer(height, width, channels, filters, kernel, stride, padding, pool)


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(layer=layers(), n_images=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_every_op(kernels, draw_problem, check, layer, n_images, seed):
    p = draw_problem(layer, n_images, "random", torch.float64, seed)
    code = p.code.cpu()
    x = p.exact
    calls = {
        "conv_value": (("z", "w", "b"), ops.conv_value(x.z, x.w, x.b, layer)),
        "conv_jvp": (
            ("z", "z_dot", "w", "v", "v_bias", "code"),
            ops.conv_jvp(x.z, x.z_dot, x.w, x.v, x.v_bias, code, layer),
        ),
        "conv_vjp_input": (("rows", "w", "code"), ops.conv_vjp_input(x.rows, x.w, code, layer)),
        "conv_vjp": (("g", "z", "w", "code"), ops.conv_vjp(x.g, x.z, x.w, code, layer)),
        "jacobian_jvp": (
            ("z", "D", "v", "v_bias", "code"),
            ops.jacobian_jvp(x.z, x.D, x.v, x.v_bias, code, layer),
        ),
        "jacobian_vjp": (("z", "D", "q", "code"), ops.jacobian_vjp(x.z, x.D, x.q, code, layer)),
    }
    for op, (names, expected) in calls.items():
        actual = getattr(kernels, op)(*(getattr(p, name) for name in names), layer)
        if isinstance(expected, torch.Tensor):
            actual, expected = (actual,), (expected,)
        for number, (a, e) in enumerate(zip(actual, expected, strict=True)):
            check(f"{op}[{number}]", a, e, p.dtype)
    z_next, selection = kernels.conv_forward(p.z, p.w, p.b, layer)
    check("z_next", z_next, p.z_next, p.dtype)
    assert torch.equal(selection, p.code)

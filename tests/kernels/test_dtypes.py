import pytest
import torch

from hfcnn import ops

OPS = {
    "conv_value": ("z", "w", "b"),
    "conv_jvp": ("z", "z_dot", "w", "v", "v_bias", "code"),
    "conv_vjp_input": ("g", "w", "code"),
    "conv_vjp_weight": ("g", "z", "code"),
    "jacobian_jvp": ("z", "D", "v", "v_bias", "code"),
    "jacobian_vjp": ("z", "D", "q", "code"),
}


def compare(op, p, kernels, check, tolerance):
    names = OPS[op]
    exact = {**vars(p.exact), "code": p.code.cpu()}
    actual = getattr(kernels, op)(*(getattr(p, name) for name in names), p.layer)
    expected = getattr(ops, op)(*(exact[name] for name in names), p.layer)
    if isinstance(expected, torch.Tensor):
        actual, expected = (actual,), (expected,)
    for a, e in zip(actual, expected, strict=True):
        check(op, a, e, p.dtype, tolerance)


@pytest.mark.parametrize("op", OPS)
def test_bfloat16_accumulates_in_float32(op, odd, kernels, check):
    """The result is rounded to bfloat16, and g = sum_k q_k D_k where a kernel writes it."""
    compare(op, odd("one-image", torch.bfloat16), kernels, check, 1e-2)


@pytest.mark.parametrize("op", OPS)
def test_float64_without_a_dot(op, odd, kernels, check, monkeypatch):
    """Before Triton 3.9 some kernels' `tl.dot` of float64 do not compile: they multiply and sum."""
    from hfcnn.kernels import launch, tiles

    monkeypatch.setattr(tiles, "HAS_FLOAT64_DOT", False)
    monkeypatch.setattr(launch, "current_target", lambda tensor: launch.TARGETS["sm_90"])
    launch._launches.cache_clear()
    try:
        compare(op, odd("three-channels", torch.float64), kernels, check, 1e-12)
        compare(op, odd("one-image", torch.float64), kernels, check, 1e-12)
    finally:
        launch._launches.cache_clear()

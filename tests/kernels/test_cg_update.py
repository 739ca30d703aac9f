import sys

import pytest
import torch

from hfcnn import ops


def draw_vectors(n, dtype, device):
    g = torch.Generator().manual_seed(n)
    x, r, p, noise = (torch.randn(n, generator=g, dtype=torch.float64).to(dtype) for _ in range(4))
    Ap = 2 * p + 0.1 * noise
    return [t.to(device) for t in (x, r, p, Ap, r @ r)]


@pytest.mark.parametrize("n", [1, 7, 1024, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_update(n, dtype, kernels, check, device):
    actual = draw_vectors(n, dtype, device)
    expected = [t.cpu().double().clone() for t in actual]
    scalars = zip(kernels.cg_update(*actual), ops.cg_update(*expected), strict=True)
    for name, (a, e) in zip(("rr_next", "curvature"), scalars, strict=True):
        check(name, a, e, dtype)
    for name, a, e in zip("xrp", actual, expected, strict=False):
        check(name, a, e, dtype)


def test_programs_that_take_several_blocks(kernels, monkeypatch, check, device):
    module = sys.modules["hfcnn.kernels.cg_update"]
    monkeypatch.setattr(module, "MOST_PROGRAMS", 3)
    actual = draw_vectors(9001, torch.float32, device)
    expected = [t.cpu().double().clone() for t in actual]
    rr_next, curvature = kernels.cg_update(*actual)
    for name, a, e in zip(
        ("rr_next", "curvature", "x", "r", "p"),
        (rr_next, curvature, *actual[:3]),
        (*ops.cg_update(*expected), *expected[:3]),
        strict=True,
    ):
        check(name, a, e, torch.float32)


def test_same_bits_again(kernels, device):
    once, again = (draw_vectors(5000, torch.float32, device) for _ in range(2))
    scalars = kernels.cg_update(*once), kernels.cg_update(*again)
    assert all(torch.equal(a, b) for a, b in zip(*scalars, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_named_error(kernels, device):
    x, r, p, Ap, rr = draw_vectors(7, torch.float32, device)
    with pytest.raises(ValueError, match="Ap must be of shape"):
        kernels.cg_update(x, r, p, Ap[:3], rr)

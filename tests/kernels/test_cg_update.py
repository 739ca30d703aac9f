import sys

import pytest
import torch

from hfcnn import ops


def draw_vectors(n, dtype, device):
    g = torch.Generator().manual_seed(n)
    x, r, p, noise = (torch.randn(n, generator=g, dtype=torch.float64).to(dtype) for _ in range(4))
    Ap = 2 * p + 0.1 * noise
    return [t.to(device) for t in (x, r, p, Ap, torch.stack((r @ r, torch.tensor(0.0).to(r))))]


NAMES = ("x", "r", "p", "Ap", "status")


@pytest.mark.parametrize("n", [1, 7, 1024, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_update(n, dtype, kernels, check, device):
    actual = draw_vectors(n, dtype, device)
    expected = [t.cpu().double().clone() for t in actual]
    kernels.cg_update(*actual)
    ops.cg_update(*expected)
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        check(name, a, e, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_was_before_is_kept(dtype, kernels, device):
    for op in (kernels.cg_update, ops.cg_update):
        x, r, p, Ap, status = draw_vectors(2001, dtype, device)
        before, kept = torch.stack((x, r)), torch.full((2, 2001), torch.nan, dtype=dtype, device=device)
        op(x, r, p, Ap, status, kept)
        assert torch.equal(kept, before) and not torch.equal(kept[0], x)
        alone = draw_vectors(2001, dtype, device)
        op(*alone)
        assert all(torch.equal(a, b) for a, b in zip(alone, (x, r, p, Ap, status), strict=True))


def test_programs_that_take_several_blocks(kernels, monkeypatch, check, device):
    module = sys.modules["hfcnn.kernels.cg_update"]
    monkeypatch.setattr(module, "MOST_PROGRAMS", 3)
    actual = draw_vectors(9001, torch.float32, device)
    expected = [t.cpu().double().clone() for t in actual]
    kernels.cg_update(*actual)
    ops.cg_update(*expected)
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        check(name, a, e, torch.float32)


def test_same_bits_again(kernels, device):
    once, again = (draw_vectors(5000, torch.float32, device) for _ in range(2))
    kernels.cg_update(*once)
    kernels.cg_update(*again)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_named_error(kernels, device):
    x, r, p, Ap, status = draw_vectors(7, torch.float32, device)
    with pytest.raises(ValueError, match="Ap must be of shape"):
        kernels.cg_update(x, r, p, Ap[:3], status)

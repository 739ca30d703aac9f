"""Launches of a Gauss-Newton product and of a CG step: kernels of ours, and what torch runs beside them."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hfcnn.backend import get_backend
from hfcnn.conjugate_gradient import conjugate_gradient
from hfcnn.gauss_newton import GaussNewton
from hfcnn.network import Network

#: What launches nothing: views, allocations (which this folder's tests fill), and what only reads a shape.
FREE = {
    *("view", "slice", "select", "expand", "t", "transpose", "permute", "unsqueeze", "squeeze", "unbind"),
    *("as_strided", "alias", "detach", "empty", "new_empty", "empty_like", "empty_strided", "_unsafe_view"),
    *(
        "fill_",
        "zero_",
        "split",
        "split_with_sizes",
        "_reshape_alias",
        "reshape",
        "lift_fresh",
        "is_same_size",
    ),
}


class Operations(TorchDispatchMode):
    """Counts torch's operations that launch something."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        if name not in FREE:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


class Stop(Exception):
    pass


@pytest.fixture
def counted(monkeypatch, kernels):
    """Counts our launches, none of which then runs; codes that one would write are made valid."""
    counts = Counter()

    def run(self, *arguments):
        counts.update([self.kernel.__name__])
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.dtype == torch.uint8:
                argument.zero_()

    monkeypatch.setattr(kernels.launch.Launch, "run", run)
    return counts


def count_step(network, form, counted):
    """Launches of a product, and of a CG step around it: ours, torch's."""
    backend = get_backend("triton", "cpu", "tf32")
    theta = network.init(0)
    images = torch.zeros(4, *network.input_shape)
    matrix = GaussNewton(network, theta, images, form=form, backend=backend)
    v = torch.randn_like(theta)
    matrix.matvec(v)  # the first brings weights into the form that all then read
    counted.clear()
    with Operations() as product:
        matrix.matvec(v)
    ours, found = sum(counted.values()), []

    def capture(step):
        def run():
            counted.clear()
            with Operations() as operations:
                step()
            found.append((sum(counted.values()), operations.counts))
            raise Stop

        return run

    with pytest.raises(Stop):
        conjugate_gradient(matrix.matvec, v, tol=0.0, update=backend.product_ops.cg_update, capture=capture)
    return (ours, product.counts), found[0]


#: Most launches of a product and of a CG step, ours and torch's: what they are now. Fewer is better.
MOST = {
    ("cnn3", "rop"): ((12, 8), (15, 8)),
    ("cnn3", "jacobian"): ((10, 11), (13, 11)),
    ("cnn5", "rop"): ((20, 8), (23, 8)),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts without running")
@pytest.mark.parametrize(("preset", "form"), MOST)
def test_launches_of_a_product_and_of_a_cg_step(preset, form, counted):
    network = Network.preset(preset, (32, 32, 3), 10)
    parts = zip(count_step(network, form, counted), MOST[preset, form], ("product", "step"), strict=True)
    for (ours, torchs), (most_ours, most_torchs), what in parts:
        # at the least each convolution has its products, and CG its three kernels
        assert len(network.layers) - 1 < ours <= most_ours, what
        assert sum(torchs.values()) <= most_torchs, (what, torchs)

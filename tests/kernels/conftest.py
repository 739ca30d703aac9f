import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hfcnn import Network, ops
from hfcnn.network import ConvLayer

IS_INTERPRETED = not torch.cuda.is_available()
if IS_INTERPRETED:
    os.environ.setdefault("TRITON_INTERPRET", "1")
DEVICE = "cpu" if IS_INTERPRETED else "cuda"
ROWS = 3
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def _layer(
    height, width, channels, filters, kernel=(3, 3), stride=(1, 1), padding=(1, 1), pool=(1, 1), border=None
):
    return ConvLayer(height, width, channels, filters, kernel, stride, padding, pool, border)


#: name: layer, images, kind. Kinds as in `networks.Case`.
ODD = {
    "one-channel": (_layer(6, 6, 1, 1, pool=(2, 2)), 3, "random"),
    "three-channels": (_layer(7, 5, 3, 5, pool=(2, 2), border=(1, 1)), 2, "random"),
    "stride-2": (_layer(9, 8, 3, 5, stride=(2, 2), pool=(2, 2), border=(2, 0)), 2, "random"),
    "stride-over-kernel": (_layer(10, 9, 2, 3, (2, 2), (3, 3), (0, 0)), 2, "random"),
    "stride-no-pooling": (_layer(6, 7, 16, 5, stride=(2, 1)), 2, "random"),
    "filter-5-no-padding": (_layer(9, 9, 2, 4, (5, 5), padding=(0, 0), pool=(2, 2)), 2, "random"),
    "pool-3-remainder": (_layer(8, 11, 2, 5, pool=(3, 3), border=(1, 2)), 2, "random"),
    "rectangular": (_layer(7, 8, 3, 6, (3, 2), (1, 2), (0, 1), (2, 1), (0, 3)), 2, "random"),
    "wide-padding": (_layer(4, 4, 1, 2, (2, 2), padding=(3, 2)), 2, "random"),
    "one-image": (_layer(5, 5, 16, 16, pool=(2, 2)), 1, "random"),
    "one-pixel": (_layer(1, 1, 2, 3), 5, "random"),
    "many-small-images": (_layer(3, 3, 2, 3, pool=(2, 2), border=(1, 1)), 70, "random"),
    "channels-48": (_layer(4, 5, 48, 20, pool=(2, 2), border=(0, 0)), 2, "random"),
    "channels-40": (_layer(4, 4, 40, 33), 1, "random"),
    "channels-over-a-block": (_layer(3, 2, 130, 140, (1, 2), padding=(0, 0), pool=(2, 1)), 1, "random"),
    "ties-everywhere": (_layer(7, 7, 2, 4, (2, 2), padding=(0, 0), pool=(2, 2)), 2, "ones"),
    "ties-and-zeros": (_layer(8, 9, 2, 4, pool=(2, 2)), 2, "binary"),
    "relu-off": (_layer(6, 6, 2, 3, pool=(2, 2)), 2, "off"),
}


def _preset_layers():
    layers = {}
    for name in ("cnn3", "cnn5"):
        for shape in ((28, 28, 1), (32, 32, 3)):
            for number, layer in enumerate(Network.preset(name, shape, 10).layers):
                if isinstance(layer, ConvLayer):
                    layers.setdefault(layer, f"{name}-{shape[0]}-{number}")
    return {name: (layer, 1, "random") for layer, name in layers.items()}


PRESETS = _preset_layers()


def pytest_collection_modifyitems(items):
    """Leave kernels out of coverage: the interpreter runs them line by line, and so would the tracer."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("no_cover")


@pytest.fixture(autouse=True, scope="session")
def interpreter():
    """Triton's interpreter, also where something imported Triton before this file asked for it.

    It does not check int32 overflow at each addition: that doubles the time, and the shapes are small.
    """
    if not IS_INTERPRETED:
        return
    import triton
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    patch_tensor = interpreter._patch_lang_tensor

    def patch_index_too(tensor, *scope):
        # the interpreter of older Tritons makes an int of an array of one element, which NumPy 2.4 refuses
        patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 9):
        interpreter._patch_lang_tensor = patch_index_too
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    for name, module in list(sys.modules.items()):
        if name.startswith(("triton.language", "hfcnn.kernels")):
            for key, value in list(vars(module).items()):
                if isinstance(value, JITFunction):
                    setattr(module, key, interpreter.InterpretedFunction(value.fn))


@pytest.fixture(scope="session")
def kernels(interpreter):
    import hfcnn.kernels

    return hfcnn.kernels


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """torch.empty filled with NaN, or 254: what a kernel forgets to write shows."""
    empty = torch.empty

    def filled(*size, **keywords):
        out = empty(*size, **keywords)
        return out.fill_(float("nan") if out.is_floating_point() else 254)

    monkeypatch.setattr(torch, "empty", filled)


@pytest.fixture
def tiles(request, monkeypatch, kernels):
    """Tiles of the sm_90 table, which loop over blocks and programs, or the interpreter's large ones."""
    if request.param == "table" and IS_INTERPRETED:
        monkeypatch.setattr(kernels.launch, "current_target", lambda tensor: kernels.TARGETS["sm_90"])
    return request.param


def draw(layer, n_images, kind, dtype, seed=0):
    """A layer's operands in `dtype`, and what `hfcnn.ops` makes of them in float64."""
    g = torch.Generator().manual_seed(seed)

    def random(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype)

    z = random(n_images, *layer.input_shape)
    w, v = (random(*layer.weight_shape, scale=layer.fan_in**-0.5) for _ in range(2))
    b, v_bias = random(layer.filters, scale=0.1), random(layer.filters)
    if kind in ("ones", "binary"):
        w, b = ((4 * x).round() / 4 for x in (w, b))
        z = (z > 0).to(dtype) if kind == "binary" else torch.ones_like(z)
    if kind == "off":
        b.fill_(-100)
    p = SimpleNamespace(layer=layer, dtype=dtype, z=z, w=w, b=b, v=v, v_bias=v_bias)
    p.z_dot, p.q = random(*z.shape), random(n_images, ROWS)
    p.g, p.rows = random(n_images, *layer.output_shape), random(n_images, ROWS, *layer.output_shape)
    p.z_next, selection = ops.conv_forward(z.double(), w.double(), b.double(), layer)
    p.code = ops.encode(selection)
    p.D = p.rows * (p.z_next > 0).to(dtype).unsqueeze(1)
    names = ("z", "w", "b", "v", "v_bias", "z_dot", "q", "g", "rows", "D", "code")
    p.exact = SimpleNamespace(**{name: getattr(p, name).double() for name in names[:-1]})
    for name in names:
        setattr(p, name, getattr(p, name).to(DEVICE))
    return p


def pytest_generate_tests(metafunc):
    """A test that takes `p` runs on every shape: odd ones with both tilings, presets with large tiles.

    Presets are in float32 throughout, and in float64 for one network.
    """
    if "p" in metafunc.fixturenames:
        cases = [
            pytest.param((ODD[name], dtype), tiling, id=f"{name}-{str(dtype)[6:]}-{tiling}")
            for name in ODD
            for dtype, tiling in ((torch.float32, "table"), (torch.float64, "interpreter"))
        ]
        cases += [
            pytest.param((PRESETS[name], dtype), "interpreter", id=f"{name}-{str(dtype)[6:]}")
            for name in PRESETS
            for dtype in (torch.float32, torch.float64)
            if dtype == torch.float32 or name.startswith("cnn3-28")
        ]
        metafunc.parametrize(("p", "tiles"), cases, indirect=True)


@pytest.fixture
def p(request):
    (layer, n_images, kind), dtype = request.param
    return draw(layer, n_images, kind, dtype)


@pytest.fixture
def odd():
    """Draw an odd case's problem: its name and a dtype."""
    return lambda name, dtype=torch.float32, seed=0: draw(*ODD[name], dtype, seed)


@pytest.fixture
def draw_problem():
    return draw


def _check(name, actual, expected, dtype, tolerance=None):
    tolerance = tolerance or TOLERANCES[dtype]
    actual = actual.cpu()
    assert actual.dtype == dtype and actual.shape == expected.shape, name
    error = (actual.double() - expected).abs()
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    rms = (error.square().mean().sqrt() / scale).item() if error.numel() else 0.0
    worst = (error.max() / scale).item() if error.numel() else 0.0
    assert worst <= tolerance, f"{name}: maximum error {worst:.1e}, RMS {rms:.1e}, at {error.argmax().item()}"


@pytest.fixture
def check():
    """Compare a result with float64 truth: largest error over the largest truth."""
    return _check


@pytest.fixture
def device():
    return DEVICE

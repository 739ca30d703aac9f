import importlib.util
import os
import platform
import subprocess
import sys
import textwrap
import types
from dataclasses import replace

import pytest
import torch

from hfcnn import Conv, GaussNewton, Network, Objective, ops
from hfcnn.backend import PRECISIONS, TORCH, Backend, LayerOps, get_backend, tensor_float
from hfcnn.layers import ConvLayer
from hfcnn.objective import outputs


def test_fresh_interpreter_loads_no_kernels_and_wakes_no_gpu():
    code = """
        import sys
        import torch
        before = "triton" in sys.modules
        import hfcnn
        import hfcnn.newton, hfcnn.sgd
        from hfcnn.backend import get_backend
        assert get_backend("torch", "cpu").name == get_backend("auto", "cpu").name == "torch"
        try:
            get_backend("triton", "cpu")
        except ValueError as error:
            print(error)
        assert ("triton" in sys.modules) == before
        assert "hfcnn.kernels" not in sys.modules
        assert not torch.cuda.is_initialized()
    """
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "needs a CUDA or ROCm GPU" in result.stdout


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_triton_without_a_gpu_says_what_to_do(device, monkeypatch):
    if device == "auto" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="needs a CUDA or ROCm GPU.*TRITON_INTERPRET=1") as error:
        get_backend("triton", device)
    assert 'backend="auto"' in str(error.value)


def test_torch_on_the_cpu():
    backend = get_backend("torch", "cpu")
    assert (backend.name, backend.device, backend.precision) == ("torch", torch.device("cpu"), "ieee")
    assert backend.ops.conv_forward is ops.conv_forward
    assert backend == get_backend("auto", "cpu") == TORCH


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("jax",), 'backend must be "auto", "torch" or "triton"; got \'jax\''),
        (("torch", "cpu", "fp8"), f"precision must be one of {', '.join(PRECISIONS)}; got 'fp8'"),
        (
            ("torch", "cpu", "tf32"),
            "precision='tf32' needs backend=\"triton\"; torch has .* device cpu",
        ),
        (("auto", "cpu", "tf32x3"), "precision='tf32x3' needs backend=\"triton\""),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_backend(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
def test_gpu_that_is_not_there(backend):
    with pytest.raises(ValueError, match="device='cuda', but torch sees no GPU; use device=\"cpu\""):
        get_backend(backend, "cuda")


def test_types_of_products():
    narrow = get_backend("torch", "cpu", "bf16")
    assert narrow.product_dtype(torch.float32) == torch.bfloat16
    assert narrow.product_dtype(torch.float64) == torch.float64
    assert TORCH.product_dtype(torch.float32) == torch.float32


@pytest.fixture
def kernels(monkeypatch):
    """A stand-in for the kernels that tells the precision it is called with."""
    names = LayerOps.__dataclass_fields__
    module = types.SimpleNamespace(**{name: lambda *_, precision=None: precision for name in names})
    monkeypatch.setitem(sys.modules, "hfcnn.kernels", module)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return module


@pytest.mark.parametrize(
    ("precision", "objective", "products"),
    [("auto", "tf32x3", "tf32"), ("tf32", "tf32x3", "tf32"), ("tf32x3", "tf32x3", "tf32x3")]
    + [("ieee", "ieee", "ieee")],
)
def test_triton_precision(kernels, precision, objective, products):
    """The objective is never less exact than tf32x3, whatever the products are."""
    backend = get_backend("triton", "cpu", precision)
    assert backend.name == "triton"
    assert backend.ops.conv_forward() == objective
    assert backend.product_ops.conv_jvp() == products
    assert backend.product_dtype(torch.float32) == torch.float32


def test_missing_package_says_what_to_install(monkeypatch):
    def no_triton(name):
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(importlib, "import_module", no_triton)
    with pytest.raises(ValueError, match=r"needs the package 'triton'; .* pip install 'hfcnn\[gpu\]'"):
        get_backend("triton", "cpu")


@pytest.mark.parametrize("is_installed", [True, False])
def test_auto_on_a_gpu_takes_triton_or_says_how_to_get_it(kernels, is_installed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed else None)
    if is_installed:
        assert get_backend().name == "triton"
        return
    with pytest.warns(UserWarning, match=r"not the package triton.*pip install 'hfcnn\[gpu\]'"):
        backend = get_backend()
    assert (backend.name, backend.device.type, backend.precision) == ("torch", "cuda", "ieee")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the threshold is glibc's")
def test_temporaries_come_from_the_heap():
    """What is mapped instead goes back to the system when freed, and is cleared anew."""
    program = """
import sys
import torch
from hfcnn.memory import keep_heap
if sys.argv[1] == "kept":
    keep_heap(torch.device("cpu"))
address = torch.empty(20 * 2**20, dtype=torch.uint8).data_ptr()
heap = next(line for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
start, end = (int(x, 16) for x in heap.split()[0].split("-"))
print(start <= address < end)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}

    def is_in_heap(what):
        command = [sys.executable, "-P", "-c", program, what]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    assert is_in_heap("kept") == "True\n"
    assert is_in_heap("as it is") == "False\n"


def test_average_pooling_is_refused_where_it_has_no_kernels(kernels):
    """Before anything is computed, by whoever computes."""
    network = Network([Conv(2, 3, pool=2, pooling="average")], (4, 4, 1), 2)
    images, labels = torch.zeros(3, 4, 4, 1), torch.zeros(3)
    backend, theta = get_backend("triton", "cpu"), network.init(0)
    message = 'average pooling has no kernels for backend="triton"; use backend="torch"'
    for compute in (
        lambda: Objective(network, images, labels, backend=backend),
        lambda: GaussNewton(network, theta, images, backend=backend),
        lambda: outputs(network, theta, images, backend),
    ):
        with pytest.raises(ValueError, match=message):
            compute()


def tf32_flags():
    """Whether cuDNN and cuBLAS round to TF32, by the interface that all versions of torch have."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("is_on", [False, True])
def test_tensor_float_is_a_scope(is_on):
    before = tf32_flags()
    with pytest.raises(KeyError), tensor_float(is_on):
        assert tf32_flags() == (is_on, is_on)
        with tensor_float(not is_on):
            assert tf32_flags() == (not is_on, not is_on)
        assert tf32_flags() == (is_on, is_on)
        raise KeyError
    assert tf32_flags() == before


def test_tensor_float_beside_torchs_newer_flags():
    """Whoever has set these can no longer read the older ones."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("torch is older than 2.9")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with tensor_float(False):
            assert matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize(("precision", "products"), [("ieee", False), ("auto", False), ("tf32", True)])
def test_torch_on_a_gpu_rounds_only_where_asked(precision, products, monkeypatch):
    """f, its gradient, predictions and products: cuDNN's own default would round in all of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpu = get_backend("torch", "cuda:1", precision)
    assert (gpu.name, gpu.device) == ("torch", torch.device("cuda:1"))
    # computed on the CPU, with the flags that the GPU's device asks for
    backend = replace(gpu, device=torch.device("cpu"))
    monkeypatch.setattr(Backend, "_arithmetic", lambda self, is_tf32: tensor_float(is_tf32))
    seen = {}

    def watched(name):
        original = getattr(ConvLayer, name)

        def method(self, *arguments, **keywords):
            seen.setdefault(name, set()).add(tf32_flags())
            return original(self, *arguments, **keywords)

        return method

    for name in ("value", "forward", "vjp", "jvp", "rows_jvp", "rows_vjp", "input_rows"):
        monkeypatch.setattr(ConvLayer, name, watched(name))
    network = Network([Conv(2, 3, pool=2), Conv(2, 3)], (6, 6, 1), 3)
    theta, images, labels = network.init(0), torch.ones(4, 6, 6, 1), torch.arange(4) % 3
    exact, rounded = (False, False), (products, products)
    objective = Objective(network, images, labels, backend=backend)
    objective.value_and_gradient(theta)
    objective.value(theta)
    outputs(network, theta, images, backend)
    assert seen == {"value": {exact}, "forward": {exact}, "vjp": {exact}}
    seen.clear()
    for form in ("rop", "jacobian"):
        GaussNewton(network, theta, images, form=form, backend=backend) @ theta
    assert set(seen) == {"forward", "vjp", "jvp", "rows_jvp", "rows_vjp", "input_rows"}
    assert all(flags == {rounded} for flags in seen.values())

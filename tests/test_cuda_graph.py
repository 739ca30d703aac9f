"""Captures on a device that only pretends: which stream and device are current at each moment."""

import contextlib

import pytest
import torch

from hfcnn.conjugate_gradient import conjugate_gradient
from hfcnn.cuda_graph import STEPS_BEFORE, graph_capture

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


class Stream:
    def __init__(self, device, name="side"):
        self.device, self.name, self.waits = str(device), name, []

    def wait_stream(self, other):
        self.waits.append(other.name)


class FakeCuda:
    """What `torch.cuda` does with current devices and streams, and graphs that record what is launched.

    `fails` says where: "begin" or "end" of a capture, or the "step" in between.
    """

    def __init__(self, monkeypatch, fails):
        self.index, self.fails = "cuda:0", fails
        self.current = {name: Stream(name, "default") for name in ("cuda:0", "cuda:1")}
        self.captured, self.n_captures = None, 0
        replaced = {"Stream": self.make_stream, "stream": self.use_stream, "device": self.use_device}
        replaced |= {"current_stream": self.current_stream, "CUDAGraph": lambda: Graph(self)}
        for name, value in (replaced | {"synchronize": lambda device: None}).items():
            monkeypatch.setattr(torch.cuda, name, value)

    def make_stream(self, device):
        assert str(device) == self.index, "a stream of another device than the current one"
        return Stream(device)

    def current_stream(self, device=None):
        return self.current[str(device or self.index)]

    @contextlib.contextmanager
    def use_device(self, device):
        before, self.index = self.index, str(device)
        try:
            yield
        finally:
            self.index = before

    @contextlib.contextmanager
    def use_stream(self, stream):
        before, self.current[stream.device] = self.current[stream.device], stream
        try:
            yield
        finally:
            self.current[stream.device] = before

    def launch(self, work):
        """What the launch of a kernel does: it runs, or is captured, on the current stream."""
        assert self.index == "cuda:1", "launched on another device"
        assert self.current_stream().name == "side", "launched on another stream than the capture's"
        if self.captured is None:
            work()
        elif "step" in self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        else:
            self.captured.append(work)


class Graph:
    def __init__(self, cuda):
        self.cuda, self.calls = cuda, []

    def capture_begin(self, capture_error_mode):
        self.cuda.n_captures += 1
        assert self.cuda.index == "cuda:1", "captured on another device"
        assert self.cuda.current_stream().name == "side", "captured on a default stream"
        if "begin" in self.cuda.fails:
            raise RuntimeError("capture_begin failed")
        self.cuda.captured = self.calls

    def capture_end(self):
        self.cuda.captured = None
        if "end" in self.cuda.fails:
            raise RuntimeError("capture_end failed")

    def replay(self):
        assert self.cuda.index == "cuda:1" and self.cuda.current_stream().name == "side"
        for work in self.calls:
            work()


@pytest.fixture
def cuda(monkeypatch):
    return lambda *fails: FakeCuda(monkeypatch, fails)


def solve(cuda, capture, size=12):
    """CG on a matrix whose products are launches."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    matrix, b = root @ root.t() + torch.eye(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    if capture is None:
        return conjugate_gradient(lambda v: matrix @ v, b, tol=1e-10)

    def on_device(step):
        return capture(lambda: cuda.launch(step))

    return conjugate_gradient(lambda v: matrix @ v, b, tol=1e-10, capture=on_device)


def test_graph_capture_is_for_cuda_only():
    assert graph_capture(CPU) is None
    assert graph_capture(CPU, False) is None
    assert graph_capture(GPU, False) is None
    assert graph_capture(GPU) is not None
    with pytest.raises(ValueError, match="needs a CUDA GPU"):
        graph_capture(CPU, True)
    with pytest.raises(ValueError, match="cuda_graph must be"):
        graph_capture(CPU, "yes")


def test_steps_are_captured_on_their_own_device_and_stream(cuda):
    """The current device is another one: a graph that is captured there is empty, and CG silently wrong."""
    fake, plain = cuda(), solve(None, None)
    result = solve(fake, graph_capture(GPU))
    assert torch.equal(result.x, plain.x) and result.n_iterations == plain.n_iterations > STEPS_BEFORE
    assert fake.n_captures == 1
    assert fake.index == "cuda:0" and fake.current_stream(GPU).name == "default"
    assert set(fake.current_stream(GPU).waits) == {"side"}, "the caller reads what the steps wrote"


def test_a_short_run_is_not_captured(cuda):
    fake = cuda()
    step = graph_capture(GPU)(lambda: fake.launch(lambda: None))
    for _ in range(STEPS_BEFORE):
        step()
    assert fake.n_captures == 0
    step()
    assert fake.n_captures == 1


@pytest.mark.parametrize("fails", [("begin",), ("step",), ("end",), ("step", "end")], ids="+".join)
def test_after_a_failed_capture_the_fit_goes_on_without(fails, cuda):
    fake, plain = cuda(*fails), solve(None, None)
    capture = graph_capture(GPU)
    with pytest.warns(RuntimeWarning, match="could not be captured.*cuda_graph=False does not try"):
        result = solve(fake, capture)
    assert torch.equal(result.x, plain.x) and result.n_iterations == plain.n_iterations
    assert fake.index == "cuda:0" and fake.current_stream(GPU).name == "default", "the stream is given back"
    assert capture.is_off
    calls = []
    step = capture(lambda: calls.append(1))
    for _ in range(2 * STEPS_BEFORE):
        step()
    assert len(calls) == 2 * STEPS_BEFORE and fake.n_captures == 1, "no other is tried"


def test_other_errors_of_a_step_are_not_hidden(cuda):
    fake = cuda()

    def broken():
        raise RuntimeError("a kernel is broken")

    with pytest.raises(RuntimeError, match="a kernel is broken"):
        graph_capture(GPU)(broken)()
    assert fake.current_stream(GPU).name == "default"

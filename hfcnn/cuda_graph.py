"""CG steps as CUDA graphs: many small kernels started by one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import torch

__all__ = ["StepCapture", "graph_capture"]

Action: TypeAlias = Callable[[], None]

#: Steps that run as they are before one is captured. To capture waits for the device and costs about as much
#: as some steps, so a short CG is not worth it; and libraries make their workspaces in the first step.
STEPS_BEFORE = 3


def graph_capture(device: torch.device, cuda_graph: bool | str = "auto") -> StepCapture | None:
    """Say how CG steps are captured in CUDA graphs on `device`, for one fit; None is not at all.

    Parameters
    ----------
    device : torch.device
        Where the steps run.
    cuda_graph : bool or "auto", default="auto"
        "auto" captures on a CUDA GPU. What cannot be captured runs as it is.

    Raises
    ------
    ValueError
        If `cuda_graph` is True and the device no CUDA GPU, or it is none of these.
    """
    if cuda_graph not in (True, False, "auto"):
        raise ValueError(f'cuda_graph must be True, False or "auto"; got {cuda_graph!r}')
    if cuda_graph is True and device.type != "cuda":
        raise ValueError(f'cuda_graph=True needs a CUDA GPU, and the device is {device}; use "auto"')
    return StepCapture(device) if cuda_graph and device.type == "cuda" else None


class StepCapture:
    """Turns steps into ones that do the same by a CUDA graph, after the first few.

    All steps of one CG run on a stream of its own, on their own device, whatever the current ones are: so a
    graph is warmed up where it is captured. Once a capture has failed, there is none for the rest of the fit.

    Parameters
    ----------
    device : torch.device
        A CUDA device.

    Attributes
    ----------
    is_off : bool
        A capture has failed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_off = False

    def __call__(self, step: Action) -> Action:
        """Return a step that does what `step` does, and from the fourth time on does it by a graph.

        Parameters
        ----------
        step : callable
            Works in place on buffers that stay where they are, has static shapes and does not wait for the
            device.
        """
        if self.is_off:
            return step
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        n_steps = 0
        replay: Action | None = None

        def run() -> None:
            nonlocal n_steps, replay
            n_steps += 1
            with torch.cuda.device(self.device):
                caller = torch.cuda.current_stream(self.device)
                stream.wait_stream(caller)
                try:
                    with torch.cuda.stream(stream):
                        if n_steps > STEPS_BEFORE and replay is None and not self.is_off:
                            replay = self._capture(step)
                        (replay or step)()
                finally:
                    caller.wait_stream(stream)

        return run

    def _capture(self, step: Action) -> Action | None:
        """Capture a step on the current stream, which is no default one; None where that fails."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                step()
            finally:
                graph.capture_end()
        except RuntimeError as error:  # the step waits for the device, or memory ran out
            self.is_off = True
            warnings.warn(
                "a CG step could not be captured in a CUDA graph, so steps run one kernel at a time: "
                f"{error}; cuda_graph=False does not try",
                RuntimeWarning,
                stacklevel=2,
            )
            return None
        replay: Action = graph.replay
        return replay

"""Conjugate gradient for the Newton direction: (G^S + lambda I) d = -gradient, to (90)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hfcnn.ops import cg_update

__all__ = ["CGResult", "StopReason", "conjugate_gradient"]

StopReason: TypeAlias = Literal[
    "tolerance", "max_iterations", "zero_right_hand_side", "not_positive_definite", "not_finite"
]


@dataclass(frozen=True)
class CGResult:
    """A solution and how it came about.

    Attributes
    ----------
    x : Tensor of shape (n,)
        The solution.
    residual : Tensor of shape (n,)
        b - A x, as CG carries it along.
    n_iterations : int
        Products with A.
    stop : str
        "tolerance", "max_iterations", "zero_right_hand_side", "not_positive_definite" (a direction p with
        p^T A p <= 0 was met; x is the last iterate before it), or "not_finite" (likewise).
    """

    x: Tensor
    residual: Tensor
    n_iterations: int
    stop: StopReason


def conjugate_gradient(
    matvec: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    tol: float = 0.1,
    max_iterations: int = 250,
    update: Callable[..., None] = cg_update,
    capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
) -> CGResult:
    """Solve A x = b for a symmetric positive definite A, from x = 0.

    Parameters
    ----------
    matvec : callable
        v -> A v, for v of shape (n,).
    b : Tensor of shape (n,)
        Right-hand side.
    tol : float, default=0.1
        Stop at ||b - A x|| <= tol ||b|| (90); the paper's value.
    max_iterations : int, default=250
        Most products; the paper's value.
    update : callable, default=hfcnn.ops.cg_update
        Takes one step in place; the Triton backend passes its fused kernel.
    capture : callable or None
        Turns the step into one that does the same faster. A step works in place on buffers that stay where
        they are, has static shapes and does not wait for the device, so that it can become a CUDA graph:
        see `hfcnn.cuda_graph`.

    Returns
    -------
    CGResult
    """
    x, r, p = torch.zeros_like(b), b.clone(), b.clone()
    rr = b @ b
    norm = float(rr) ** 0.5
    if norm == 0:
        return CGResult(x, r, 0, "zero_right_hand_side")
    # x and r are kept to step back to, should a direction turn out to be of no use
    before = torch.stack((x, r))
    status = torch.stack((rr, rr))

    def step() -> None:
        update(x, r, p, matvec(p), status, before)

    run = step if capture is None else capture(step)
    for iteration in range(1, max_iterations + 1):
        run()
        squared_norm, curvature = status.tolist()  # the one synchronisation of a step
        if not (squared_norm < float("inf") and curvature > 0):
            is_finite = abs(curvature) < float("inf") and (curvature <= 0 or squared_norm < float("inf"))
            stop: StopReason = "not_positive_definite" if is_finite else "not_finite"
            return CGResult(before[0], before[1], iteration, stop)
        if squared_norm**0.5 <= tol * norm:
            return CGResult(x, r, iteration, "tolerance")
    return CGResult(x, r, max_iterations, "max_iterations")

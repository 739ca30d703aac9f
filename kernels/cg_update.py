"""One conjugate-gradient step in place: x += alpha p, r -= alpha Ap, p = r + beta p.

alpha = rr / (p Ap) and beta = (r r) / rr are formed on the GPU: three launches and no host sync. Each dot
product is one partial sum a program, added in order by every program of the next launch.

torch takes ten passes, 22 n elements; this takes 2 n for p Ap, 8 n for x, r, what they were and their dot
product, 3 n for p. No fewer passes keep r r of the vector that is stored. Reference: hfcnn.ops.cg_update.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import check_tensors
from .launch import DTYPES, Launch, Request, plan, planner
from .shapes import ceil_divide, power_of_two, traffic

__all__ = ["cg_update"]

#: Elements of a block; a program takes several where the vectors are long.
BLOCK_N = 1024
#: Most programs, so that each can add all partial sums.
MOST_PROGRAMS = 1024


@triton.jit(do_not_specialize=["n"])
def _curvature_kernel(p, Ap, partial, n, N_PROGRAMS: tl.constexpr, BLOCK_N: tl.constexpr, ACC: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK_N
    acc = tl.full((BLOCK_N,), 0.0, ACC)
    for i in range(start, n, N_PROGRAMS * BLOCK_N):
        o_n = i + tl.arange(0, BLOCK_N)
        b_p = tl.load(p + o_n, mask=o_n < n, other=0.0)
        b_ap = tl.load(Ap + o_n, mask=o_n < n, other=0.0)
        acc += b_p.to(ACC) * b_ap.to(ACC)
    tl.store(partial + tl.program_id(0), tl.sum(acc, axis=0))


@triton.jit(do_not_specialize=["n"])
def _solution_kernel(
    x,
    r,
    p,
    Ap,
    status,
    before,
    partial,
    partial_rr,
    n,
    N_PROGRAMS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    HAS_BEFORE: tl.constexpr,
    ACC: tl.constexpr,
):
    o_s = tl.arange(0, BLOCK_S)
    pap = tl.sum(tl.load(partial + o_s, mask=o_s < N_PROGRAMS, other=0.0), axis=0)
    rr = tl.load(status).to(ACC)
    alpha = rr / pap
    if tl.program_id(0) == 0:
        tl.store(status + 1, pap)
        tl.store(partial + N_PROGRAMS, rr)  # for the next launch, which overwrites the status
    start = tl.program_id(0).to(tl.int64) * BLOCK_N
    acc = tl.full((BLOCK_N,), 0.0, ACC)
    for i in range(start, n, N_PROGRAMS * BLOCK_N):
        o_n = i + tl.arange(0, BLOCK_N)
        m_n = o_n < n
        b_x = tl.load(x + o_n, mask=m_n, other=0.0)
        b_r = tl.load(r + o_n, mask=m_n, other=0.0)
        b_p = tl.load(p + o_n, mask=m_n, other=0.0)
        b_ap = tl.load(Ap + o_n, mask=m_n, other=0.0)
        if HAS_BEFORE:
            tl.store(before + o_n, b_x, mask=m_n)
            tl.store(before + n.to(tl.int64) + o_n, b_r, mask=m_n)
        b_r = (b_r - alpha * b_ap).to(r.dtype.element_ty)
        acc += tl.where(m_n, b_r.to(ACC) * b_r.to(ACC), 0.0)
        tl.store(x + o_n, b_x + alpha * b_p, mask=m_n)
        tl.store(r + o_n, b_r, mask=m_n)
    tl.store(partial_rr + tl.program_id(0), tl.sum(acc, axis=0))


@triton.jit(do_not_specialize=["n"])
def _direction_kernel(
    r,
    p,
    status,
    partial,
    partial_rr,
    n,
    N_PROGRAMS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_S: tl.constexpr,
    ACC: tl.constexpr,
):
    o_s = tl.arange(0, BLOCK_S)
    total = tl.sum(tl.load(partial_rr + o_s, mask=o_s < N_PROGRAMS, other=0.0), axis=0)
    beta = total / tl.load(partial + N_PROGRAMS)
    if tl.program_id(0) == 0:
        tl.store(status, total)
    start = tl.program_id(0).to(tl.int64) * BLOCK_N
    for i in range(start, n, N_PROGRAMS * BLOCK_N):
        o_n = i + tl.arange(0, BLOCK_N)
        b_r = tl.load(r + o_n, mask=o_n < n, other=0.0)
        b_p = tl.load(p + o_n, mask=o_n < n, other=0.0)
        tl.store(p + o_n, b_r + beta * b_p, mask=o_n < n)


@planner("cg_update")
def _plan(request: Request) -> list[Launch]:
    n, size = request.n_images, request.item_size
    programs = max(1, min(MOST_PROGRAMS, ceil_divide(n, BLOCK_N)))
    is_double = request.dtype == "fp64"
    pointer, sums = f"*{request.dtype}", "*fp64" if is_double else "*fp32"
    vectors = dict.fromkeys(("x", "r", "p", "Ap", "status", "before"), pointer)
    shared = {"N_PROGRAMS": programs, "BLOCK_N": BLOCK_N, "ACC": tl.float64 if is_double else tl.float32}
    all_sums = {**shared, "BLOCK_S": power_of_two(programs)}

    def launch(
        kernel: object,
        signature: dict[str, str],
        constexprs: dict[str, object],
        flops: int,
        read: int,
        written: int,
        unfused: int,
    ) -> Launch:
        return Launch(
            "cg_update",
            kernel,
            {**signature, "n": "i32"},
            constexprs,
            4,
            1,
            (programs,),
            flops * n,
            read * n * size,
            written * n * size,
            unfused,
        )

    unfused = traffic("cg_update", request).bytes_unfused
    first = {"p": pointer, "Ap": pointer, "partial": sums}
    second = {**vectors, "partial": sums, "partial_rr": sums}
    third = {"r": pointer, "p": pointer, "status": pointer, "partial": sums, "partial_rr": sums}
    return [
        launch(_curvature_kernel, first, shared, 2, 2, 0, unfused),
        launch(_solution_kernel, second, {**all_sums, "HAS_BEFORE": True}, 6, 4, 4, 0),
        launch(_direction_kernel, third, all_sums, 2, 2, 1, 0),
    ]


def cg_update(
    x: Tensor, r: Tensor, p: Tensor, Ap: Tensor, status: Tensor, before: Tensor | None = None
) -> None:
    """Take one conjugate-gradient step in place: x, r and p become the next ones.

    Parameters
    ----------
    x, r, p, Ap : Tensor of shape (n,)
        Solution, residual, direction, and the matrix times the direction. x, r and p are overwritten.
    status : Tensor of shape (2,)
        r @ r before the step, which becomes that after it; beside it is written p @ Ap before the step. Where
        that is not positive, x, r and p must not be used.
    before : Tensor of shape (2, n) or None
        x and r before the step are written here.

    Raises
    ------
    ValueError
        If an argument is of another shape or type, on another device, or not contiguous.
    """
    if x.dim() != 1 or x.dtype not in DTYPES:
        raise ValueError(f"x must be a vector of floats; got {x.dtype} of shape {tuple(x.shape)}")
    check_tensors(x, x=(x, x.shape), r=(r, x.shape), p=(p, x.shape), Ap=(Ap, x.shape), status=(status, (2,)))
    n = len(x)
    if before is not None:
        check_tensors(x, before=(before, (2, n)))
    first, second, third = plan("cg_update", None, x, n)
    if before is None:
        second = replace(second, constexprs={**second.constexprs, "HAS_BEFORE": False})
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    # after the partial sums of each there is room for r @ r
    partial, partial_rr = torch.empty((2, first.grid[0] + 1), dtype=dtype, device=x.device)
    first.run(p, Ap, partial, n)
    second.run(x, r, p, Ap, status, status if before is None else before, partial, partial_rr, n)
    third.run(r, p, status, partial, partial_rr, n)

"""Second pass of a sum over programs: partial sums added in a fixed order, for the same bits at every call.

A kernel writes rows of partial sums, here each row is summed; `weights` sums those of a weight's gradient. No
kernel adds floats atomically.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

from .launch import ITEM_SIZES, Launch, Request
from .shapes import ceil_divide, power_of_two

__all__ = ["plan_sum_rows"]


@triton.jit(do_not_specialize=["n_rows"])
def _sum_rows_kernel(
    partial, out, n_rows, N_COLUMNS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr
):
    o_r = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    m_r = o_r < n_rows
    acc = tl.full((BLOCK_R, BLOCK_E), 0.0, partial.dtype.element_ty)
    for i_e in range(0, N_COLUMNS, BLOCK_E):
        o_e = i_e + tl.arange(0, BLOCK_E)
        m = m_r[:, None] & (o_e < N_COLUMNS)[None, :]
        acc += tl.load(partial + o_r[:, None] * N_COLUMNS + o_e[None, :], mask=m, other=0.0)
    tl.store(out + o_r, tl.sum(acc, axis=1), mask=m_r)


def plan_sum_rows(op: str, request: Request, n_rows: int, n_columns: int) -> Launch:
    """Sum each row of partial sums (n_rows, n_columns) in float32 or float64 into the op's type."""
    accumulator = "fp64" if request.dtype == "fp64" else "fp32"
    block_e = min(128, power_of_two(n_columns))
    return Launch(
        op,
        _sum_rows_kernel,
        {"partial": f"*{accumulator}", "out": f"*{request.dtype}", "n_rows": "i32"},
        {"N_COLUMNS": n_columns, "BLOCK_R": 16, "BLOCK_E": block_e},
        4,
        1,
        (ceil_divide(n_rows, 16),),
        n_rows * n_columns,
        n_rows * n_columns * ITEM_SIZES[accumulator],
        n_rows * request.item_size,
        0,
    )

"""Where the time of a gradient and of the products goes, by kind of operation."""

from __future__ import annotations

from collections import defaultdict

from torch.profiler import ProfilerActivity, profile

from hfcnn import cost
from hfcnn.benchmark.cases import Case
from hfcnn.benchmark.rows import Row
from hfcnn.benchmark.timing import Timed, interleave, matmul_candidates, matmul_rate
from hfcnn.objective import Objective

__all__ = ["measure_profile"]

#: What torch's operations are for here; all others are "other".
OPERATION_KINDS = {
    "convolutions": ("mkldnn_convolution", "convolution_backward", "thnn_conv2d", "_slow_conv2d_forward"),
    "matrix products": ("mm", "bmm", "addmm", "addmm_"),
    "pooling": ("max_pool2d_with_indices",),
    "selecting by position": ("take", "index_select"),
    "expanding cotangents": ("max_pool2d_with_indices_backward", "fill_"),
    "ReLU and its mask": ("threshold_backward", "relu", "relu_", "clamp_min", "clamp_min_"),
    "patches": ("im2col",),
    "copies and sums": ("copy_", "add", "add_", "sum", "cat", "mul"),
}


def measure_profile(case: Case, repeats: int) -> list[Row]:
    """Rows on the time of each kind of operation, and on what arithmetic alone would take."""
    objective = Objective(case.network, case.images, case.labels, C=case.C)
    rop, stored = case.operator("rop"), case.operator("jacobian")
    parts: dict[str, tuple[Timed, int]] = {
        "f and gradient": (
            lambda: objective.value_and_gradient(case.theta),
            cost.gradient_cost(case.network).operations,
        ),
        "R-operator product": (lambda: rop @ case.v, cost.product_cost(case.network, "rop").operations),
        "stored product": (lambda: stored @ case.v, cost.product_cost(case.network, "jacobian").operations),
        "stored set-up": (lambda: case.operator("jacobian"), cost.jacobian_cost(case.network).operations),
    }
    rate = matmul_rate(interleave(matmul_candidates(), repeats))
    rows = [Row("float32 matmul of 2048", rate, "GFLOP/s")]
    for name, (call, operations) in parts.items():
        seconds = _seconds_by_kind(call, repeats)
        per_image = 1e6 / len(case.images)
        rows.append(Row(name, sum(seconds.values()) * per_image, "us an image"))
        rows.append(
            Row(f"{name}: its operations at the matmul's rate", operations / rate / 1e3, "us an image")
        )
        rows += [
            Row(f"{name}: {kind}", value * per_image, "us an image")
            for kind, value in sorted(seconds.items(), key=lambda item: -item[1])
        ]
    return rows


def _seconds_by_kind(call: Timed, repeats: int) -> dict[str, float]:
    """Mean seconds of a call that each kind of operation takes, after a call of warm-up."""
    kind_of = {f"aten::{name}": kind for kind, names in OPERATION_KINDS.items() for name in names}
    call()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            call()
    seconds: dict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        seconds[kind_of.get(event.key, "other")] += event.self_cpu_time_total / 1e6 / repeats
    return dict(seconds)

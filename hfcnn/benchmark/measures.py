"""The measures: each times or counts, and says whether its goals are reached.

A peer runs at the best of several batch sizes. Every ratio is of medians within one run.
"""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from hfcnn import cost
from hfcnn.backend import get_backend
from hfcnn.benchmark.cases import Case, autograd_gradient, curvlinops_product, func_product
from hfcnn.benchmark.rows import Row, at_least, at_most
from hfcnn.benchmark.timing import Timed, fastest, interleave, matmul_candidates, matmul_rate
from hfcnn.conjugate_gradient import conjugate_gradient
from hfcnn.gauss_newton import GaussNewton
from hfcnn.network import Network
from hfcnn.newton import NewtonOptions, newton
from hfcnn.objective import Objective, forward

__all__ = [
    "has_bf16",
    "measure_bf16",
    "measure_iteration",
    "measure_memory",
    "measure_predict",
    "measure_products",
]

#: Images a batch that peers are tried with.
PEER_BATCH_SIZES = (32, 64, 128, 250, 500)

#: simpleNN on Fashion-MNIST, l = 5,000, S = 250, 20 CG iterations, 2 threads: seconds of an iteration (one
#: function and gradient, one line-search trial, 20 products and their set-up), and the float32 matrix
#: product rate in GFLOP/s measured beside them. TensorFlow: 1.14 + 0.35 + 20 x 0.132. Octave, its best
#: settings: 4.85 + 2.03 + 1.04 + 20 x 0.333.
SIMPLENN = {"TensorFlow": 4.13, "Octave": 14.6}
SIMPLENN_MATMUL_RATE = 192.8


def measure_products(case: Case, repeats: int, with_bf16: bool) -> list[Row]:
    """Rows on f, its gradient, and products in both forms."""
    sizes = [size for size in PEER_BATCH_SIZES if size <= len(case.images)] or [len(case.images)]
    objective = Objective(case.network, case.images, case.labels, C=case.C)
    rop, stored = case.operator("rop"), case.operator("jacobian")
    candidates: dict[str, Timed] = {
        "gradient": lambda: objective.value_and_gradient(case.theta),
        "rop": lambda: rop @ case.v,
        "stored": lambda: stored @ case.v,
        "set-up": lambda: case.operator("jacobian"),
        "rop set-up": lambda: case.operator("rop"),
        "autograd": fastest(autograd_gradient(case, size) for size in sizes),
        "torch.func": fastest(_func_product(case, size) for size in sizes),
        **matmul_candidates(),
    }
    try:
        candidates["curvlinops"] = fastest(curvlinops_product(case, size) for size in sizes)
    except ImportError:
        pass
    if with_bf16:
        bf16 = case.operator("rop", "bf16")
        candidates["bf16"] = lambda: bf16 @ case.v
    t = interleave(candidates, repeats)
    operations = cost.product_cost(case.network, "rop").operations * len(case.images)
    break_even = (t["set-up"] - t["rop set-up"]) / max(t["rop"] - t["stored"], 1e-12)
    per_image = 1e6 / len(case.images)
    rows = [
        Row("torch autograd, forward and backward", t["autograd"] * per_image, "us an image"),
        Row("f and gradient", t["gradient"] * per_image, "us an image"),
        Row("R-operator product", t["rop"] * per_image, "us an image"),
        Row("stored-Jacobian product", t["stored"] * per_image, "us an image"),
        at_most("f and gradient / autograd", t["gradient"] / t["autograd"], 1.0),
        at_most("R-operator product / autograd", t["rop"] / t["autograd"], 1.1),
        at_most("stored-Jacobian product / autograd", t["stored"] / t["autograd"], 0.7),
        at_most("CG steps from which stored is cheaper", break_even, 15, ""),
        at_least(
            "R-operator product: rate / matmul rate", operations / t["rop"] / 1e9 / matmul_rate(t), 0.75
        ),
        at_least("torch.func product / R-operator", t["torch.func"] / t["rop"], 2.5),
        at_least("torch.func product / stored", t["torch.func"] / t["stored"], 4),
    ]
    for n_products in (3, 10, 30):
        chosen = cost.choose_form(case.network, len(case.images), n_products=n_products, memory=2**40)
        totals = {
            "rop": t["rop set-up"] + n_products * t["rop"],
            "jacobian": t["set-up"] + n_products * t["stored"],
        }
        ratio = totals[chosen] / min(totals.values())
        rows.append(at_most(f"form that auto takes for {n_products} CG steps / faster form", ratio, 1.1))
    if "curvlinops" in t:
        rows.append(at_least("curvlinops product / R-operator", t["curvlinops"] / t["rop"], 2.5))
        rows.append(at_least("curvlinops product / stored", t["curvlinops"] / t["stored"], 4))
    if with_bf16:
        rows.append(at_least("float32 product / bfloat16 product", t["rop"] / t["bf16"], 1.7))
    return rows


def _func_product(case: Case, size: int) -> Timed:
    batches = [images for images, _ in case.torch_batches(size)]
    return func_product(case.network, case.theta, case.v, batches)


def has_bf16() -> bool:
    """Whether the processor has bfloat16 arithmetic."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def measure_iteration(n_images: int, n_subset: int, n_products: int, repeats: int) -> list[Row]:
    """Rows on a Newton iteration of cnn3 on 28x28x1 images, against simpleNN's."""
    case = Case.draw("cnn3", (28, 28, 1), n_images)
    objective = Objective(case.network, case.images, case.labels, C=case.C)
    _, gradient = objective.value_and_gradient(case.theta)
    subset = case.images[:n_subset]

    def iterate(form: str) -> Timed:
        def call() -> None:
            matrix = GaussNewton(
                case.network, case.theta, subset, C=case.C, damping=1.0, form=form, n_products=n_products
            )
            # a tolerance of 0 takes n_products steps
            solution = conjugate_gradient(matrix.matvec, -gradient, tol=0.0, max_iterations=n_products)
            objective.evaluate(case.theta + 1e-3 * solution.x)

        return call

    forms = ("auto", "rop", "jacobian")
    t = interleave({form: iterate(form) for form in forms} | matmul_candidates(), repeats)
    rate = matmul_rate(t)
    size = f"l = {n_images:,}, |S| = {n_subset}, {n_products} CG steps"
    rows = [Row(f"iteration, {form}, {size}", t[form], "s") for form in forms]
    rows.append(Row("float32 matmul of 2048", rate, "GFLOP/s"))
    if (n_images, n_subset, n_products) == (5000, 250, 20):
        for peer, goal in (("TensorFlow", 2.0), ("Octave", 5.0)):
            ratio = SIMPLENN[peer] * SIMPLENN_MATMUL_RATE / (t["auto"] * rate)
            rows.append(at_least(f"simpleNN {peer} / ours, both times matmul rate", ratio, goal))
    return rows


def measure_predict(case: Case, repeats: int) -> list[Row]:
    """Row on predicting, against the same torch network in eval mode."""
    module = case.torch_module().eval()
    objective = Objective(case.network, case.images, case.labels)

    def torch_predict(size: int) -> Timed:
        batches = case.torch_batches(size)

        @torch.inference_mode()
        def call() -> Tensor:
            return torch.cat([module(images).argmax(1) for images, _ in batches])

        return call

    @torch.inference_mode()
    def predict() -> Tensor:
        data, dtype = objective.data, case.theta.dtype
        batches = (data.read(span, dtype).images for span in data.spans(dtype))
        return torch.cat([forward(case.network, case.theta, batch).argmax(1) for batch in batches])

    sizes = [size for size in PEER_BATCH_SIZES if size <= len(case.images)] or [len(case.images)]
    t = interleave({"ours": predict, "torch": fastest(torch_predict(size) for size in sizes)}, repeats)
    return [
        Row("predict", t["ours"] * 1e6 / len(case.images), "us an image"),
        at_most("predict / torch in eval mode", t["ours"] / t["torch"], 1.0),
    ]


#: Run in a process of its own: prints the peak of a short fit above what was there before it.
MEMORY_PROGRAM = """
import sys
import numpy as np
from hfcnn.benchmark.cases import Case
from hfcnn.benchmark.process_memory import forget_peak, process_bytes
from hfcnn.newton import NewtonOptions, newton
from hfcnn.objective import Objective
case = Case.draw(sys.argv[1], tuple(map(int, sys.argv[2].split("x"))), int(sys.argv[3]))
objective = Objective(case.network, case.images, case.labels, C=case.C)
objective.evaluate(case.theta, indices=np.arange(2))
forget_peak()
before = process_bytes("VmRSS")
options = NewtonOptions(max_iter=2, sampling_rate=float(sys.argv[4]), cg_max_iter=3, gauss_newton=sys.argv[5],
                        memory=int(sys.argv[6]))
for state in newton(objective, case.theta, options):
    pass
print(process_bytes("VmHWM") - before)
"""


def measure_memory(preset: str, shape: tuple[int, int, int], n_images: int, budget: int) -> list[Row]:
    """Rows on the peak memory of a fit at several sampling rates, against the model of `hfcnn.cost`."""
    network = Network.preset(preset, shape, 10)
    rates, peaks, rows = (0.05, 0.2, 0.8), [], []
    for rate in rates:
        words = (preset, "x".join(map(str, shape)), n_images, rate, "rop", budget)
        command = [sys.executable, "-P", "-c", MEMORY_PROGRAM, *map(str, words)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        predicted = cost.fit_bytes(network, round(n_images * rate), form="rop", memory=budget)
        rows.append(Row(f"peak at a sampling rate of {rate:g}", peaks[-1] / 2**20, "MiB"))
        rows.append(at_most(f"|peak at {rate:g} / predicted - 1|", abs(peaks[-1] / predicted - 1), 0.2))
    growth = peaks[-1] / peaks[-2]
    rows.append(at_most(f"peak at {rates[-1]:g} / peak at {rates[-2]:g}, over the budget", growth, 1.1))
    return rows


def measure_bf16(images: Tensor, labels: Tensor, n_iterations: int) -> list[Row]:
    """Rows on CG counts and training accuracy with products in bfloat16, against float32."""
    network = Network.preset("cnn3", tuple(images.shape[1:]), 10)  # type: ignore[arg-type]
    counts, accuracies = [], []
    for precision in ("ieee", "bf16"):
        objective = Objective(
            network, images, labels, C=0.01 * len(images), backend=get_backend("torch", "cpu", precision)
        )
        states = list(newton(objective, network.init(0), NewtonOptions(max_iter=n_iterations)))
        counts.append(sum(state.cg_iterations for state in states))
        accuracies.append(states[-1].training_accuracy)
    return [
        Row("CG iterations with float32 products", counts[0], ""),
        at_most("|CG iterations with bfloat16 / with float32 - 1|", abs(counts[1] / counts[0] - 1), 0.1),
        Row(f"training accuracy after {n_iterations} iterations, float32", accuracies[0], ""),
        at_most("float32 accuracy - bfloat16 accuracy", accuracies[0] - accuracies[1], 0.005, ""),
    ]

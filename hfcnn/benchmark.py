"""``hfcnn benchmark``: what products, iterations and predictions cost, beside what torch and peers take.

Every ratio is of medians within one run, its candidates taking turns, so that what else the machine does
falls on all alike. A peer runs at the best of several batch sizes.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

from hfcnn import cost
from hfcnn._version import __version__
from hfcnn.backend import get_backend
from hfcnn.conjugate_gradient import conjugate_gradient
from hfcnn.gauss_newton import GaussNewton
from hfcnn.network import Network
from hfcnn.newton import NewtonOptions, newton
from hfcnn.objective import Objective, forward

__all__ = ["Row", "app", "interleave", "matmul_rate"]

app = typer.Typer(no_args_is_help=True)

Timed: TypeAlias = Callable[[], Any]

#: Images a batch that peers are tried with.
PEER_BATCH_SIZES = (32, 64, 128, 250, 500)

#: simpleNN on Fashion-MNIST, l = 5,000, S = 250, 20 CG iterations, 2 threads: seconds of an iteration (one
#: function and gradient, one line-search trial, 20 products and their set-up), and the float32 matrix
#: product rate in GFLOP/s measured beside them. TensorFlow: 1.14 + 0.35 + 20 x 0.132. Octave, its best
#: settings: 4.85 + 2.03 + 1.04 + 20 x 0.333.
SIMPLENN = {"TensorFlow": 4.13, "Octave": 14.6}
SIMPLENN_MATMUL_RATE = 192.8


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes
    ----------
    what : str
        What was measured, of which network.
    figure : float
        The figure.
    unit : str
        Its unit; "x" is a ratio.
    goal : str
        What it is to reach; empty where it only informs.
    is_reached : bool or None
        Whether it does; None without a goal.
    """

    what: str
    figure: float
    unit: str
    goal: str = ""
    is_reached: bool | None = None


def at_most(what: str, figure: float, goal: float, unit: str = "x") -> Row:
    """Row whose figure is to be at most `goal`."""
    return Row(what, figure, unit, f"<= {goal:g}", figure <= goal)


def at_least(what: str, figure: float, goal: float, unit: str = "x") -> Row:
    """Row whose figure is to be at least `goal`."""
    return Row(what, figure, unit, f">= {goal:g}", figure >= goal)


def interleave(candidates: dict[str, Timed], repeats: int) -> dict[str, float]:
    """Time candidates in turns and return each one's median seconds, after a turn of warm-up."""
    for call in candidates.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def fastest(candidates: Iterable[Timed]) -> Timed:
    """Choose the fastest of some calls by the better of two runs each, after one of warm-up."""

    def seconds(call: Timed) -> float:
        call()
        return min(interleave({"": call}, 1)[""] for _ in range(2))

    return min(candidates, key=seconds)


def matmul_candidates(size: int = 2048) -> dict[str, Timed]:
    """Float32 matrix products of numpy and of torch, to time beside what they are to be compared with."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return {"matmul torch": lambda: a @ b, "matmul numpy": lambda: a.numpy() @ b.numpy()}


def matmul_rate(seconds: dict[str, float], size: int = 2048) -> float:
    """GFLOP/s of the faster of `matmul_candidates`, from their seconds."""
    return 2 * size**3 / min(seconds["matmul torch"], seconds["matmul numpy"]) / 1e9


@dataclass(frozen=True)
class Case:
    """A network, its parameters, random images and a direction."""

    network: Network
    theta: Tensor
    images: Tensor
    labels: Tensor
    v: Tensor

    @classmethod
    def draw(cls, preset: str, input_shape: tuple[int, int, int], n_images: int) -> Case:
        """Draw images N(0, 1), labels of ten classes and a direction N(0, 1)."""
        generator = torch.Generator().manual_seed(0)
        network = Network.preset(preset, input_shape, 10)
        theta = network.init(0)
        images = torch.randn(n_images, *input_shape, generator=generator)
        labels = torch.randint(0, 10, (n_images,), generator=generator)
        v = torch.randn(theta.shape, generator=generator)
        return cls(network, theta, images, labels, v)

    @property
    def C(self) -> float:
        """The paper's C = 0.01 l."""
        return 0.01 * len(self.images)

    def torch_module(self) -> nn.Sequential:
        """Build the same network for torch, in its best memory format."""
        module: nn.Sequential = self.network.to_torch(self.theta).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module

    def torch_batches(self, size: int) -> list[tuple[Tensor, Tensor]]:
        """Images (channels-last NCHW views) and one-hot labels in batches."""
        images, targets = self.images.permute(0, 3, 1, 2), F.one_hot(self.labels, 10).float()
        starts = range(0, len(images), size)
        return [(images[a : a + size], targets[a : a + size]) for a in starts]

    def operator(self, form: str, precision: str = "ieee") -> GaussNewton:
        """The Gauss-Newton operator at theta over all images."""
        backend = get_backend("torch", "cpu", precision)
        return GaussNewton(
            self.network, self.theta, self.images, C=self.C, damping=1.0, form=form, backend=backend
        )


def autograd_gradient(case: Case, size: int) -> Timed:
    """Forward and backward of the same network by torch autograd."""
    module, batches = case.torch_module(), case.torch_batches(size)

    def call() -> None:
        module.zero_grad()
        for images, targets in batches:
            loss: Tensor = (module(images) - targets).square().sum() / len(case.images)
            loss.backward()  # type: ignore[no-untyped-call]

    return call


def func_product(case: Case, size: int) -> Timed:
    """Gauss-Newton product by torch.func: a jvp, then a vjp."""
    module, batches = case.torch_module(), case.torch_batches(size)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    tangents = {name: torch.randn_like(p) for name, p in parameters.items()}

    def call() -> None:
        total: dict[str, Tensor] = {}
        for images, _ in batches:

            def outputs(p: dict[str, Tensor], images: Tensor = images) -> Tensor:
                result: Tensor = functional_call(module, p, (images,))
                return result

            _, z_dot = jvp(outputs, (parameters,), (tangents,))  # type: ignore[misc]
            _, pull = vjp(outputs, parameters)  # type: ignore[misc]
            (product,) = pull(2 * z_dot)
            total = {k: product[k] + total.get(k, 0) for k in product}

    return call


def curvlinops_operator(case: Case, size: int) -> Any:
    """Gauss-Newton operator of curvlinops; ImportError where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies use what torch has deprecated
        from curvlinops import GGNLinearOperator
    module = case.torch_module()
    return GGNLinearOperator(
        module,
        nn.MSELoss(reduction="sum"),
        list(module.parameters()),
        case.torch_batches(size),
        check_deterministic=False,
    )


def curvlinops_product(case: Case, size: int) -> Timed:
    """Gauss-Newton product by curvlinops; ImportError where it is not installed."""
    operator = curvlinops_operator(case, size)
    return lambda: operator @ case.v


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
        "torch.func": fastest(func_product(case, size) for size in sizes),
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
        batches = objective.batches(case.theta.dtype)
        return torch.cat([forward(case.network, case.theta, batch).argmax(1) for batch, *_ in batches])

    sizes = [size for size in PEER_BATCH_SIZES if size <= len(case.images)] or [len(case.images)]
    t = interleave({"ours": predict, "torch": fastest(torch_predict(size) for size in sizes)}, repeats)
    return [
        Row("predict", t["ours"] * 1e6 / len(case.images), "us an image"),
        at_most("predict / torch in eval mode", t["ours"] / t["torch"], 1.0),
    ]


#: Run in a process of its own: prints the peak of a short fit above what was there before it.
MEMORY_PROGRAM = """
import resource, sys
from hfcnn.benchmark import Case
from hfcnn.newton import NewtonOptions, newton
from hfcnn.objective import Objective
case = Case.draw(sys.argv[1], tuple(map(int, sys.argv[2].split("x"))), int(sys.argv[3]))
objective = Objective(case.network, case.images, case.labels, C=case.C)
objective.evaluate(case.theta, indices=__import__("numpy").arange(2))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak counts from here
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS")
options = NewtonOptions(max_iter=2, sampling_rate=float(sys.argv[4]), cg_max_iter=3, gauss_newton=sys.argv[5],
                        memory=int(sys.argv[6]))
for state in newton(objective, case.theta, options):
    pass
print((status("VmHWM") - before) * 1024)
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
        rows.append(at_most("|measured / predicted - 1|", abs(peaks[-1] / predicted - 1), 0.2))
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


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "hfcnn": __version__,
        "python": platform.python_version(),
    }


def report(title: str, groups: dict[str, list[Row]], json_file: Path | None, markdown: Path | None) -> None:
    """Print groups of rows as one table and, where asked for, write them as JSON and Markdown."""
    about = machine()
    title = f"{title}: {about['processor']}, {about['threads']} threads, torch {about['torch']}"
    columns = ("case", "measure", "figure", "goal", "reached")
    table = Table(*columns, title=title)
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    for case, rows in groups.items():
        for row in rows:
            reached = "" if row.is_reached is None else ("yes" if row.is_reached else "no")
            cells = (case, row.what, f"{row.figure:.3g} {row.unit}".strip(), row.goal, reached)
            table.add_row(*cells)
            lines.append(" | ".join(cell.replace("|", "\\|") for cell in cells))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if json_file:
        content = {
            "machine": about,
            "rows": {case: [asdict(r) for r in rows] for case, rows in groups.items()},
        }
        json_file.write_text(json.dumps(content, indent=1) + "\n")
    if markdown:
        markdown.write_text("\n".join(f"| {line} |" for line in lines) + "\n")


JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the rows there as JSON.")]
Markdown = Annotated[Path | None, typer.Option(help="Write the rows there as a Markdown table.")]
Repeats = Annotated[int, typer.Option(min=1, help="Turns that the medians are over.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Tiny sizes, to see that it runs.")]
Images = Annotated[
    list[int] | None, typer.Option("--images", help="Images; may be repeated. [default: 500 2000]")
]
Presets = Annotated[list[str] | None, typer.Option("--network", help="May be repeated. [default: cnn3 cnn5]")]

SHAPES = ((28, 28, 1), (32, 32, 3))


def _cases(presets: list[str] | None, images: list[int] | None, smoke: bool) -> Iterable[tuple[str, Case]]:
    for preset in ["cnn3"] if smoke else presets or ["cnn3", "cnn5"]:
        for shape in SHAPES[:1] if smoke else SHAPES:
            for n_images in [16] if smoke else images or [500, 2000]:
                name = f"{preset}, {'x'.join(map(str, shape))}, {n_images}"
                yield name, Case.draw(preset, shape, n_images)


@app.callback()
def benchmark() -> None:
    """Time products, iterations and predictions on this machine's CPU, beside torch and peers."""


@app.command()
def products(
    network: Presets = None,
    images: Images = None,
    repeats: Repeats = 7,
    json_file: JsonFile = None,
    markdown: Markdown = None,
    smoke: Smoke = False,
) -> None:
    """Gradient and Gauss-Newton products against autograd, torch.func, curvlinops and matmul."""
    groups = {
        name: measure_products(case, repeats, has_bf16()) for name, case in _cases(network, images, smoke)
    }
    report("products", groups, json_file, markdown)


@app.command()
def iteration(
    repeats: Repeats = 5, json_file: JsonFile = None, markdown: Markdown = None, smoke: Smoke = False
) -> None:
    """A Newton iteration against simpleNN's."""
    sizes = (64, 16, 3) if smoke else (5000, 250, 20)
    report("iteration", {"cnn3, 28x28x1": measure_iteration(*sizes, repeats)}, json_file, markdown)


@app.command()
def predict(
    network: Presets = None,
    images: Images = None,
    repeats: Repeats = 7,
    json_file: JsonFile = None,
    markdown: Markdown = None,
    smoke: Smoke = False,
) -> None:
    """Predicting against the same torch network in eval mode."""
    groups = {name: measure_predict(case, repeats) for name, case in _cases(network, images, smoke)}
    report("predict", groups, json_file, markdown)


@app.command()
def memory(json_file: JsonFile = None, markdown: Markdown = None, smoke: Smoke = False) -> None:
    """Peak memory of a fit against the sampling rate, and against the model (Linux)."""
    n_images, budget = (200, 2**20) if smoke else (4000, 64 * 2**20)
    groups = {
        f"{preset}, {'x'.join(map(str, shape))}": measure_memory(preset, shape, n_images, budget)
        for preset in ("cnn3", "cnn5")[: 1 if smoke else 2]
        for shape in SHAPES[: 1 if smoke else 2]
    }
    report("memory", groups, json_file, markdown)


@app.command()
def bf16(
    data: Annotated[Path, typer.Argument(help="Data that `hfcnn.load` reads, of ten classes.")],
    train_size: Annotated[int, typer.Option(min=10, help="First images to take.")] = 5000,
    iterations: Annotated[int, typer.Option(min=1, help="Newton iterations.")] = 15,
    json_file: JsonFile = None,
    markdown: Markdown = None,
) -> None:
    """Whether products in bfloat16 leave CG counts and accuracy as they are."""
    if not has_bf16():
        Console().print("This processor has no bfloat16 arithmetic.")
        raise typer.Exit(1)
    from hfcnn.datasets import load
    from hfcnn.preprocessing import ImageScaler

    X, y = load(data)
    images = torch.from_numpy(ImageScaler().fit_transform(X[:train_size]))
    labels = torch.from_numpy(np.unique(y[:train_size], return_inverse=True)[1])
    report("bf16", {data.name: measure_bf16(images, labels, iterations)}, json_file, markdown)

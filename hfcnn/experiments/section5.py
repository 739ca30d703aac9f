"""Section 5: bytes and operations that `hfcnn.cost` and the paper predict, against what torch counts."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from hfcnn import cost
from hfcnn.experiments.markdown import MISSING, Page
from hfcnn.experiments.paper import CITATION
from hfcnn.gauss_newton import GaussNewton
from hfcnn.network import Network
from hfcnn.objective import Objective
from hfcnn.report import markdown_table
from hfcnn.stored_jacobian import StoredJacobian

__all__ = ["Comparison", "Paper", "compare_costs", "page"]

#: The networks and image shapes that are compared, all with ten classes.
CASES = tuple((name, shape) for name in ("cnn3", "cnn5") for shape in ((28, 28, 1), (32, 32, 3)))

#: What one image costs is the difference between so many and twice as many, over so many.
SECTION5_IMAGES = 16

ITEMSIZE = 4  # float32


@dataclass(frozen=True)
class Paper:
    """The paper's own formulas, for one image: elements, and operations counted as 2 a multiply-add.

    Parameters
    ----------
    network : Network
        The network.
    """

    network: Network

    @property
    def activations(self) -> int:
        """Elements of Z^1 ... Z^{L+1} (86)."""
        return sum(layer.input_size for layer in self.network.layers) + self.network.n_outputs

    @property
    def jacobian(self) -> int:
        """Elements of dz^{L+1} / dS^m of all layers (87)."""
        return self.network.n_outputs * sum(layer.unpooled_size for layer in self.network.layers)

    @property
    def expanded(self) -> int:
        """Elements of all phi(pad(Z^m)) (88)."""
        return sum(layer.patches_size for layer in self.network.layers if layer.positions > 1)

    @property
    def value(self) -> int:
        """Operations of a forward pass (Sec. 5.2); the other costs are multiples of it."""
        return 2 * sum(layer.multiply_adds for layer in self.network.layers)


@dataclass(frozen=True)
class Prediction:
    """Operations and kept bytes of one image; None where there is no formula."""

    operations: int | None
    bytes: int | None


@dataclass(frozen=True)
class Comparison:
    """One part of the method on one network.

    Attributes
    ----------
    part : str
        Part of the method.
    paper, ours : Prediction
        By the paper's formulas, and by `hfcnn.cost`.
    operations : float
        That torch counts in convolutions and matrix products, for one image.
    kept_bytes, peak_bytes : float
        Bytes allocated for one image, that are held afterwards and at most at a time.
    """

    part: str
    paper: Prediction
    ours: Prediction
    operations: float
    kept_bytes: float
    peak_bytes: float

    def ratio(self, whose: str, quantity: str) -> float:
        """Counted over predicted; NaN where there is no prediction.

        Parameters
        ----------
        whose : {"paper", "ours"}
            Whose prediction. Of bytes, the paper's are of what is kept, if anything is, and ours of the peak.
        quantity : {"operations", "bytes"}
            What.
        """
        predicted = getattr(getattr(self, whose), quantity)
        counted = self.operations
        if quantity == "bytes":
            counted = (self.kept_bytes if whose == "paper" else 0) or self.peak_bytes
        return counted / predicted if predicted else math.nan


@dataclass(frozen=True)
class Part:
    """A part of the method: `prepare` is not counted in its operations, but in its memory."""

    name: str
    paper: Prediction
    ours: Prediction
    run: Callable[[Any], Any]
    prepare: Callable[[Objective], Any] = lambda objective: objective


def compare_costs(network: Network) -> list[Comparison]:
    """Predict and measure each part of the method, for one image.

    Parameters
    ----------
    network : Network
        The network.
    """
    return [_measure(network, part) for part in _parts(network)]


def _parts(network: Network) -> Iterator[Part]:
    theta = network.init(0)
    paper = Paper(network)
    forward, kept = paper.value, ITEMSIZE * paper.activations
    yield Part(
        "function",
        Prediction(forward, kept),
        _of(cost.value_cost(network, ITEMSIZE)),
        lambda objective: objective.evaluate(theta, gradient=False),
    )
    yield Part(
        "function and gradient",
        Prediction(3 * forward, kept),
        _of(cost.gradient_cost(network, ITEMSIZE)),
        lambda objective: objective.evaluate(theta),
    )
    yield Part(
        "line search, a rejected trial",
        Prediction(forward, kept),
        _of(cost.trial_cost(network, ITEMSIZE)),
        lambda objective: objective.evaluate(theta, bound=0.0),
    )
    stored = ITEMSIZE * paper.jacobian + kept
    yield Part(
        "Jacobian, set up",
        Prediction((1 + network.n_outputs) * forward, stored),
        _of(cost.jacobian_cost(network, ITEMSIZE)),
        lambda objective: StoredJacobian(network, theta, objective.images),
    )
    yield Part(
        "product, stored Jacobian",
        Prediction(2 * forward, stored),
        _of(cost.product_cost(network, "jacobian", ITEMSIZE)),
        lambda matrix: matrix.matvec(theta),
        lambda objective: _gauss_newton(objective, theta, "jacobian"),
    )
    yield Part(
        "product, R-operator",
        Prediction(None, None),
        _of(cost.product_cost(network, "rop", ITEMSIZE)),
        lambda matrix: matrix.matvec(theta),
        lambda objective: _gauss_newton(objective, theta, "rop"),
    )


def _of(predicted: cost.Cost) -> Prediction:
    return Prediction(predicted.operations, predicted.bytes)


def _gauss_newton(objective: Objective, theta: torch.Tensor, form: str) -> GaussNewton:
    return GaussNewton(
        objective.network, theta, objective.images, C=1.0, form=form, batch_size=objective.batch_size
    )


def _measure(network: Network, part: Part) -> Comparison:
    few, many = (_objective(network, n_images) for n_images in (SECTION5_IMAGES, 2 * SECTION5_IMAGES))
    kept_few, peak_few = _allocated(part, few)
    kept_many, peak_many = _allocated(part, many)
    return Comparison(
        part.name,
        part.paper,
        part.ours,
        (_operations(part, many) - _operations(part, few)) / SECTION5_IMAGES,
        (kept_many - kept_few) / SECTION5_IMAGES,
        (peak_many - peak_few) / SECTION5_IMAGES,
    )


def _objective(network: Network, n_images: int) -> Objective:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n_images, *network.input_shape, generator=generator)
    labels = torch.arange(n_images) % network.n_outputs
    return Objective(network, images, labels, C=1.0, batch_size=n_images)


def _operations(part: Part, objective: Objective) -> int:
    prepared = part.prepare(objective)
    with FlopCounterMode(display=False) as counter:
        part.run(prepared)
    return int(counter.get_total_flops())


def _allocated(part: Part, objective: Objective) -> tuple[int, int]:
    """Bytes that torch's allocator holds after the part ran, and the most that it held while it ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        prepared = part.prepare(objective)
        with record_function("run of the part"):
            result = part.run(prepared)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    del prepared, result  # held until here, so that what they keep is counted
    held = most = 0
    start = next(event["ts"] for event in events if event["name"] == "run of the part")
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        if event["ts"] >= start:
            most = max(most, held)
    return held, most


def page(output: Path) -> Page:
    """Compare all cases, and draw them.

    Parameters
    ----------
    output : Path
        Folder of the page and its plot.
    """
    from hfcnn.experiments import figures  # matplotlib is an extra

    cases = {f"{name}, {'x'.join(map(str, shape))}": Network.preset(name, shape, 10) for name, shape in CASES}
    comparisons = {heading: compare_costs(network) for heading, network in cases.items()}
    figures.draw_costs(comparisons, output / "section5.png")
    parts = [_introduction(), "![Predicted against measured operations and bytes](section5.png)\n"]
    for heading, network in cases.items():
        parts += [f"## {heading}\n", _formulas(network), _table(comparisons[heading])]
    return Page("section5", "Section 5: cost analysis", "\n".join(parts))


def _introduction() -> str:
    return (
        f"Costs of one image in float32, as Section 5 of {CITATION} predicts them, as `hfcnn.cost` does, and "
        f"as torch {torch.__version__} counts them on a CPU: operations of convolutions and matrix products "
        "by its flop counter (2 a multiply-add), bytes by its allocator, as the difference between "
        f"{2 * SECTION5_IMAGES} and {SECTION5_IMAGES} images. Kept is what is held at the end, peak the "
        "most at a time; both include what a set-up keeps for a product. The paper's predictions for the "
        "Jacobian and the products are of what is kept, all others of the peak. The paper leaves pooling and "
        "bias out, stores the Jacobian before pooling, and has no R-operator.\n"
    )


def _formulas(network: Network) -> str:
    paper = Paper(network)
    formulas = {"(86)": paper.activations, "(87)": paper.jacobian, "(88)": paper.expanded}
    words = ", ".join(f"{name} {ITEMSIZE * value / 1000:,.0f} kB" for name, value in formulas.items())
    return f"{network.n_parameters:,} parameters. By the paper's formulas, one image takes {words}.\n"


def _table(comparisons: list[Comparison]) -> str:
    header = ["Part", "MFLOP, paper", "MFLOP, hfcnn.cost", "MFLOP, counted"]
    header += ["kB, paper", "kB, hfcnn.cost", "kB, kept", "kB, peak"]
    return markdown_table(
        header,
        [
            [
                item.part,
                _scaled(item.paper.operations, 1e6),
                _scaled(item.ours.operations, 1e6),
                _scaled(item.operations, 1e6),
                _scaled(item.paper.bytes, 1e3),
                _scaled(item.ours.bytes, 1e3),
                _scaled(item.kept_bytes, 1e3),
                _scaled(item.peak_bytes, 1e3),
            ]
            for item in comparisons
        ],
    )


def _scaled(value: float | None, unit: float) -> str:
    return MISSING if value is None else f"{value / unit:,.1f}"

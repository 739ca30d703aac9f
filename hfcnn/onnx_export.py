"""Export to ONNX: from raw pixels to labels in one graph, built node by node, without tracing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

if TYPE_CHECKING:
    from hfcnn.preprocessing import ImageScaler

__all__ = ["onnx_model"]

#: Operator set of the graph: the oldest in which all its operators take their present form.
OPSET = 13

#: Version of the file layout that goes with it, which old runtimes can read.
IR_VERSION = 8


def onnx_model(
    module: nn.Sequential,
    input_shape: tuple[int, int, int],
    classes: Sequence[Any],
    loss: str,
    scaler: ImageScaler | None = None,
) -> Any:
    """Build an ONNX model of a classifier: images in, outputs, probabilities and labels out.

    Its input "images" is of shape (batch, H, W, C): the raw pixels, uint8, where the scaler is in the model,
    else float32, scaled as the training images were. Its outputs are "outputs" (batch, K), those of the
    network; "probabilities" (batch, K), in the order of the classes; and "label" (batch,), int64 where
    the labels are integers and strings where they are anything else.

    Parameters
    ----------
    module : torch.nn.Sequential
        Conv2d, ReLU, MaxPool2d or AvgPool2d, Flatten and Linear.
    input_shape : (int, int, int)
        (H, W, C) of an image.
    classes : sequence of length K
        Labels, which are also in the model's metadata under "classes", one per line.
    loss : {"squared", "cross_entropy"}
        Loss of the training, which says how outputs become probabilities.
    scaler : ImageScaler or None, default=None
        Fitted scaler of the images, to be part of the model.

    Returns
    -------
    onnx.ModelProto
        Checked.

    Raises
    ------
    ImportError
        If onnx is not installed.
    ValueError
        If the scaler was fitted on images of another size.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError as error:
        raise ImportError('export to ONNX needs onnx; install it with: pip install "hfcnn[onnx]"') from error

    graph = _Graph()
    images = "images" if scaler is None else _scaled(graph, "images", scaler, input_shape)
    x = graph.add("Transpose", images, perm=[0, 3, 1, 2])
    for operator, parameters, attributes in _operators(module):
        x = graph.add(operator, x, *map(graph.constant, parameters), **attributes)
    graph.add("Identity", x, name="outputs")
    (_softmax if loss == "cross_entropy" else _nearest_probabilities)(graph, "outputs", len(classes))
    labels = np.asarray(classes)
    labels = labels.astype(np.int64 if labels.dtype.kind in "iu" else np.str_)
    largest = graph.add("ArgMax", "outputs", axis=1, keepdims=0)
    graph.add("Gather", graph.constant(labels), largest, axis=0, name="label")

    pixels = TensorProto.FLOAT if scaler is None else TensorProto.UINT8
    names = TensorProto.INT64 if labels.dtype.kind == "i" else TensorProto.STRING
    results = [
        ("outputs", TensorProto.FLOAT, ["batch", len(classes)]),
        ("probabilities", TensorProto.FLOAT, ["batch", len(classes)]),
        ("label", names, ["batch"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "hfcnn",
            [helper.make_tensor_value_info("images", pixels, ["batch", *input_shape])],
            [helper.make_tensor_value_info(*result) for result in results],
            graph.constants,
        ),
        producer_name="hfcnn",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, {"classes": "\n".join(map(str, classes))})
    onnx.checker.check_model(model)
    return model


class _Graph:
    """Nodes and constants of a graph, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        name = name or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a constant, float64 as float32; return its name."""
        from onnx import helper, numpy_helper

        value = np.asarray(value)
        name = f"c{len(self.constants)}"
        if value.dtype.kind == "U":
            text = [item.encode() for item in value.tolist()]
            self.constants.append(helper.make_tensor(name, helper.TensorProto.STRING, value.shape, text))
        else:
            value = value.astype(np.float32) if value.dtype.kind == "f" else value
            self.constants.append(numpy_helper.from_array(value, name))
        return name


def _scaled(graph: _Graph, images: str, scaler: ImageScaler, input_shape: tuple[int, int, int]) -> str:
    """`ImageScaler.transform`: each image to [0, 1] by its own extremes, less the mean training image."""
    mean = np.asarray(scaler.mean_)
    if mean.size != np.prod(input_shape):
        raise ValueError(
            f"the scaler was fitted on images of shape {mean.shape}, the classifier on {input_shape}"
        )
    x = graph.add("Cast", images, to=1)  # float32
    low = graph.add("ReduceMin", x, axes=[1, 2, 3], keepdims=1)
    span = graph.add("Sub", graph.add("ReduceMax", x, axes=[1, 2, 3], keepdims=1), low)
    one = graph.constant(np.float32(1))
    is_flat = graph.add("Equal", span, graph.constant(np.float32(0)))
    span = graph.add("Where", is_flat, one, span)  # pixels all equal become 0
    x = graph.add("Div", graph.add("Sub", x, low), span)
    return graph.add("Sub", x, graph.constant(mean.reshape(input_shape)))


def _softmax(graph: _Graph, outputs: str, n_classes: int) -> None:
    graph.add("Softmax", outputs, axis=1, name="probabilities")


def _nearest_probabilities(graph: _Graph, outputs: str, n_classes: int) -> None:
    """Point of the probability simplex that is nearest to the outputs: see `SquaredLoss.probabilities`."""
    one = graph.constant(np.array([1], np.int64))
    largest = f"{outputs}_sorted"
    graph.add("TopK", outputs, graph.constant(np.array([n_classes], np.int64)), axis=1, name=largest)
    graph.nodes[-1].output.append("order")
    total = graph.add("CumSum", largest, graph.constant(np.array(1, np.int64)))
    counts = graph.constant(np.arange(1, n_classes + 1, dtype=np.float32))
    excess = graph.add("Div", graph.add("Sub", total, graph.constant(np.float32(1))), counts)
    is_positive = graph.add("Cast", graph.add("Greater", largest, excess), to=7)  # int64
    n_positive = graph.add("ReduceSum", is_positive, one, keepdims=1)
    last = graph.add("Sub", graph.add("Max", n_positive, one), one)
    shift = graph.add("GatherElements", excess, last, axis=1)
    p = graph.add("Relu", graph.add("Sub", outputs, shift))
    graph.add("Div", p, graph.add("ReduceSum", p, one, keepdims=1), name="probabilities")


def _operators(module: nn.Sequential) -> Iterator[tuple[str, list[NDArray[Any]], dict[str, Any]]]:
    """Yield each module's ONNX operator, its weights and its attributes."""
    for part in module:
        if isinstance(part, nn.Conv2d):
            assert not isinstance(part.padding, str)  # `Network.to_torch` gives numbers
            down, across = part.padding
            pads = [down, across, down, across]
            shapes = {"kernel_shape": part.kernel_size, "strides": part.stride, "pads": pads}
            yield "Conv", _weights(part), shapes
        elif isinstance(part, nn.Linear):
            yield "Gemm", _weights(part), {"transB": 1}
        elif isinstance(part, nn.MaxPool2d):
            yield "MaxPool", [], {"kernel_shape": part.kernel_size, "strides": part.stride}
        elif isinstance(part, nn.AvgPool2d):
            yield "AveragePool", [], {"kernel_shape": part.kernel_size, "strides": part.stride}
        else:
            yield {nn.ReLU: "Relu", nn.Flatten: "Flatten"}[type(part)], [], {}


def _weights(part: nn.Conv2d | nn.Linear) -> list[NDArray[Any]]:
    assert part.bias is not None
    return [part.weight.detach().numpy(), part.bias.detach().numpy()]

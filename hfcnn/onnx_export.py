"""Export to ONNX: the graph is built node by node from the torch module, without tracing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

__all__ = ["onnx_model"]

#: Operator set of the graph: the oldest in which all its operators take their present form.
OPSET = 13

#: Version of the file layout that goes with it, which old runtimes can read.
IR_VERSION = 8


def onnx_model(module: nn.Sequential, input_shape: tuple[int, int, int], classes: list[Any]) -> Any:
    """Build an ONNX model: float32 images (batch, H, W, C) in, outputs (batch, K) out.

    Parameters
    ----------
    module : torch.nn.Sequential
        Conv2d, ReLU, MaxPool2d or AvgPool2d, Flatten and Linear.
    input_shape : (int, int, int)
        (H, W, C) of an image.
    classes : list
        Labels, stored in the model's metadata under "classes".

    Returns
    -------
    onnx.ModelProto
        Checked.

    Raises
    ------
    ImportError
        If onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ImportError('export to ONNX needs onnx; install it with: pip install "hfcnn[onnx]"') from error

    nodes = [helper.make_node("Transpose", ["images"], ["x0"], perm=[0, 3, 1, 2])]
    weights = []
    for number, (operator, parameters, attributes) in enumerate(_operators(module)):
        names = [f"{name}{number}" for name in parameters]
        weights += [
            numpy_helper.from_array(value, name)
            for name, value in zip(names, parameters.values(), strict=True)
        ]
        nodes.append(helper.make_node(operator, [f"x{number}", *names], [f"x{number + 1}"], **attributes))
    nodes[-1].output[0] = "outputs"
    n_outputs = weights[-1].dims[0]
    graph = helper.make_graph(
        nodes,
        "hfcnn",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *input_shape])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", n_outputs])],
        weights,
    )
    model = helper.make_model(
        graph, producer_name="hfcnn", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    helper.set_model_props(model, {"classes": "\n".join(map(str, classes))})
    onnx.checker.check_model(model)
    return model


def _operators(module: nn.Sequential) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each module's ONNX operator, its weights and its attributes."""
    for part in module:
        if isinstance(part, nn.Conv2d):
            assert not isinstance(part.padding, str)  # `Network.to_torch` gives numbers
            down, across = part.padding
            yield (
                "Conv",
                _weights(part),
                {
                    "kernel_shape": part.kernel_size,
                    "strides": part.stride,
                    "pads": [down, across, down, across],
                },
            )
        elif isinstance(part, nn.Linear):
            yield "Gemm", _weights(part), {"transB": 1}
        elif isinstance(part, nn.MaxPool2d):
            yield "MaxPool", {}, {"kernel_shape": part.kernel_size, "strides": part.stride}
        elif isinstance(part, nn.AvgPool2d):
            yield "AveragePool", {}, {"kernel_shape": part.kernel_size, "strides": part.stride}
        else:
            yield {nn.ReLU: "Relu", nn.Flatten: "Flatten"}[type(part)], {}, {}


def _weights(part: nn.Conv2d | nn.Linear) -> dict[str, Any]:
    assert part.bias is not None
    return {
        "weight": part.weight.detach().numpy().astype(np.float32),
        "bias": part.bias.detach().numpy().astype(np.float32),
    }

"""The kinds of layers: what the user writes (`Conv`, `Dense`), and the same with its shapes known.

All that depends on the kind of a layer is in its class here; the rest of the package goes through a network's
layers by the interface of `Layer`. To add a kind: a description and a layer in a module of their own, and a
line in `LAYER_KINDS`.
"""

from __future__ import annotations

from hfcnn.layers.base import Layer, LayerDescription, LayerShape, Pair
from hfcnn.layers.conv import Conv, ConvLayer
from hfcnn.layers.dense import Dense, DenseLayer

__all__ = [
    "LAYER_KINDS",
    "Conv",
    "ConvLayer",
    "Dense",
    "DenseLayer",
    "Layer",
    "LayerDescription",
    "Pair",
    "LayerShape",
]

#: Descriptions by name, for files.
LAYER_KINDS: dict[str, type[LayerDescription]] = {kind.__name__: kind for kind in (Conv, Dense)}

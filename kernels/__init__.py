"""Triton kernels of the layer operations: twins of the functions in `hfcnn.ops`, by name and argument order.

`launches` describes what an op runs on a target, with no GPU and no tensors.
"""

from .launch import OPS, TARGETS, Launch, Target, launches
from .ops import (
    cg_update,
    conv_cotangent_gram,
    conv_forward,
    conv_images,
    conv_jvp,
    conv_patch_gram,
    conv_value,
    conv_vjp,
    conv_vjp_input,
    conv_vjp_weight,
    conv_weight,
    jacobian_jvp,
    jacobian_vjp,
)

__all__ = [
    "OPS",
    "TARGETS",
    "Launch",
    "Target",
    "cg_update",
    "conv_cotangent_gram",
    "conv_forward",
    "conv_images",
    "conv_jvp",
    "conv_patch_gram",
    "conv_value",
    "conv_vjp",
    "conv_vjp_input",
    "conv_vjp_weight",
    "conv_weight",
    "jacobian_jvp",
    "jacobian_vjp",
    "launches",
]

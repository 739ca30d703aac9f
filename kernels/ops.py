"""The kernels behind the interface of `hfcnn.ops`: twins by name and argument order.

`precision` is an extra keyword of every convolution. Selections are uint8 codes here. Dense layers and
`parameter_jacobian` are torch's matrix products and have no twin.
"""

from __future__ import annotations

from .borders import conv_images
from .cg_update import cg_update
from .conv_forward import conv_forward, conv_value
from .conv_jvp import conv_jvp
from .conv_vjp_input import conv_vjp_input
from .conv_vjp_weight import conv_vjp, conv_vjp_weight
from .gram import conv_cotangent_gram, conv_patch_gram
from .jacobian_jvp import jacobian_jvp
from .jacobian_vjp import jacobian_vjp
from .weights import conv_weight

__all__ = [
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
]

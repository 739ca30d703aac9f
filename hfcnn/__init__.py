"""Convolutional networks trained by subsampled Gauss-Newton, as a scikit-learn classifier."""

from hfcnn._version import __version__
from hfcnn.gauss_newton import GaussNewton
from hfcnn.jacobian import StoredJacobian
from hfcnn.linearize import Linearization
from hfcnn.network import Conv, Dense, Network
from hfcnn.objective import Objective

__all__ = [
    "Conv",
    "Dense",
    "GaussNewton",
    "Linearization",
    "Network",
    "Objective",
    "StoredJacobian",
    "__version__",
]

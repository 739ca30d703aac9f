"""Convolutional networks trained by subsampled Gauss-Newton, as a scikit-learn classifier."""

from hfcnn._version import __version__
from hfcnn.datasets import load
from hfcnn.estimator import NewtonCNNClassifier, SGDCNNClassifier
from hfcnn.gauss_newton import GaussNewton
from hfcnn.linearization import Linearization
from hfcnn.network import Conv, Dense, Network
from hfcnn.objective import Objective
from hfcnn.preprocessing import ImageScaler
from hfcnn.stored_jacobian import StoredJacobian

__all__ = [
    "Conv",
    "Dense",
    "GaussNewton",
    "ImageScaler",
    "Linearization",
    "Network",
    "NewtonCNNClassifier",
    "Objective",
    "SGDCNNClassifier",
    "StoredJacobian",
    "__version__",
    "load",
]

"""A small problem that the estimator tests share: two hundred 8x8 digits and a network of two layers."""

import numpy as np
from sklearn.datasets import load_digits

from hfcnn import Conv, NewtonCNNClassifier, SGDCNNClassifier

NETWORK = [Conv(4, 3, pool=2), Conv(6, 3, pool=2)]


def digits(n=200, dtype=np.float32):
    """Images (n, 8, 8) in [0, 1] and labels 0 ... 9."""
    images, labels = load_digits(return_X_y=True)
    return (images[:n].reshape(-1, 8, 8) / 16).astype(dtype), labels[:n]


def newton(**parameters):
    """A Newton classifier that fits in a fraction of a second."""
    return NewtonCNNClassifier(
        **{"network": NETWORK, "C": 1.0, "max_iter": 3, "random_state": 0} | parameters
    )


def sgd(**parameters):
    """A stochastic gradient classifier that fits in a fraction of a second."""
    defaults = {
        "network": NETWORK,
        "C": 1.0,
        "learning_rate": 0.02,
        "max_iter": 3,
        "random_state": 0,
        "sgd_batch_size": 32,
    }
    return SGDCNNClassifier(**defaults | parameters)


def kfac(*, max_iter=3, **parameters):
    """A stochastic Gauss-Newton classifier that fits in a fraction of a second; `max_iter` is its epochs."""
    defaults = {"network": NETWORK, "C": 1.0, "epochs": max_iter, "random_state": 0}
    return NewtonCNNClassifier(**defaults | parameters)


BOTH = [newton, sgd, kfac]

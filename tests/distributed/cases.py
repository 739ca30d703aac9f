"""Fits that one process and several make alike."""

import numpy as np
from sklearn.datasets import load_digits

from hfcnn import Conv, Dense, NewtonCNNClassifier, SGDCNNClassifier

NETWORK = [Conv(4, 3, pool=2), Conv(6, 3, pool=2)]


def digits(n=150):
    """Images (n, 8, 8) in float64 and labels."""
    images, labels = load_digits(return_X_y=True)
    return images[:n].reshape(-1, 8, 8) / 16, labels[:n]


X, Y = digits()
WEIGHT = np.random.default_rng(0).uniform(0.2, 2, len(X))
X_VAL, Y_VAL = digits(220)[0][150:], digits(220)[1][150:]

#: Raw pixels in float64, which are scaled; the first image, all that one process may have, does not show it.
PIXELS = np.rint(16 * X)
PIXELS[0] = 0
#: Numbers that are not scaled, though the first image looks like pixels.
HARDLY_PIXELS = np.concatenate([np.rint(16 * X[:1]), X[1:]])

COMMON = {"network": NETWORK, "C": 1.0, "max_iter": 5, "random_state": 0, "n_jobs": 1}


def newton(**parameters):
    return NewtonCNNClassifier(**COMMON | parameters)


def kfac(**parameters):
    return NewtonCNNClassifier(**COMMON | {"max_iter": None, "epochs": 5} | parameters)


def sgd(**parameters):
    return SGDCNNClassifier(**COMMON | {"learning_rate": 0.02, "sgd_batch_size": 32} | parameters)


#: By name: the classifier, and the arguments of `fit` after images and labels. Damped where nothing else
#: keeps CG from magnifying rounding: at the defaults, another batch size alone changes theta by 3e-7 in five
#: iterations.
CASES = {
    "newton": (newton(damping=10.0), {}),
    "newton-jacobian-weights": (
        newton(gauss_newton="jacobian", loss="cross_entropy", batch_size=7),
        {"sample_weight": WEIGHT},
    ),
    "newton-little-memory-validation": (
        newton(gauss_newton="rop", memory=0, sampling_rate=0.3, sampling="cycle", damping=10.0),
        {"X_val": X_VAL, "y_val": Y_VAL},
    ),
    "newton-early-stopping-balanced": (
        newton(early_stopping=True, class_weight="balanced", damping=10.0),
        {},
    ),
    "newton-rejected-trials": (
        newton(
            network=[Conv(4, 3, pool=2, pooling="average"), Dense(8)],
            **{"damping": 1e-3, "sampling_rate": 3, "loss": "cross_entropy", "cg_max_iter": 4},
        ),
        {},
    ),
    "newton-few-in-S": (newton(sampling_rate=2, damping=10.0), {}),
    "kfac": (kfac(), {}),
    "kfac-weights-squared": (kfac(loss="squared", batch_size=7), {"sample_weight": WEIGHT}),
    "kfac-augmented-validation": (
        kfac(network=[Conv(4, 3), Dense(8)], augment="shift+flip", batch_size=9),
        {"X_val": X_VAL, "y_val": Y_VAL},
    ),
    "kfac-pixels": (kfac(), {}),
    "kfac-hardly-pixels": (kfac(), {}),
    "newton-pixels-scoring": (
        newton(damping=10.0, early_stopping=True, scoring="f1_macro"),
        {"X_val": np.rint(16 * X_VAL), "y_val": Y_VAL},
    ),
    "kfac-early-stopping-balanced": (kfac(early_stopping=True, class_weight="balanced"), {}),
    "sgd": (sgd(), {}),
    "sgd-weights": (sgd(loss="cross_entropy"), {"sample_weight": WEIGHT}),
    "sgd-early-stopping": (sgd(early_stopping=True), {}),
}
#: Images of a case, if not X.
IMAGES = {"kfac-pixels": PIXELS, "kfac-hardly-pixels": HARDLY_PIXELS, "newton-pixels-scoring": PIXELS}

#: Of these, each process passes its own images.
GIVEN = [
    *("newton", "newton-jacobian-weights", "newton-little-memory-validation", "sgd", "sgd-weights"),
    *("kfac", "kfac-weights-squared", "kfac-augmented-validation"),
    *("kfac-pixels", "kfac-hardly-pixels", "newton-pixels-scoring"),
]


def uneven(rank, size):
    """A block of the images for each process: one image for the first, most for the last."""
    bounds = {1: [0, 150], 2: [0, 1, 150], 3: [0, 1, 40, 150]}[size]
    return slice(bounds[rank], bounds[rank + 1])

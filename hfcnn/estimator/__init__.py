"""The scikit-learn classifiers around the solvers."""

from hfcnn.estimator.newton import NewtonCNNClassifier
from hfcnn.estimator.sgd import SGDCNNClassifier

__all__ = ["NewtonCNNClassifier", "SGDCNNClassifier"]

"""Convolutional networks trained by subsampled Gauss-Newton, as a scikit-learn classifier."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hfcnn._version import __version__

if TYPE_CHECKING:
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

#: The module of each name, imported once the name is asked for: torch and scikit-learn take seconds.
_MODULES = {
    "Conv": "network",
    "Dense": "network",
    "GaussNewton": "gauss_newton",
    "ImageScaler": "preprocessing",
    "Linearization": "linearization",
    "Network": "network",
    "NewtonCNNClassifier": "estimator",
    "Objective": "objective",
    "SGDCNNClassifier": "estimator",
    "StoredJacobian": "stored_jacobian",
    "load": "datasets",
}


if not TYPE_CHECKING:  # type checkers take the imports above, and know what is not there

    def __getattr__(name: str) -> Any:
        """Import a public name, or a module of this package, when it is first asked for (PEP 562)."""
        if name in _MODULES:
            value = getattr(importlib.import_module(f"hfcnn.{_MODULES[name]}"), name)
            globals()[name] = value
            return value
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"hfcnn.{name}")
            except ModuleNotFoundError as error:
                if error.name != f"hfcnn.{name}":
                    raise
        raise AttributeError(f"module 'hfcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Names that are there, imported or not."""
    return sorted({*globals(), *__all__})

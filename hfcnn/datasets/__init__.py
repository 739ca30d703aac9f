"""Image data sets in the formats in which they are published."""

from hfcnn.datasets.files import DatasetError, MissingPartError
from hfcnn.datasets.loading import load

__all__ = ["DatasetError", "MissingPartError", "load"]

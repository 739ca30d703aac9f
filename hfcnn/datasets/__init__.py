"""Image data sets in the formats in which they are published, and a person's own images."""

from hfcnn.datasets.arrays import to_arrays
from hfcnn.datasets.files import DatasetError, MissingPartError
from hfcnn.datasets.loading import load
from hfcnn.datasets.shards import Shards
from hfcnn.datasets.unlabelled import load_images

__all__ = ["DatasetError", "MissingPartError", "Shards", "load", "load_images", "to_arrays"]

"""Numbers that the paper publishes.

Chien-Chih Wang, Kent Loong Tan, Chih-Jen Lin: Newton Methods for Convolutional Neural Networks. ACM
Transactions on Intelligent Systems and Technology 11(2), 2020. Accuracies are in per cent.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CITATION",
    "C_VALUES",
    "DATASETS",
    "LEARNING_RATES",
    "OTHER_DATASETS",
    "SAMPLING_RATES",
    "TABLE5",
    "TABLE6",
    "PaperDataset",
    "Table5Entry",
    "Table6Row",
    "title",
]

CITATION = (
    "C.-C. Wang, K. L. Tan, C.-J. Lin: Newton Methods for Convolutional Neural Networks. "
    "ACM Transactions on Intelligent Systems and Technology 11(2), 2020"
)


@dataclass(frozen=True)
class PaperDataset:
    """A row of Table 3."""

    title: str
    n_train: int
    n_test: int


@dataclass(frozen=True)
class Table5Entry:
    """Mean test accuracy of five seeds, and the initial learning rate that cross validation chose for SG."""

    newton: float
    sg: float
    learning_rate: float


@dataclass(frozen=True)
class Table6Row:
    """Mean test accuracy of five seeds, by sampling rate for Newton and by initial learning rate for SG."""

    newton: dict[float, float]
    sg: dict[float, float]


#: Table 3, by the names that data sets have here.
DATASETS = {
    "mnist": PaperDataset("MNIST", 60_000, 10_000),
    "svhn": PaperDataset("SVHN", 73_257, 26_032),
    "cifar10": PaperDataset("CIFAR10", 50_000, 10_000),
    "smallnorb": PaperDataset("smallNORB", 24_300, 24_300),
}

#: Data sets that the paper does not have, described alike.
OTHER_DATASETS = {"fashion-mnist": PaperDataset("Fashion-MNIST", 60_000, 10_000)}

#: Table 5, by data set and network.
TABLE5 = {
    ("mnist", "cnn3"): Table5Entry(99.27, 99.17, 0.003),
    ("svhn", "cnn3"): Table5Entry(92.75, 93.06, 0.003),
    ("cifar10", "cnn3"): Table5Entry(78.32, 79.58, 0.003),
    ("smallnorb", "cnn3"): Table5Entry(95.05, 95.06, 0.001),
    ("mnist", "cnn5"): Table5Entry(99.43, 99.42, 0.001),
    ("svhn", "cnn5"): Table5Entry(94.28, 93.75, 0.003),
    ("cifar10", "cnn5"): Table5Entry(80.19, 79.63, 0.0003),
    ("smallnorb", "cnn5"): Table5Entry(95.30, 94.59, 0.001),
}

#: Table 6: C in units of l, shares of the images in S, initial learning rates of SG.
C_VALUES = (0.01, 0.1, 1.0)
SAMPLING_RATES = (0.1, 0.05, 0.01)
LEARNING_RATES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)


def _row(*accuracies: float) -> Table6Row:
    newton, sg = accuracies[: len(SAMPLING_RATES)], accuracies[len(SAMPLING_RATES) :]
    return Table6Row(
        dict(zip(SAMPLING_RATES, newton, strict=True)), dict(zip(LEARNING_RATES, sg, strict=True))
    )


#: Table 6, by data set and C in units of l.
TABLE6 = {
    ("mnist", 0.01): _row(99.28, 99.27, 99.18, 9.82, 9.96, 10.31, 99.17, 99.22, 99.05, 98.82),
    ("mnist", 0.1): _row(99.22, 99.27, 99.06, 9.82, 9.96, 10.31, 99.12, 99.18, 98.91, 98.70),
    ("mnist", 1.0): _row(99.05, 99.15, 99.02, 9.82, 9.96, 10.31, 98.90, 99.03, 98.87, 98.69),
    ("svhn", 0.01): _row(92.79, 92.75, 92.21, 19.59, 19.59, 92.40, 93.06, 92.77, 92.35, 90.68),
    ("svhn", 0.1): _row(92.11, 92.29, 91.89, 19.59, 19.59, 90.80, 91.17, 91.63, 91.74, 90.32),
    ("svhn", 1.0): _row(91.20, 91.99, 91.81, 19.59, 19.59, 87.87, 89.81, 91.27, 91.57, 90.23),
    ("cifar10", 0.01): _row(78.27, 78.32, 75.46, 10.00, 10.00, 63.10, 79.58, 79.20, 76.94, 71.55),
    ("cifar10", 0.1): _row(74.19, 74.68, 73.24, 10.00, 10.00, 47.38, 71.29, 73.41, 73.99, 70.24),
    ("cifar10", 1.0): _row(72.75, 73.54, 72.61, 10.00, 10.00, 55.45, 67.17, 71.28, 73.03, 69.88),
    ("smallnorb", 0.01): _row(94.94, 95.05, 94.66, 20.00, 64.73, 95.03, 95.08, 95.06, 94.87, 94.38),
    ("smallnorb", 0.1): _row(95.90, 95.41, 94.23, 20.00, 77.45, 95.78, 96.02, 95.64, 95.06, 94.23),
    ("smallnorb", 1.0): _row(94.89, 94.83, 93.97, 20.00, 47.35, 94.78, 94.88, 94.79, 94.66, 94.07),
}


def title(dataset: str) -> str:
    """Name of a data set as the paper writes it, or as it is where it is not known."""
    known = DATASETS | OTHER_DATASETS
    return known[dataset].title if dataset in known else dataset

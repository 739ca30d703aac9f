"""What the tables and figures have in common: which cells to run, and SG's choice of its learning rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from hfcnn.experiments.data import N_FOLDS
from hfcnn.experiments.paper import TABLE5
from hfcnn.experiments.record import CellRecord
from hfcnn.experiments.runner import Runner
from hfcnn.experiments.settings import CellSettings

__all__ = ["C", "SAMPLING_RATE", "SEARCHED_RATES", "Plan", "RateChoice", "choose_rate", "evaluate_search"]

#: C in units of l, and the share of the images in S (Sec. 6.2).
C, SAMPLING_RATE = 0.01, 0.05

#: Initial learning rates that SG's cross validation tries (Sec. 6.2).
SEARCHED_RATES = (0.003, 0.001, 0.0003, 0.0001)

#: Without a search on a data set that the paper does not have: the rate it found best for most.
USUAL_RATE = 0.003


@dataclass(frozen=True)
class RateChoice:
    """SG's initial learning rate, and what it took to choose it.

    Attributes
    ----------
    rate : float
        The rate.
    is_searched : bool
        Whether by cross validation; else it is the paper's.
    seconds, passes : float
        Time of all its runs, and their passes over the whole training set.
    epochs : int
        Epochs of each run.
    accuracies : dict of float to float
        Mean validation accuracy of each rate.
    """

    rate: float
    is_searched: bool = False
    seconds: float = 0.0
    passes: float = 0.0
    epochs: int = 0
    accuracies: dict[float, float] | None = None


@dataclass(frozen=True)
class Plan:
    """What to run of a table or figure; the defaults are the paper's.

    Attributes
    ----------
    datasets, networks : tuple of str
        Which.
    seeds : int
        Seeds 0, 1, ... below this.
    iterations, epochs : int
        Of Newton and of SG.
    search_epochs : int or None
        Epochs of a run of the cross validation; None is `epochs`, 0 is no search.
    train_size, test_size : int or None
        Images; None is all.
    """

    datasets: tuple[str, ...]
    networks: tuple[str, ...] = ("cnn3", "cnn5")
    seeds: int = 5
    iterations: int = 100
    epochs: int = 1000
    search_epochs: int | None = None
    train_size: int | None = None
    test_size: int | None = None

    def newton(
        self, dataset: str, network: str, seed: int, *, C: float = C, sampling_rate: float = SAMPLING_RATE
    ) -> CellSettings:
        """Build a cell of Newton."""
        return CellSettings(
            dataset,
            network,
            "newton",
            C,
            sampling_rate=sampling_rate,
            seed=seed,
            iterations=self.iterations,
            train_size=self.train_size,
            test_size=self.test_size,
        )

    def sg(
        self, dataset: str, network: str, seed: int, rate: float, *, C: float = C, method: str = "sg"
    ) -> CellSettings:
        """Build a cell of SG."""
        return CellSettings(
            dataset,
            network,
            method,
            C,
            learning_rate=rate,
            seed=seed,
            iterations=self.epochs,
            train_size=self.train_size,
            test_size=self.test_size,
        )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each data set with each network."""
        return ((dataset, network) for dataset in self.datasets for network in self.networks)

    def search(self, dataset: str, network: str) -> list[CellSettings]:
        """Build the cells of SG's stratified five-fold cross validation; none if it is not wanted."""
        epochs = self.epochs if self.search_epochs is None else self.search_epochs
        return [
            CellSettings(
                dataset,
                network,
                "sg",
                C,
                learning_rate=rate,
                iterations=epochs,
                train_size=self.train_size,
                fold=fold,
            )
            for rate in (SEARCHED_RATES if epochs else ())
            for fold in range(N_FOLDS)
        ]


def choose_rate(runner: Runner, plan: Plan, dataset: str, network: str) -> RateChoice:
    """Choose SG's initial learning rate by cross validation, or take the paper's if there is to be none."""
    records = runner.run(plan.search(dataset, network))
    return evaluate_search(records, dataset, network)


def evaluate_search(records: Iterable[CellRecord], dataset: str, network: str) -> RateChoice:
    """Evaluate a cross validation, or take the paper's rate where there is none.

    Parameters
    ----------
    records : iterable of CellRecord
        Cells of one size of `dataset`, among which are those of the search. Of several searches, the
        complete one of most epochs counts.
    dataset, network : str
        What it is for.

    Returns
    -------
    RateChoice
        The rate of best mean accuracy over the folds; the larger one of equals.
    """
    searches: dict[int, list[CellRecord]] = defaultdict(list)
    for record in records:
        settings = record.settings
        is_here = (settings.dataset, settings.network) == (dataset, network)
        if is_here and settings.fold is not None and record.is_done:
            searches[settings.iterations].append(record)
    complete = {
        epochs: runs for epochs, runs in searches.items() if len(runs) == len(SEARCHED_RATES) * N_FOLDS
    }
    if not complete:
        published = TABLE5.get((dataset, network))
        return RateChoice(published.learning_rate if published else USUAL_RATE)
    epochs = max(complete)
    return _evaluate(epochs, complete[epochs])


def _evaluate(epochs: int, runs: list[CellRecord]) -> RateChoice:
    by_rate: dict[float, list[float]] = {rate: [] for rate in SEARCHED_RATES}
    for run in runs:
        assert run.settings.learning_rate is not None
        by_rate[run.settings.learning_rate].append(run.last("test_accuracy"))
    accuracies = {rate: float(np.mean(values)) for rate, values in by_rate.items()}
    return RateChoice(
        rate=max(SEARCHED_RATES, key=lambda rate: (accuracies[rate], rate)),
        is_searched=True,
        seconds=sum(run.last("seconds") for run in runs),
        passes=sum(run.last("passes") * run.n_train / (run.n_train + run.n_test) for run in runs),
        epochs=epochs,
        accuracies=accuracies,
    )

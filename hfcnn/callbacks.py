"""Ready callbacks that log a fit: to TensorBoard and to MLflow."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["MLflowLogger", "TensorBoardLogger"]


class TensorBoardLogger:
    """Write each iteration's numbers for TensorBoard.

    Parameters
    ----------
    folder : str or path
        Folder of the run's event files; made if it is not there.

    Examples
    --------
    ``NewtonCNNClassifier(callbacks=TensorBoardLogger("runs/first"))``, then ``tensorboard --logdir runs``.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def __call__(self, row: Mapping[str, float]) -> None:
        """Write a row of `history_`.

        Parameters
        ----------
        row : mapping of str to float
            The numbers by name.

        Raises
        ------
        ImportError
            If tensorboard is not installed.
        """
        if self._writer is None:
            try:
                tensorboard: Any = importlib.import_module("torch.utils.tensorboard")
            except ImportError as error:
                raise ImportError("TensorBoardLogger needs tensorboard: pip install tensorboard") from error
            self._writer = tensorboard.SummaryWriter(str(self.folder))
        for name, value in row.items():
            if name != "iteration":
                self._writer.add_scalar(name, value, int(row["iteration"]))
        self._writer.flush()

    def __getstate__(self) -> dict[str, Any]:
        """What pickles hold: the folder, no open file."""
        return {"folder": self.folder, "_writer": None}


class MLflowLogger:
    """Log each iteration's numbers to MLflow, in the run that is active, or in one that MLflow begins."""

    def __call__(self, row: Mapping[str, float]) -> None:
        """Log a row of `history_`.

        Parameters
        ----------
        row : mapping of str to float
            The numbers by name.

        Raises
        ------
        ImportError
            If mlflow is not installed.
        """
        try:
            mlflow: Any = importlib.import_module("mlflow")
        except ImportError as error:
            raise ImportError("MLflowLogger needs mlflow: pip install mlflow-skinny") from error
        numbers = {name: float(value) for name, value in row.items() if name != "iteration"}
        mlflow.log_metrics(numbers, step=int(row["iteration"]))

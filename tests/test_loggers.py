"""The ready callbacks write what `history_` holds."""

import pickle
import sys
import types

import pytest
from small import digits, newton

from hfcnn.callbacks import MLflowLogger, TensorBoardLogger

X, y = digits(60)


def test_tensorboard_reads_what_was_logged(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    classifier = newton(callbacks=TensorBoardLogger(tmp_path)).fit(X, y)
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    logged = events.Scalars("f")
    assert [event.step for event in logged] == [1, 2, 3]
    assert [event.value for event in logged] == pytest.approx(classifier.history_["f"])
    assert pickle.loads(pickle.dumps(classifier)).callbacks.folder == tmp_path


def test_mlflow_is_told_each_iteration(monkeypatch):
    calls = []
    module = types.ModuleType("mlflow")
    module.log_metrics = lambda metrics, step: calls.append((step, metrics))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    classifier = newton(callbacks=MLflowLogger()).fit(X, y)
    assert [step for step, _ in calls] == [1, 2, 3]
    assert [metrics["f"] for _, metrics in calls] == classifier.history_["f"].tolist()

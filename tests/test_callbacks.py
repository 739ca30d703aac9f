"""The user's callbacks, scikit-learn's, and the table of an iteration a row."""

import io

import numpy as np
import pytest
from rich.console import Console
from small import BOTH, digits, newton

from hfcnn.estimator.progress import Progress

X, y = digits(100)


@pytest.mark.parametrize("make", BOTH)
def test_callbacks_get_each_row_of_the_history(make):
    rows, others = [], []
    classifier = make(callbacks=[rows.append, others.append]).fit(X, y, X_val=X, y_val=y)
    assert len(rows) == len(others) == 3
    for name, column in classifier.history_.items():
        np.testing.assert_array_equal([row[name] for row in rows], column)


@pytest.mark.parametrize("make", BOTH)
def test_a_callback_can_stop_the_fit(make):
    after = []
    classifier = make(callbacks=[lambda record: record["iteration"] == 2, after.append]).fit(X, y)
    assert classifier.n_iter_ == len(after) == 2


def test_a_callback_cannot_change_the_history():
    classifier = newton(callbacks=lambda record: record.clear()).fit(X, y)
    assert len(classifier.history_["f"]) == 3


def test_partial_fit_calls_back():
    rows = []
    newton(callbacks=rows.append).partial_fit(X, y, classes=np.unique(y))
    assert len(rows) == 1


class Listener:
    """A callback of scikit-learn's protocol that writes down what it is told."""

    def __init__(self, stop_at=None):
        self.events = []
        self.scores = []
        self.stop_at = stop_at

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name} {context.task_id}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name} {context.task_id}")
        if fitted_estimator is not None:
            self.scores.append(fitted_estimator.score(X, y))
        return context.task_id == self.stop_at and context.parent is not None

    def teardown(self, estimator, context):
        self.events.append("teardown")


@pytest.fixture
def protocol():
    return pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks since 1.9")


@pytest.mark.parametrize("make", BOTH)
def test_scikit_learns_callbacks(make, protocol):
    listener = Listener()
    classifier = make(max_iter=2).set_callbacks(listener).fit(X, y, np.full(len(X), 2.0))
    assert listener.events == [
        "setup",
        "begin fit 0",
        "begin iteration 0",
        "end iteration 0",
        "begin iteration 1",
        "end iteration 1",
        "end fit 0",
        "teardown",
    ]
    assert listener.scores[1] == listener.scores[2] == classifier.score(X, y)


def test_scikit_learns_callbacks_can_stop(protocol):
    listener = Listener(stop_at=1)
    assert newton(max_iter=5).set_callbacks(listener).fit(X, y).n_iter_ == 2
    begun = [event for event in listener.events if event.startswith("begin")]
    ended = [event for event in listener.events if event.startswith("end")]
    assert len(begun) == len(ended)


def test_scikit_learns_callbacks_are_told_of_an_error(protocol):
    listener = Listener()
    with pytest.raises(ValueError, match="n_jobs"):
        newton(n_jobs=0).set_callbacks(listener).fit(X, y)
    assert listener.events[-1] == "teardown"


def test_scikit_learns_progress_bar_reaches_through_a_pipeline(protocol, capsys):
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(newton(max_iter=1), {"C": [0.1, 1.0]}, cv=2)
    search.set_callbacks(protocol.ProgressBar(max_propagation_depth=2)).fit(X, y)
    assert "GridSearchCV" in capsys.readouterr().out


# The table


def test_verbose_prints_a_line_an_iteration(capsys):
    newton(verbose=1).fit(X, y, X_val=X, y_val=y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("network of ")
    assert "100 images, |S| = 100, product: auto, torch on " in lines[0]
    assert "form" in lines[1]
    assert lines[2].split() == "iter f |g| alpha rho lambda #CG train valid seconds".split()
    assert [line.split()[0] for line in lines[3:]] == ["1", "2", "3"]


def test_verbose_of_sgd(capsys):
    BOTH[1](verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert "|S| = 32" in lines[0]
    assert lines[1].split() == "iter f |g| rate train seconds".split()
    assert len(lines) == 5


def test_silence_is_the_default(capsys):
    newton().fit(X, y)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_the_time_that_remains():
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)

    class Shown(type(newton())):
        def _progress(self, objective, solver):
            return [Progress(self._title(objective, solver), solver.last, console)]

        __init__ = type(newton()).__init__

    Shown(**newton().get_params()).fit(X, y)
    text = written.getvalue()
    assert "3/3" in text and "0:00:" in text
    assert text.count("%") >= 3

"""Kills and interrupts at any moment: checkpoints load, resumed runs are bit-equal, no model is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from small import digits, newton

from hfcnn import NewtonCNNClassifier

X, y = digits(100)
ITERATIONS = 6

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def interruptible():
    """Where a shell has started the tests in the background, SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


KILLED_FITS = """
import os, random, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from small import digits, newton
X, y = digits(100)
start = time.perf_counter()
newton(max_iter=6, n_jobs=1, checkpoint=sys.argv[2] + "whole").fit(X, y)
duration = time.perf_counter() - start
rng = random.Random(0)
for number in range(50):
    delay = rng.random() * duration
    child = os.fork()
    if child == 0:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
        newton(max_iter=6, n_jobs=1, checkpoint=sys.argv[2] + str(number)).fit(X, y)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    whole = newton(max_iter=ITERATIONS, n_jobs=1).fit(X, y)
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    subprocess.run([sys.executable, "-c", KILLED_FITS, tests, tmp_path / "run"], check=True)
    n_resumed = 0
    for number in range(50):
        path = tmp_path / f"run{number}"
        if path.exists():
            n_resumed += 1
            resumed = newton(max_iter=ITERATIONS, n_jobs=1, checkpoint=path).fit(X, y, resume_from=path)
            np.testing.assert_array_equal(resumed.theta_, whole.theta_)
    assert n_resumed > 10
    assert all(path.name.startswith("run") for path in tmp_path.iterdir())  # no temporary is left


@pytest.mark.slow
def test_two_hundred_interrupts(tmp_path):
    path = tmp_path / "run"
    start = time.perf_counter()
    whole = newton(max_iter=ITERATIONS, n_jobs=1).fit(X, y, X_val=X, y_val=y)
    duration = time.perf_counter() - start
    thetas = {}
    newton(max_iter=1).fit(X, y)
    for n in range(1, ITERATIONS + 1):
        thetas[n] = newton(max_iter=n, n_jobs=1).fit(X, y).theta_
    rng = random.Random(0)
    n_stored = 0
    for _ in range(200):
        path.unlink(missing_ok=True)
        classifier = newton(max_iter=ITERATIONS, n_jobs=1, checkpoint=path)
        timer = threading.Timer(rng.random() * duration, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()  # here, as it may go off at once
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                classifier.fit(X, y, X_val=X, y_val=y)
            timer.cancel()
            timer.join()
        except KeyboardInterrupt:
            pass
        if hasattr(classifier, "theta_"):
            n_stored += 1
            n = classifier.n_iter_
            assert len(classifier.history_["f"]) == n
            np.testing.assert_array_equal(classifier.theta_, thetas[n])
            assert NewtonCNNClassifier.load(path).n_iter_ == n
            if n_stored % 25 == 1:
                resumed = newton(max_iter=ITERATIONS, n_jobs=1)
                resumed.fit(X, y, X_val=X, y_val=y, resume_from=path)
                np.testing.assert_array_equal(resumed.theta_, whole.theta_)
        else:
            with pytest.raises(NotFittedError):
                classifier.predict(X)
    assert n_stored > 50
    assert {file.name for file in tmp_path.iterdir()} <= {"run"}


def test_an_interrupt_while_validating_leaves_a_checkpoint_that_resumes(tmp_path):
    class Interrupted(NewtonCNNClassifier):
        __init__ = NewtonCNNClassifier.__init__

        def _validation_monitors(self, validation, objective):
            monitors = super()._validation_monitors(validation, objective)
            accuracy, calls = monitors[0].accuracy, []

            def interrupted(theta):
                calls.append(1)
                if len(calls) == 3:
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.05)
                return accuracy(theta)

            monitors[0].accuracy = interrupted
            return monitors

    parameters = newton(max_iter=5, early_stopping=True, validation_fraction=0.2).get_params()
    with pytest.warns(UserWarning, match="Interrupted: the model is that of iteration 2"):
        stopped = Interrupted(**parameters | {"checkpoint": tmp_path / "run"}).fit(X, y)
    assert stopped.n_iter_ == len(stopped.history_["validation_accuracy"]) == 2
    resumed = Interrupted(**parameters)
    NewtonCNNClassifier.fit(resumed.set_params(max_iter=2), X, y, resume_from=tmp_path / "run")
    np.testing.assert_array_equal(resumed.theta_, stopped.theta_)


def test_a_second_interrupt_loses_nothing(tmp_path):
    def interrupt(record):
        if record["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    def save_and_interrupt(path, content):
        os.kill(os.getpid(), signal.SIGINT)
        path.write_bytes(content)

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="Interrupted"):
        patch.setattr("hfcnn.persistence.write_atomically", save_and_interrupt)
        classifier = newton(callbacks=interrupt, checkpoint=tmp_path / "run", checkpoint_every=9)
        with pytest.raises(KeyboardInterrupt):  # the second, once all is stored
            classifier.fit(X, y)
        warnings.warn("Interrupted", UserWarning, stacklevel=1)
    assert classifier.n_iter_ == 2
    assert NewtonCNNClassifier.load(tmp_path / "run").n_iter_ == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_user_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        newton(callbacks=lambda _: os.kill(os.getpid(), signal.SIGINT)).fit(X, y)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 3

"""The command line under signals and with labels that try to act: models are kept, text stays text."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hfcnn import Conv, NewtonCNNClassifier

HFCNN = [sys.executable, "-m", "hfcnn"]
MARKUP = "[red]bold[/red]"
BELL = "\x1b]0;title\x07\x1b[2Jx"


@pytest.fixture
def digits(tmp_path):
    images, labels = load_digits(return_X_y=True)
    path = tmp_path / "digits.npz"
    np.savez(path, X=images[:400].reshape(-1, 8, 8).astype(np.uint8), y=labels[:400])
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_saves_the_model_that_is_reached(tmp_path, digits, number):
    model, checkpoint = tmp_path / "model.hfcnn", tmp_path / "run.checkpoint"
    command = [*HFCNN, "train", digits, "--save", model, "--checkpoint", checkpoint, "--C", "1"]
    command += ["--network", "conv4x3p2", "--max-iter", "100000", "--n-jobs", "1", "--no-progress"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_default_interrupt
    )
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0].decode()
    assert "Traceback" not in output, output
    classifier = NewtonCNNClassifier.load(model)
    assert 1 <= classifier.n_iter_ < 100000 and np.isfinite(classifier.theta_).all()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def _default_interrupt():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_labels_are_shown_as_text(tmp_path):
    images, labels = load_digits(n_class=2, return_X_y=True)
    names = np.array([MARKUP, BELL])[labels]
    data, model, table = tmp_path / "data.npz", tmp_path / "model.hfcnn", tmp_path / "labels.csv"
    images = images.reshape(-1, 8, 8).astype(np.uint8)
    np.savez(data, X=images, y=names)
    NewtonCNNClassifier([Conv(4, 3, pool=2)], C=1, max_iter=3, random_state=0).fit(images, names).save(model)
    shown = _run("evaluate", model, data)
    assert MARKUP in shown and "\x1b" not in shown and "\x07" not in shown
    assert "\\x1b" in shown
    _run("predict", model, data, "--output", table)
    text = table.read_text(encoding="utf-8")
    assert MARKUP in text


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b no gzip"], ids=["empty", "gzip"])
@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_a_bad_file_is_one_line(tmp_path, digits, command, content):
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    arguments = [bad, "--save", tmp_path / "model"] if command == "train" else [bad, digits]
    shown = _run(command, *arguments, fails=True)
    assert "Traceback" not in shown and len(shown.strip().splitlines()) == 1, shown


def _run(*arguments, fails=False):
    """Run a command and return what it printed."""
    environment = os.environ | {"COLUMNS": "200", "FORCE_COLOR": ""}
    environment.pop("FORCE_COLOR")
    result = subprocess.run([*HFCNN, *arguments], capture_output=True, text=True, env=environment)
    assert (result.returncode != 0) == fails, result.stdout + result.stderr
    return result.stdout + result.stderr

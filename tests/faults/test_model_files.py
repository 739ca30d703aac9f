"""Model files that someone else made: one documented error, nothing restored but what a model has."""

import json
import os
import random
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save
from small import digits, newton, sgd

from hfcnn import ImageScaler, NewtonCNNClassifier
from hfcnn.persistence import ModelFileError, _checksum, load_scaler, read_model_file, save_model

X, y = digits(60)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """Arrays and header of a checkpoint, which is a model and more."""
    path = tmp_path_factory.mktemp("model") / "run"
    newton(max_iter=1, checkpoint=path, early_stopping=True, validation_fraction=0.25).fit(X * 16, y)
    return read_model_file(path)


@pytest.fixture
def forged(contents, tmp_path):
    """Write a file whose checksum is right, whatever it holds."""

    def write(change_header=None, change_arrays=None):
        arrays, header = contents
        arrays, header = dict(arrays), json.loads(json.dumps(header))
        if change_header is not None:
            header = change_header(header) or header
        if change_arrays is not None:
            change_arrays(arrays)
        text = header if isinstance(header, str) else json.dumps(header)
        path = tmp_path / "forged"
        path.write_bytes(save(arrays, {"hfcnn": text, "checksum": _checksum(text, arrays)}))
        return path

    return write


def test_the_forger_can_write_a_good_file(forged):
    assert NewtonCNNClassifier.load(forged()).n_iter_ == 1


def fitted(**changes):
    return lambda header: header["fitted"].update(changes)


def parameters(**changes):
    return lambda header: header["parameters"].update(changes)


def network(**changes):
    return lambda header: header["fitted"]["network_"].update(changes)


def array(items, dtype):
    return {"array": items, "dtype": dtype}


def deep(header):
    return json.dumps(header)[:-1] + ', "more": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    "change",
    [
        lambda header: "[]",
        lambda header: "3",
        lambda header: "{",
        lambda header: "null",
        lambda header: header.clear(),
        lambda header: header.update(format="1"),
        lambda header: header.update(format=99),
        lambda header: header.update({"class": ["NewtonCNNClassifier"]}),
        lambda header: header.update(parameters=[]),
        lambda header: header.update(fitted=None),
        lambda header: header.update(history=["absent"]),
        lambda header: header.update(history=[["iteration"]]),
        deep,
        fitted(n_iter_=-1),
        fitted(n_iter_=1.5),
        fitted(n_iter_=None),
        fitted(C_="large"),
        fitted(C_=float("nan")),
        fitted(damping_=-1.0),
        fitted(damping_=float("inf")),
        fitted(n_features_in_=10**9),
        fitted(image_shape_={"tuple": [8, 8]}),
        fitted(classes_=array(list(range(9)), "<i8")),
        fitted(classes_=array([0] * 10, "<i8")),
        fitted(classes_=array([[0]] * 10, "<i8")),
        fitted(classes_=array(list("abcdefghij"), "<U2000000000")),
        fitted(classes_=array(list("abcdefghij"), "V8")),
        fitted(classes_=array(list("abcdefghij"), "O,O")),
        fitted(classes_=array([{}] * 10, "|O")),
        fitted(classes_={"array": 3, "dtype": "<i8"}),
        fitted(predict={"tuple": []}),
        fitted(__class__={"tuple": []}),
        fitted(callbacks_=1),
        network(n_outputs=10**12),
        network(n_outputs=-1),
        network(n_outputs=True),
        network(input_shape=[8, 8]),
        network(input_shape=["8", 8, 1]),
        network(network=[{"layer": "Conv", "values": {"filters": 10**30, "kernel": 3}}]),
        network(network=[{"layer": "os", "values": {}}]),
        network(network=[{"layer": "Conv", "values": {"filters": 4, "kernel": 3, "hook": 1}}]),
        network(network={"layer": "Conv"}),
        parameters(C=-1),
        parameters(C={"layer": "Conv", "values": {"filters": 1, "kernel": 1}}),
        parameters(max_iter="many"),
        parameters(network={"dict": [[[], 1]]}),
        parameters(image_shape={"nothing": 1}),
        parameters(class_weight={"dict": [1]}),
    ],
    ids=lambda change: None,
)
def test_crafted_headers_are_refused(forged, change):
    with pytest.raises(ModelFileError, match="forged"):
        NewtonCNNClassifier.load(forged(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.pop("theta_"),
        lambda arrays: arrays.update(theta_=arrays["theta_"][:-1]),
        lambda arrays: arrays.update(theta_=arrays["theta_"][None]),
        lambda arrays: arrays.update(theta_=arrays["theta_"] * np.float32(np.nan)),
        lambda arrays: arrays.update(theta_=arrays["theta_"].astype(np.int32)),
        lambda arrays: arrays.update(theta_=arrays["theta_"].astype(np.float16)),
        lambda arrays: arrays.update(velocity_=np.zeros(3)),
        lambda arrays: arrays.update(__init__=np.zeros(3), score_=np.zeros(3)),
        lambda arrays: arrays.pop("history/f"),
        lambda arrays: arrays.update({"history/f": np.zeros(7)}),
        lambda arrays: arrays.update({"history/f": np.zeros((1, 1))}),
        lambda arrays: arrays.update({"scaler/mean": np.zeros((4, 4))}),
        lambda arrays: arrays.update({"scaler/mean": np.full((8, 8, 1), np.inf)}),
    ],
)
def test_crafted_arrays_are_refused(forged, change):
    with pytest.raises(ModelFileError, match="forged"):
        NewtonCNNClassifier.load(forged(change_arrays=change))


def run(**changes):
    return lambda header: header["run"].update(changes)


def state(**changes):
    return lambda header: header["run"]["state"].update(changes)


@pytest.mark.parametrize(
    ("change_header", "change_arrays"),
    [
        (run(history=[{"f": "low"}]), None),
        (run(history=3), None),
        (run(n_earlier=-1), None),
        (run(n_earlier=5), None),
        (run(seeds={}), None),
        (run(seeds={"theta": -1, "sampling": 0, "split": 0}), None),
        (run(state=[]), None),
        (state(iteration="1"), None),
        (state(iteration=-3), None),
        (state(iteration=True), None),
        (state(more=1), None),
        (state(form=[1]), None),
        (state(sampler={"generator": {}, "order": [], "next": 0}), None),
        (state(sampler={"generator": "MT19937"}), None),
        (state(sampler={}), lambda arrays: arrays.update({"state/gradient": np.zeros(3)})),
        (None, lambda arrays: arrays.pop("state/gradient")),
        (None, lambda arrays: arrays.update({"state/theta": np.zeros(3)})),
        (None, lambda arrays: arrays.update({"state/theta": arrays["state/theta"] * np.float32(np.inf)})),
        (None, lambda arrays: arrays.update({"best_theta": np.zeros(3)})),
        (lambda header: header.pop("run") and None, None),
    ],
    ids=lambda change: None,
)
def test_crafted_checkpoints_are_refused(forged, change_header, change_arrays):
    classifier = newton(max_iter=2, early_stopping=True, validation_fraction=0.25)
    with pytest.raises(ValueError, match="forged|checkpoint|subsampling"):
        classifier.fit(X * 16, y, resume_from=forged(change_header, change_arrays))


def test_parameters_of_a_newer_version_are_named(forged):
    path = forged(parameters(momentum_of_tomorrow=1, zeal=2))
    with pytest.raises(ModelFileError, match="does not know: momentum_of_tomorrow, zeal"):
        NewtonCNNClassifier.load(path)


def test_no_path_and_no_function_is_restored(forged, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    loaded = NewtonCNNClassifier.load(forged(parameters(checkpoint=str(victim), callbacks="print")))
    assert loaded.checkpoint is None and loaded.callbacks is None
    loaded.fit(X, y)
    assert victim.read_bytes() == b"precious"


def mutate(value, rng):
    """Change one thing somewhere in a tree of JSON."""
    strange = [None, True, -1, 0, 1e308, float("nan"), 10**40, "", "x" * 50, [], {}, [[]], {"tuple": [1]}]
    strange += [{"array": [1], "dtype": "<f8"}, {"layer": "Dense", "values": {"units": 3}}]
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        action = rng.random()
        if action < 0.1:
            del changed[key]
        elif action < 0.2:
            changed[rng.choice(["theta_", "__dict__", "x", "classes_", "checkpoint"])] = changed.pop(key)
        else:
            changed[key] = mutate(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        return [*value[:index], mutate(value[index], rng), *value[index + 1 :]]
    return rng.choice(strange)


@pytest.mark.slow
def test_thousands_of_structured_mutations(forged):
    rng = random.Random(0)
    refused = 0
    for _ in range(2000):
        path = forged(lambda header: mutate(header, rng))
        try:
            NewtonCNNClassifier.load(path).predict(X[:2])
        except ModelFileError:
            refused += 1
    assert refused > 700


def test_bytes_that_are_damaged(forged, tmp_path):
    content = bytearray(forged().read_bytes())
    rng = random.Random(0)
    path = tmp_path / "damaged"
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            where = rng.randrange(len(changed) if rng.random() < 0.3 else 300)
            changed[where] = rng.randrange(256)
        if changed != content:
            path.write_bytes(changed)
            with pytest.raises(ModelFileError, match="damaged"):
                NewtonCNNClassifier.load(path)
    path.write_bytes(struct.pack("<Q", 2**60) + content[8:])
    with pytest.raises(ModelFileError, match="damaged"):
        NewtonCNNClassifier.load(path)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ModelFileError, match="no ordinary file"):
            NewtonCNNClassifier.load(path)


def test_both_kinds_of_scaler_come_back(tmp_path):
    raw = (X * 16).astype(np.uint8)
    classifier = newton().fit(raw, y)
    classifier.save(tmp_path / "own")
    loaded = NewtonCNNClassifier.load(tmp_path / "own")
    np.testing.assert_array_equal(loaded.predict_proba(raw), classifier.predict_proba(raw))
    scaler = ImageScaler().fit(raw)
    save_model(sgd().fit(scaler.transform(raw), y), tmp_path / "apart", scaler)
    np.testing.assert_array_equal(load_scaler(tmp_path / "apart").mean_, scaler.mean_)
    with safe_open(tmp_path / "apart", framework="numpy") as file:
        assert "scaler/mean" in file.keys()  # noqa: SIM118

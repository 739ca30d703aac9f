"""Pickles, model files, checkpoints, torch and ONNX."""

import io
import pickle

import joblib
import numpy as np
import pytest
from safetensors.numpy import save_file
from small import BOTH, NETWORK, digits, kfac, newton, sgd

from hfcnn import Conv, Dense, ImageScaler, NewtonCNNClassifier, SGDCNNClassifier
from hfcnn.persistence import load_scaler, read_model_file, save_model, write_model_file

X, y = digits(100)


def assert_same_model(ours, theirs):
    np.testing.assert_array_equal(ours.theta_, theirs.theta_)
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.classes_.dtype == theirs.classes_.dtype
    assert ours.network_ == theirs.network_
    assert ours.history_.keys() == theirs.history_.keys()
    for name, column in ours.history_.items():
        if name != "seconds":
            np.testing.assert_array_equal(column, theirs.history_[name])
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("make", BOTH)
def test_pickles_hold_no_tensor(make, tmp_path):
    classifier = make().fit(X, y)
    content = pickle.dumps(classifier)
    assert b"torch" not in content  # so that a machine without the device can read them
    assert_same_model(pickle.loads(content), classifier)
    joblib.dump(classifier, tmp_path / "model.joblib")
    assert_same_model(joblib.load(tmp_path / "model.joblib", mmap_mode="r"), classifier)


@pytest.mark.parametrize(
    "labels",
    [
        y,
        y.astype(np.int8),
        y.astype(float),
        y > 4,
        np.array(list("abcdefghij"))[y],
        np.array(list("äbcdefghij"), object)[y],
    ],
    ids=["int64", "int8", "float", "bool", "str", "object"],
)
@pytest.mark.parametrize("make", BOTH)
def test_model_files(make, labels, tmp_path):
    classifier = make(image_shape=(8, 8), class_weight={label: 2.0 for label in np.unique(labels)})
    classifier.fit(X.astype(np.float64), labels).save(tmp_path / "model.safetensors")
    loaded = type(classifier).load(tmp_path / "model.safetensors")
    assert_same_model(loaded, classifier)
    assert loaded.get_params() == classifier.get_params()
    assert [loaded.n_iter_, loaded.n_features_in_, loaded.image_shape_] == [3, 64, (8, 8, 1)]
    if make is kfac:  # a file holds its parameters, not its averages
        return
    loaded.set_params(warm_start=True).fit(X, labels)
    classifier.set_params(warm_start=True).fit(X, labels)
    assert_same_model(loaded, classifier)


def test_model_files_hold_parameters_of_every_kind(tmp_path):
    classifier = newton(
        network=[
            Conv(2, (3, 5), (1, 1), padding=(1, 2), pool=(2, 1), pooling="average"),
            Dense(np.int64(4)),
        ],
        callbacks=print_nothing,
        checkpoint=tmp_path / "run",
        sampling_rate=np.float64(0.5),
        random_state=np.random.RandomState(0),
    ).fit(X, y)
    classifier.save(tmp_path / "model")
    loaded = NewtonCNNClassifier.load(tmp_path / "model", device="cpu", verbose=0)
    assert loaded.network == classifier.network
    assert loaded.callbacks is None and loaded.random_state is None
    assert loaded.checkpoint is None  # a file names no other to write over
    assert loaded.device == "cpu"
    with pytest.raises(TypeError, match="cannot hold"):
        classifier.set_params(image_shape={1}).save(tmp_path / "model")
    assert_same_model(NewtonCNNClassifier.load(tmp_path / "model"), classifier.set_params(image_shape=None))


def print_nothing(record):
    pass


def test_a_scaler_can_be_kept_with_its_model(tmp_path):
    scaler = ImageScaler().fit(X)
    classifier = newton().fit(scaler.transform(X), y)
    save_model(classifier, tmp_path / "model", scaler)
    np.testing.assert_array_equal(load_scaler(tmp_path / "model").transform(X), scaler.transform(X))
    flat = X.reshape(len(X), -1)
    save_model(classifier, tmp_path / "model", ImageScaler().fit(flat))
    assert load_scaler(tmp_path / "model").n_features_in_ == 64
    classifier.save(tmp_path / "model")
    with pytest.raises(ValueError, match="without the scaler"):
        load_scaler(tmp_path / "model")


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    newton().fit(X, y).save(path)
    content = path.read_bytes()
    load = NewtonCNNClassifier.load

    def write(changed):
        path.write_bytes(changed)
        return path

    with pytest.raises(FileNotFoundError, match="no file .*absent"):
        load(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"model\.safetensors holds a NewtonCNNClassifier, not a SGD"):
        SGDCNNClassifier.load(path)
    for length in (0, 5, 1000, len(content) - 1):
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            load(write(content[:length]))
    flipped = bytearray(content)
    flipped[-10] ^= 1
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: .* checksum"):
        load(write(bytes(flipped)))
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or not a model file"):
        load(write(pickle.dumps({"theta": 1})))
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"model\.safetensors is a safetensors file, but not a model"):
        load(path)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hfcnn.persistence.FORMAT", 2)
    newton().fit(X, y).save(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="newer than"):
        NewtonCNNClassifier.load(tmp_path / "model")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    classifier = newton().fit(X, y)
    classifier.save(tmp_path / "model")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("hfcnn.files.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        newton(max_iter=1).fit(X, y).save(tmp_path / "model")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert_same_model(NewtonCNNClassifier.load(tmp_path / "model"), classifier)


# Checkpoints


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize(
    "parameters",
    [{}, {"early_stopping": True, "n_iter_no_change": 2}, {"sampling": "cycle", "sampling_rate": 30}],
    ids=["plain", "early stopping", "cycle"],
)
def test_a_resumed_run_is_the_same_bit_for_bit(make, parameters, tmp_path):
    path = tmp_path / "run.safetensors"
    if make is not newton:
        parameters = {name: value for name, value in parameters.items() if "sampling" not in name}
    whole = make(max_iter=7, random_state=None, **parameters)
    whole.set_params(random_state=3).fit(X, y)
    make(max_iter=3, random_state=3, checkpoint=path, **parameters).fit(X, y)
    resumed = make(max_iter=7, random_state=3, **parameters).fit(X, y, resume_from=path)
    assert_same_model(resumed, whole)
    if make is kfac:
        assert resumed._training["sampler"] == whole._training["sampler"]
        return
    own = "damping_" if make is newton else "velocity_"
    np.testing.assert_array_equal(getattr(resumed, own), getattr(whole, own))


def test_a_random_seed_is_resumed_too(tmp_path):
    path = tmp_path / "run"
    first = newton(random_state=None, checkpoint=path, max_iter=1).fit(X, y)
    resumed = newton(random_state=None, max_iter=2).fit(X, y, resume_from=path)
    assert resumed.history_["f"][0] == first.history_["f"][0]


def test_a_warm_started_run_can_be_resumed(tmp_path):
    path = tmp_path / "run"

    def warm(max_iter, checkpoint=None):
        classifier = newton(max_iter=2, warm_start=True).fit(X, y)
        return classifier.set_params(max_iter=max_iter, checkpoint=checkpoint).fit(X, y)

    warm(1, path)
    resumed = newton(max_iter=3, warm_start=True).fit(X, y, resume_from=path)
    assert_same_model(resumed, warm(3))


def test_checkpoints_come_every_few_iterations_and_at_the_end(tmp_path):
    path = tmp_path / "run"
    seen = []

    def look(record):
        seen.append(NewtonCNNClassifier.load(path).n_iter_ if path.exists() else 0)

    classifier = newton(max_iter=5, checkpoint=path, checkpoint_every=2, callbacks=look).fit(X, y)
    assert seen == [0, 0, 2, 2, 4]
    assert_same_model(NewtonCNNClassifier.load(path), classifier)


def test_a_crash_leaves_the_last_checkpoint(tmp_path):
    def crash(record):
        if record["iteration"] == 3:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        newton(max_iter=5, checkpoint=tmp_path / "run", callbacks=crash).fit(X, y)
    resumed = newton(max_iter=5).fit(X, y, resume_from=tmp_path / "run")
    assert_same_model(resumed, newton(max_iter=5).fit(X, y))


def test_a_finished_run_resumes_to_itself(tmp_path):
    classifier = newton(checkpoint=tmp_path / "run").fit(X, y)
    assert_same_model(newton().fit(X, y, resume_from=tmp_path / "run"), classifier)


def test_checkpoints_that_are_refused(tmp_path):
    path = tmp_path / "run"
    classifier = newton(checkpoint=path).fit(X, y)
    with pytest.raises(ValueError, match=r"run is a checkpoint of a fit with other parameters: C=1.0"):
        newton(C=2.0).fit(X, y, resume_from=path)
    with pytest.raises(ValueError, match="other parameters: network="):
        newton(network=NETWORK[:1]).fit(X, y, resume_from=path)
    for images, labels, weight in ((X[::-1], y, None), (X, y[::-1], None), (X, y, y + 1.0)):
        with pytest.raises(ValueError, match="other images, labels or weights"):
            newton().fit(images, labels, weight, resume_from=path)
    with pytest.raises(ValueError, match="holds a NewtonCNNClassifier"):
        sgd().fit(X, y, resume_from=path)
    classifier.save(path)
    with pytest.raises(ValueError, match="run is a model, not a checkpoint"):
        newton().fit(X, y, resume_from=path)


def test_a_checkpoint_may_be_older_than_a_parameter_that_has_its_default(tmp_path):
    path = tmp_path / "run"
    classifier = newton(checkpoint=path).fit(X, y)
    arrays, header = read_model_file(path)
    del header["parameters"]["scale"], header["parameters"]["augment"]
    write_model_file(path, arrays, header)
    assert_same_model(newton().fit(X, y, resume_from=path), classifier)
    with pytest.raises(ValueError, match="other parameters: scale='auto'"):
        newton(scale=False).fit(X, y, resume_from=path)
    header["parameters"]["unheard_of"] = 1
    write_model_file(path, arrays, header)
    with pytest.raises(ValueError, match="other parameters: unheard_of=1"):
        newton().fit(X, y, resume_from=path)


def test_pickle_through_a_buffer_keeps_bits():
    buffer = io.BytesIO()
    classifier = newton().fit(X, y)
    joblib.dump(classifier, buffer)
    buffer.seek(0)
    np.testing.assert_array_equal(joblib.load(buffer).predict_proba(X), classifier.predict_proba(X))

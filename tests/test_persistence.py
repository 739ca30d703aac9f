"""Pickles, model files, checkpoints, torch and ONNX."""

import io
import pickle

import joblib
import numpy as np
import onnxruntime
import pytest
import torch
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


# torch and ONNX


NETWORKS = [
    NETWORK,
    [Conv(3, (5, 3), stride=(1, 2), padding=(2, 0), pool=(2, 1)), Dense(7), Dense(5)],
    [Dense(6)],
    "cnn5",
    [Conv(3, 3, pool=(2, 3), pooling="average"), Conv(4, 3, pool=2)],
]


@pytest.mark.parametrize("network", NETWORKS, ids=["conv", "odd", "dense", "cnn5", "average"])
def test_torch_module_gives_the_same_outputs(network):
    classifier = newton(network=network, max_iter=1).fit(X, y)
    with torch.inference_mode():
        outputs = classifier.to_torch()(torch.from_numpy(X).unsqueeze(1)).numpy()
    np.testing.assert_allclose(outputs, classifier.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_torch_module_scales_raw_pixels_and_gives_probabilities(loss, channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 9, 8, channels), dtype=np.uint8)
    pixels[0] = 7  # of one colour
    classifier = newton(loss=loss, network=[Conv(4, 3, pool=2)], scale="auto").fit(pixels, np.arange(60) % 3)
    given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.inference_mode():
        outputs = classifier.to_torch()(given).numpy()
        probabilities = classifier.to_torch(probabilities=True)(given).numpy()
    np.testing.assert_allclose(outputs, classifier.decision_function(pixels), atol=1e-5)
    np.testing.assert_allclose(probabilities, classifier.predict_proba(pixels), atol=1e-5)
    assert isinstance(classifier.to_torch(probabilities=True)[-1], torch.nn.Softmax) == (loss != "squared")
    # without the scaler's module it is another function
    scaled = ImageScaler().fit_transform(pixels)
    plain = newton(loss=loss, network=[Conv(4, 3, pool=2)]).fit(scaled, np.arange(60) % 3)
    np.testing.assert_allclose(outputs, plain.decision_function(scaled), atol=1e-4)
    assert len(plain.to_torch()) == len(classifier.to_torch()) - 1


@pytest.mark.parametrize("network", NETWORKS, ids=["conv", "odd", "dense", "cnn5", "average"])
@pytest.mark.parametrize("channels", [1, 3])
def test_onnx_gives_the_same_labels(network, channels, tmp_path):
    images = np.repeat(X[..., np.newaxis], channels, axis=3)
    names = np.array(list("abcdefghij"))
    classifier = newton(network=network, max_iter=1).fit(images.astype(np.float64), names[y])
    classifier.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    classes = np.array(session.get_modelmeta().custom_metadata_map["classes"].split("\n"))
    np.testing.assert_array_equal(classes, names)
    for batch in (images, images[:1]):
        (outputs,) = session.run(["outputs"], {"images": batch})
        np.testing.assert_allclose(outputs, classifier.decision_function(batch), atol=1e-5)
        np.testing.assert_array_equal(classes[outputs.argmax(1)], classifier.predict(batch))


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [int, str])
def test_onnx_scores_raw_pixels(loss, channels, kind, tmp_path):
    """Scaler, network, probabilities and labels in one graph; an image of one colour among them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 9, 8, channels), dtype=np.uint8)
    pixels[0] = 7
    labels = np.arange(60) % 3
    labels = labels * 5 - 1 if kind is int else np.array(["ä", "cat", "dog"])[labels]
    scaler = ImageScaler().fit(pixels)
    classifier = newton(loss=loss, network=[Conv(4, 3, pool=2)]).fit(scaler.transform(pixels), labels)
    classifier.export_onnx(tmp_path / "model.onnx", scaler=scaler)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (pixels, pixels[:1]):
        outputs, probabilities, label = session.run(None, {"images": batch})
        expected = scaler.transform(batch)
        np.testing.assert_allclose(outputs, classifier.decision_function(expected), atol=1e-5)
        np.testing.assert_allclose(probabilities, classifier.predict_proba(expected), atol=1e-5)
        np.testing.assert_array_equal(label.astype(labels.dtype), classifier.predict(expected))


def test_onnx_refuses_a_scaler_of_other_images(tmp_path):
    classifier = newton(max_iter=1).fit(X, y)
    scaler = ImageScaler().fit(np.zeros((2, 9, 9)))
    with pytest.raises(ValueError, match=r"scaler was fitted on images of shape \(9, 9\)"):
        classifier.export_onnx(tmp_path / "model.onnx", scaler=scaler)


def test_pickle_through_a_buffer_keeps_bits():
    buffer = io.BytesIO()
    classifier = newton().fit(X, y)
    joblib.dump(classifier, buffer)
    buffer.seek(0)
    np.testing.assert_array_equal(joblib.load(buffer).predict_proba(X), classifier.predict_proba(X))

"""Fitted classifiers as torch modules and ONNX graphs give what the classifiers give."""

import numpy as np
import onnxruntime
import pytest
import torch
from small import NETWORK, digits, newton

from hfcnn import Conv, Dense, ImageScaler

X, y = digits()

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

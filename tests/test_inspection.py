"""Saliency maps against differences of the outputs."""

import numpy as np
import pytest
from small import digits, newton

from hfcnn import Conv, Dense
from hfcnn.inspection import saliency

X, y = digits(60, np.float64)
NETWORK = [Conv(3, 3, pool=2, pooling="average"), Dense(6)]


def differences(classifier, image, label, step=1e-4):
    """Central difference of a class's output in every pixel; exact where no ReLU changes."""
    shifts = step * np.eye(image.size).reshape(-1, *image.shape)
    above, below = (classifier.decision_function(image + sign * shifts) for sign in (1, -1))
    return ((above - below)[:, label] / (2 * step)).reshape(image.shape)


@pytest.mark.parametrize("channels", [1, 2])
def test_saliency_is_the_size_of_the_derivative(channels):
    rng = np.random.default_rng(0)
    images = X[..., np.newaxis] * rng.uniform(0.5, 1.5, (*X.shape, channels))
    classifier = newton(network=NETWORK, max_iter=3).fit(images, y)
    predicted, other = classifier.predict(images[:4]), (y[:4] + 3) % 10
    for labels, maps in (
        (predicted, saliency(classifier, images[:4])),
        (other, saliency(classifier, images[:4], other)),
    ):
        assert maps.shape == (4, 8, 8) and maps.dtype == np.float64
        for image, label, found in zip(images, labels, maps, strict=False):
            expected = np.abs(differences(classifier, image, label)).max(axis=2)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-11)


def test_saliency_of_raw_pixels_is_in_scaled_ones(monkeypatch):
    pixels = np.rint(255 * np.clip(X, 0, 1)).astype(np.uint8)
    classifier = newton(network=NETWORK, max_iter=2, scale="auto").fit(pixels, y)
    scaled = classifier.scaler_.transform(pixels[..., np.newaxis])
    plain = newton(network=NETWORK, max_iter=2).fit(scaled, y)
    plain.theta_ = classifier.theta_
    maps = saliency(classifier, pixels)
    np.testing.assert_allclose(maps, saliency(plain, scaled), rtol=1e-4, atol=1e-6)
    monkeypatch.setattr("hfcnn.inspection.VALUES_AT_A_TIME", 7 * 64)  # a few images at a time
    np.testing.assert_allclose(saliency(classifier, pixels), maps, rtol=1e-4, atol=1e-6)


def test_saliency_of_other_labels_or_images_is_refused():
    classifier = newton(network=NETWORK, max_iter=1).fit(X, y)
    with pytest.raises(ValueError, match="no class of the training images: 12"):
        saliency(classifier, X[:2], [1, 12])
    with pytest.raises(ValueError, match=r"fitted on images of shape \(8, 8, 1\)"):
        saliency(classifier, X[:2, 1:], [1, 2])

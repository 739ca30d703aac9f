"""The classifiers as a user meets them: images, labels and networks that they take and refuse."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.exceptions import NotFittedError
from small import BOTH, NETWORK, digits, newton

from hfcnn import Conv, Dense, Network

X, y = digits()


@pytest.mark.parametrize(
    "images",
    [
        X[..., np.newaxis],
        X.reshape(len(X), -1),
        X.tolist(),
        torch.from_numpy(X),
        torch.from_numpy(X).requires_grad_(),
        pd.DataFrame(X.reshape(len(X), -1)),
        np.asfortranarray(X),
        X.astype(">f4"),
        np.repeat(X, 2, axis=2)[:, :, ::2],
    ],
    ids=[
        "nhwc",
        "flat",
        "list",
        "tensor",
        "tensor with gradient",
        "frame",
        "fortran",
        "big-endian",
        "strided",
    ],
)
def test_every_form_of_the_images_gives_the_same_model(images):
    dtype = np.float64 if isinstance(images, list) else np.float32
    expected = newton().fit(X.astype(dtype), y)
    classifier = newton().fit(images, y)
    np.testing.assert_array_equal(classifier.theta_, expected.theta_)
    np.testing.assert_array_equal(classifier.predict(images), expected.predict(X))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (np.uint8, np.float32),
        (np.int64, np.float32),
        (np.uint16, np.float32),
        (bool, np.float32),
        (np.longdouble, np.float64),
        (object, np.float64),
    ],
)
def test_dtype_follows_the_images(dtype, expected):
    classifier = newton(max_iter=1).fit((X > 0.5).astype(dtype), y)
    assert classifier.theta_.dtype == expected
    assert classifier.decision_function((X > 0.5).astype(dtype)).dtype == expected


def test_bfloat16_tensors_are_taken_as_float32():
    assert newton(max_iter=1).fit(torch.from_numpy(X).bfloat16(), y).theta_.dtype == np.float32


@pytest.mark.parametrize(
    ("n_features", "image_shape", "expected"),
    [
        (64, None, (8, 8, 1)),
        (12, None, (1, 12, 1)),
        (12, (3, 4), (3, 4, 1)),
        (12, [2, 2, 3], (2, 2, 3)),
        (1, None, (1, 1, 1)),
    ],
)
def test_shape_of_flat_images(n_features, image_shape, expected):
    flat = X.reshape(len(X), -1)[:, :n_features]
    classifier = newton(network="cnn3", image_shape=image_shape, max_iter=1).fit(flat, y)
    assert classifier.image_shape_ == expected
    assert classifier.n_features_in_ == n_features


def test_colour_images():
    colour = np.random.default_rng(0).random((60, 9, 7, 3), dtype=np.float32)
    classifier = newton(image_shape=(9, 7, 3)).fit(colour, np.arange(60) % 3)
    flat = colour.reshape(60, -1)
    np.testing.assert_array_equal(classifier.predict(flat), classifier.predict(colour))


def test_feature_names_of_a_frame_are_kept_and_compared():
    frame = pd.DataFrame(X.reshape(len(X), -1), columns=[f"pixel{i}" for i in range(64)])
    classifier = newton(max_iter=1).fit(frame, y)
    assert classifier.feature_names_in_[1] == "pixel1"
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(frame[frame.columns[::-1]])
    assert not hasattr(classifier.fit(X, y), "feature_names_in_")


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (X[0, 0], ValueError, "Expected 2D array, got 1D array"),
        (X.reshape(10, 20, 2, 8, 4), ValueError, "must be of shape"),
        (X[:, np.newaxis], ValueError, r"channels-first.*transpose\(0, 2, 3, 1\)"),
        (csr_matrix(X.reshape(len(X), -1)), TypeError, "[Ss]parse"),
        (X.astype(complex), ValueError, "Complex data not supported"),
        (np.full(X.shape, {}, dtype=object), TypeError, "argument must be"),
        (np.where(X > 0.99, np.nan, X), ValueError, "Input X contains NaN"),
        (np.where(X > 0.99, np.inf, X), ValueError, "infinity"),
        (X[:0], ValueError, "Found array with 0 sample"),
        (X[:-1], ValueError, "inconsistent numbers of samples"),
    ],
    ids=["1-D", "5-D", "channels first", "sparse", "complex", "object", "nan", "inf", "empty", "shorter"],
)
def test_images_that_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        newton().fit(images, y)


def test_shape_is_compared_at_predict():
    classifier = newton(max_iter=1).fit(X, y)
    with pytest.raises(
        ValueError, match=r"shape \(7, 8, 1\), but NewtonCNNClassifier was fitted on .*\(8, 8, 1"
    ):
        classifier.predict(X[:, 1:])
    with pytest.raises(ValueError, match="X has 56 features, but NewtonCNNClassifier is expecting 64"):
        classifier.predict(X.reshape(len(X), -1)[:, 8:])
    with pytest.raises(ValueError, match=r"images of shape \(4, 16, 1\)"):
        classifier.predict(X.reshape(-1, 4, 16))
    with pytest.raises(ValueError, match=r"image_shape is \(8, 8, 1\)"):
        newton(image_shape=(8, 8)).fit(X.reshape(-1, 4, 16), y)
    with pytest.raises(ValueError, match=r"64 values per image, but image_shape \(4, 4, 3\) needs 48"):
        newton(image_shape=(4, 4, 3)).fit(X.reshape(len(X), -1), y)
    with pytest.raises(NotFittedError):
        newton().predict(X)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("how", ["plain", "early stopping", "zero weights"])
def test_images_on_disk_are_never_copied_as_a_whole(tmp_path, dtype, how):
    images = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", dtype, (40_000, 16, 16))
    rng = np.random.default_rng(0)
    images[:] = rng.integers(0, 2, images.shape)
    images.flush()
    labels = rng.integers(0, 3, len(images))
    images = np.load(tmp_path / "X.npy", mmap_mode="r")
    weight = (labels > 0).astype(float) if how == "zero weights" else None
    classifier = newton(
        network=[Conv(2, 3, pool=2)], max_iter=1, cg_max_iter=2, early_stopping=how == "early stopping"
    )
    tracemalloc.start()
    classifier.fit(images, labels, weight)
    peak_of_fit = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    classifier.predict(images)
    peak_of_predict = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    copied = 4 * images.size  # as float32, in which the network computes
    assert peak_of_fit < copied / 2  # batches, and labels
    assert peak_of_predict < copied / 2


def test_the_last_rows_are_checked_for_nan():
    images = np.zeros((200_000, 5, 5), np.float32)
    images[-1, -1, -1] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        newton().fit(images, np.arange(len(images)) % 2)


@pytest.mark.parametrize(
    "labels",
    [
        np.where(y % 2 == 0, "even", "odd"),
        np.where(y % 2 == 0, "even", "odd").astype(object),
        y % 2 == 0,
        (y % 2 * 7 - 3).astype(np.int8),
        (y % 2).astype(float),
        torch.from_numpy(y),
        y.tolist(),
        pd.Series(y.astype(str)),
    ],
    ids=["str", "object", "bool", "int8", "float", "tensor", "list", "series"],
)
@pytest.mark.parametrize("make", BOTH)
def test_labels_of_any_type(make, labels):
    classifier = make().fit(X, labels)
    expected = np.unique(np.asarray(labels))
    np.testing.assert_array_equal(classifier.classes_, expected)
    assert classifier.classes_.dtype == expected.dtype
    assert set(classifier.predict(X)) <= set(expected)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        newton().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="requires y"):
        newton().fit(X, None)
    with pytest.raises(ValueError, match="Unknown label type"):
        newton().fit(X, np.linspace(0, 1, len(X)))


def test_networks_can_be_lists_tuples_and_networks():
    expected = newton().fit(X, y).theta_
    for network in (tuple(NETWORK), Network(NETWORK, (28, 28, 3), 2)):
        np.testing.assert_array_equal(newton(network=network).fit(X, y).theta_, expected)
    assert newton(network=[Dense(5)]).fit(X, y).network_.n_parameters == 5 * 65 + 10 * 6


def test_raw_pixels_for_a_model_of_other_numbers():
    """Where the fit was to numbers in 0..1 and `scale` found nothing to do, pixels are a mistake."""
    pixels = np.rint(255 * X).astype(np.uint8)
    classifier = newton(max_iter=1).fit(X, y)
    for wrong in (pixels, pixels.astype(np.float32)):
        with pytest.warns(
            UserWarning, match="X holds raw pixels, whole numbers up to 255, but the images of"
        ):
            classifier.predict(wrong)
        with pytest.warns(UserWarning, match="X_val holds raw pixels"):
            newton(max_iter=1).fit(X, y, X_val=wrong, y_val=y)
        with pytest.warns(UserWarning, match="X holds raw pixels"):
            classifier.partial_fit(wrong, y)
        newton(max_iter=1, scale=False).fit(X, y).predict(wrong)  # who says so means it
    classifier.predict((X > 0.5).astype(int))  # within 0..1


def test_numbers_in_0_to_1_for_a_model_of_raw_pixels_are_the_same_images():
    """Each image is scaled by its own extremes, so units do not matter to a model that scales."""
    pixels = np.rint(255 * X).astype(np.uint8)
    classifier = newton(max_iter=2, scale="auto").fit(pixels, y)
    np.testing.assert_allclose(
        classifier.decision_function(pixels / 255), classifier.decision_function(pixels), rtol=1e-3, atol=1e-4
    )

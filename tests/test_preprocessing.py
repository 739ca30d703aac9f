"""ImageScaler: the paper's preparation of images, and scikit-learn's contract."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from hfcnn import preprocessing
from hfcnn.preprocessing import ImageScaler


@parametrize_with_checks([ImageScaler()])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def reference(train, X):
    """Section 6.1 for one image after another, in float64."""

    def min_max(image):
        image = image.astype(np.float64)
        span = image.max() - image.min()
        return (image - image.min()) / span if span else np.zeros_like(image)

    return np.array([min_max(image) for image in X]) - np.mean([min_max(image) for image in train], axis=0)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (20,)], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64", "bool"])
def test_is_the_papers_formula(shape, dtype, monkeypatch):
    monkeypatch.setattr(preprocessing, "_CHUNK", 130)  # several chunks and a shorter last one
    rng = np.random.default_rng(0)
    train, X = (rng.integers(0, 200, (n, *shape)).astype(dtype) for n in (23, 8))
    scaler = ImageScaler().fit(train)
    scaled = scaler.transform(X)
    assert scaled.shape == X.shape
    assert scaled.dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_allclose(
        scaled, reference(train, X), rtol=0, atol=1e-15 if dtype == "float64" else 1e-7
    )
    assert scaler.mean_.shape == shape
    assert scaler.mean_.dtype == np.float64
    np.testing.assert_array_equal(ImageScaler().fit_transform(train), scaler.transform(train))


def test_extremes_are_over_all_channels():
    X = np.zeros((1, 2, 2, 2), np.uint8)
    X[0, ..., 0], X[0, ..., 1] = 10, [[20, 20], [20, 30]]
    scaler = ImageScaler().fit(X)
    np.testing.assert_array_equal(scaler.mean_[..., 0], 0)
    np.testing.assert_array_equal(scaler.mean_[..., 1], [[0.5, 0.5], [0.5, 1]])


def test_constant_images_become_zero_before_centring():
    X = np.array([[[7, 7], [7, 7]], [[0, 1], [2, 4]]])
    scaled = ImageScaler().fit_transform(X)
    np.testing.assert_array_equal(scaled[0], [[0, -0.125], [-0.25, -0.5]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_range_beyond_the_largest_number(dtype):
    big = np.finfo(dtype).max
    np.testing.assert_array_equal(ImageScaler().fit(np.array([[-big, 0, big]], dtype)).mean_, [0, 0.5, 1])


def test_torch_tensor_and_list():
    X = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) ** 2
    expected = ImageScaler().fit_transform(X)
    np.testing.assert_array_equal(ImageScaler().fit_transform(torch.from_numpy(X)), expected)
    np.testing.assert_array_equal(ImageScaler().fit_transform(X.tolist()), expected)
    doubles = torch.from_numpy(X).double().requires_grad_(False)
    assert ImageScaler().fit_transform(doubles).dtype == np.float64


def test_input_is_not_changed():
    X = np.random.default_rng(0).random((6, 4, 4))
    before = X.copy()
    ImageScaler().fit_transform(X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 4), (3, 4, 4, 2)], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(shape, bad):
    X = np.ones(shape)
    scaler = ImageScaler().fit(X)
    X[1, 2] = bad
    for method in (scaler.fit, scaler.transform):
        with pytest.raises(ValueError, match="NaN|infinity"):
            method(X)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.ones((2, 3), complex), ValueError, "Complex data not supported"),
        (np.ones((2, 3, 3), complex), ValueError, "Complex data not supported"),
        (csr_array(np.eye(3)), TypeError, "[Ss]parse data was passed"),
        (np.ones((2, 2, 2, 2, 2)), ValueError, "5 dimensions; expected"),
        (np.ones(3), ValueError, "Expected 2D array, got 1D array"),
        (np.float64(3), ValueError, "Expected 2D array, got scalar array"),
        (np.ones((0, 3, 3)), ValueError, "0 sample"),
        (np.ones((2, 0, 3)), ValueError, "without pixels"),
        ([["a", "b"], ["c", "d"]], ValueError, "bytes/strings"),
    ],
)
def test_refused(X, error, message):
    with pytest.raises(error, match=message):
        ImageScaler().fit(X)


@pytest.mark.parametrize("other", [(4, 4, 3), (5, 4, 1), (5, 4), (20,), (4, 5, 1)], ids=str)
def test_shape_of_another_image(other):
    scaler = ImageScaler().fit(np.ones((3, 5, 4, 3)))
    with pytest.raises(ValueError, match=r"fitted on images of shape \(5, 4, 3\)"):
        scaler.transform(np.ones((2, *other)))


def test_flat_features():
    scaler = ImageScaler().fit(np.eye(4))
    assert scaler.n_features_in_ == 4
    assert scaler.get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3"]
    with pytest.raises(ValueError, match="X has 3 features, but ImageScaler is expecting 4"):
        scaler.transform(np.ones((2, 3)))
    with pytest.raises(ValueError, match="fitted on images of shape"):
        scaler.transform(np.ones((2, 2, 2)))
    scaler.fit(np.ones((2, 2, 3)))
    assert not hasattr(scaler, "n_features_in_")


def test_not_fitted():
    with pytest.raises(NotFittedError):
        ImageScaler().transform(np.ones((2, 3, 3)))


def test_set_output_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        np.random.default_rng(0).random((4, 3)), columns=["a", "b", "c"], index=[3, 1, 4, 5]
    )
    scaled = ImageScaler().set_output(transform="pandas").fit_transform(frame)
    assert scaled.columns.tolist() == ["a", "b", "c"]
    assert scaled.index.tolist() == [3, 1, 4, 5]


def test_memory_beside_the_output():
    X = np.random.default_rng(0).integers(0, 256, (4000, 32, 32, 3), dtype=np.uint8)
    scaler = ImageScaler().fit(X[:100])
    tracemalloc.start()
    try:
        scaled = scaler.fit(X).transform(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < scaled.nbytes + 16 * 2**20  # X in float64 would be 94 MiB


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(20,), (5, 4), (5, 4, 3)], ids=str)
def test_partial_fit_is_fit(dtype, shape):
    X = np.random.default_rng(0).integers(0, 256, (23, *shape)).astype(dtype)
    parts = ImageScaler()
    for start in range(0, 23, 7):
        assert parts.partial_fit(X[start : start + 7]) is parts
    whole = ImageScaler().fit(X)
    assert parts.n_samples_seen_ == whole.n_samples_seen_ == 23
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(ImageScaler().partial_fit(X).mean_, whole.mean_)
    np.testing.assert_array_equal(whole.partial_fit(X).fit(X[:3]).mean_, ImageScaler().fit(X[:3]).mean_)


def test_partial_fit_on_images_of_another_shape():
    scaler = ImageScaler().partial_fit(np.ones((3, 5, 4)))
    with pytest.raises(ValueError, match=r"fitted on images of shape \(5, 4\)"):
        scaler.partial_fit(np.ones((3, 4, 5)))
    assert scaler.n_samples_seen_ == 3
    loaded = ImageScaler()
    loaded.mean_ = np.ones((5, 4))
    with pytest.raises(ValueError, match="loaded from a model file"):
        loaded.partial_fit(np.ones((3, 5, 4)))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)], ids=str)
@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_images_stay_arrays_whatever_the_output(shape, container):
    pytest.importorskip(container)
    X = np.random.default_rng(0).random((4, *shape))
    expected = ImageScaler().fit_transform(X)
    before, after = ImageScaler().set_output(transform=container), ImageScaler().fit(X)
    np.testing.assert_array_equal(before.fit_transform(X), expected)
    np.testing.assert_array_equal(after.set_output(transform=container).transform(X), expected)
    with config_context(transform_output=container):
        np.testing.assert_array_equal(ImageScaler().fit_transform(X), expected)
        assert not isinstance(ImageScaler().fit_transform(X.reshape(4, -1)), np.ndarray)
    with pytest.raises(AttributeError, match="get_feature_names_out"):
        after.get_feature_names_out()
    assert not isinstance(after.fit_transform(X.reshape(4, -1)), np.ndarray)

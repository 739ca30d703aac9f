"""Each picture shows what it says, and says what is missing."""

import sys

import matplotlib
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small import digits, newton, sgd

from hfcnn import Conv, plots

matplotlib.use("agg")
X, y = digits(100)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture(scope="module")
def classifier():
    return newton().fit(X, y, X_val=X, y_val=y)


def test_learning_curve(classifier):
    ax = plots.learning_curve(classifier)
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), classifier.history_["f"])
    assert ax.get_yscale() == "log"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["objective", "training", "validation"]
    ax.figure.canvas.draw()


@pytest.mark.parametrize("by", ["seconds", "passes", "iteration"])
def test_compare(classifier, by):
    other = sgd().fit(X, y, X_val=X, y_val=y)
    ax = plots.compare({"Newton": classifier, "SG": other}, by=by)
    assert [line.get_label() for line in ax.lines] == ["Newton", "SG"]
    np.testing.assert_array_equal(ax.lines[1].get_xdata(), other.history_[by])
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), classifier.history_["validation_accuracy"])


def test_compare_says_what_is_missing(classifier):
    with pytest.raises(ValueError, match="by must be one of"):
        plots.compare({"Newton": classifier}, by="epochs")
    with pytest.raises(ValueError, match="the history of 'SG' has no 'validation_accuracy'"):
        plots.compare({"SG": sgd().fit(X, y)})


@pytest.mark.parametrize("normalize", ["true", None])
def test_confusion(classifier, normalize):
    ax = plots.confusion(classifier, X, y, normalize=normalize)
    shown = np.array([float(text.get_text()) for text in ax.texts])
    assert shown.sum() == pytest.approx(len(X) if normalize is None else 10, abs=0.2)


@pytest.mark.parametrize("channels", [1, 3])
def test_filters(channels):
    images = np.repeat(X[..., np.newaxis], channels, axis=3)
    classifier = newton(network=[Conv(5, 3), Conv(4, (1, 3))], max_iter=1).fit(images, y)
    shown = plots.filters(classifier).images[0].get_array()
    assert shown.shape[:2] == (7, 11)  # two rows of three filters 3x3, with lines between
    assert 0 <= shown.min() and shown.max() <= 1
    assert plots.filters(classifier, layer=1).images[0].get_array().shape == (3, 7)
    with pytest.raises(ValueError, match="layer 2 is not one of the network's convolutional layers"):
        plots.filters(classifier, layer=2)


@pytest.mark.parametrize("channels", [1, 3])
def test_misclassified(classifier, channels):
    images, labels = (X, y) if channels == 1 else (np.repeat(X[..., np.newaxis], 3, axis=3), y)
    if channels == 3:
        classifier = newton(max_iter=1).fit(images, labels)
    labels = np.where(np.arange(len(y)) < 7, (y + 1) % 10, y)  # at least some are wrong
    ax = plots.misclassified(classifier, images, labels, n_images=5)
    probabilities = classifier.predict_proba(images)
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    expected = sorted(wrong, key=lambda row: -probabilities[row].max())[:5]
    assert len(wrong) >= 7 and len(ax.images) == 5
    assert [text.get_text() for text in ax.texts] == [
        f"{labels[row]} → {probabilities[row].argmax()}  {probabilities[row].max():.0%}" for row in expected
    ]
    for row, shown in zip(expected, ax.images, strict=True):
        stretched = (images[row] - images[row].min()) / np.ptp(images[row])
        np.testing.assert_allclose(shown.get_array(), stretched, atol=1e-6)
    assert ax.get_title().startswith(f"{len(wrong)} of 100 wrong")
    ax.figure.canvas.draw()


def test_misclassified_by_a_pipeline_of_flat_images_with_names():
    names, flat = np.array(list("abcdefghij"))[y], X.reshape(len(X), -1)
    pipeline = make_pipeline(StandardScaler(), newton(max_iter=1)).fit(flat, names)
    ax = plots.misclassified(pipeline, flat, names, n_images=3)
    wrong = pipeline.predict(flat) != names
    assert len(ax.images) == 3 and ax.images[0].get_array().shape == (8, 8)
    assert ax.get_title().startswith(f"{wrong.sum()} of 100 wrong")
    none = plots.misclassified(pipeline, flat[~wrong], names[~wrong])
    assert not none.images and none.get_title().startswith("0 of")
    with pytest.raises(ValueError, match="n_images must be an integer from 1 on; got 0"):
        plots.misclassified(pipeline, flat, names, n_images=0)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        plots.misclassified(pipeline, flat, names[1:])


def test_axes_can_be_given(classifier):
    import matplotlib.pyplot as plt

    _, (left, right) = plt.subplots(1, 2)
    assert plots.learning_curve(classifier, ax=left) is left
    assert plots.filters(classifier, ax=right) is right


def test_without_matplotlib_the_extra_is_named(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"hfcnn\[plots\]"):
        plots.learning_curve(classifier)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("pandas", lambda classifier, path: classifier.history_frame()),
        ("onnx", lambda classifier, path: classifier.export_onnx(path)),
    ],
)
def test_without_other_extras_they_are_named(classifier, module, call, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install \"hfcnn\["):
        call(classifier, tmp_path / "model")

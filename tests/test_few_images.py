"""What a fit with every default makes of few images, and what one with too small a C ends with."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from hfcnn import Conv, NewtonCNNClassifier, SGDCNNClassifier
from hfcnn.estimator.labels import stratified_rows
from hfcnn.estimator.parameters import SQUARED_UP_TO

X, y = load_digits(return_X_y=True)
NETWORK = [Conv(8, 3, pool=2), Conv(16, 3, pool=2)]


@pytest.mark.parametrize(
    ("n_images", "seed", "least"),
    [(100, 0, 0.90), (100, 3, 0.90), (100, 4, 0.90), (300, 0, 0.94), (1000, 0, 0.96)],
)
def test_every_default_on_digits(n_images, seed, least):
    chosen, rest = stratified_rows(y, seed, train=n_images)
    classifier = NewtonCNNClassifier(random_state=seed).fit(X[chosen], y[chosen])
    assert classifier.loss_ == ("squared" if n_images <= SQUARED_UP_TO else "cross_entropy")
    assert classifier.score(X[rest], y[rest]) > least


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_loss_goes_by_solver_and_number_of_images(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.random((SQUARED_UP_TO + 1, 4, 4), np.float32), np.arange(SQUARED_UP_TO + 1) % 2
    network = [Conv(1, 3)]
    loss_of = {
        (n, *parameters.items()): NewtonCNNClassifier(network, **parameters).fit(images[:n], labels[:n]).loss_
        for n in (SQUARED_UP_TO, SQUARED_UP_TO + 1)
        for parameters in ({"epochs": 1}, {"max_iter": 1, "cg_max_iter": 1})
    }
    assert list(loss_of.values()) == ["squared", "squared", "cross_entropy", "squared"]

    # a fit that goes on, predictions and files keep the loss, whatever the number of images now
    classifier = NewtonCNNClassifier(network, epochs=1, warm_start=True, random_state=0).fit(images, labels)
    classifier.fit(images[:50], labels[:50])
    assert classifier.loss_ == "cross_entropy"
    z = classifier.decision_function(images[:5])
    np.testing.assert_allclose(classifier.predict_proba(images[:5])[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-5)
    classifier.save(tmp_path / "model")
    loaded = NewtonCNNClassifier.load(tmp_path / "model")
    assert loaded.loss_ == "cross_entropy"
    np.testing.assert_array_equal(loaded.predict_proba(images), classifier.predict_proba(images))
    assert not hasattr(SGDCNNClassifier(network, max_iter=1).fit(images[:50], labels[:50]), "loss_")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_C_goes_by_solver_and_number_of_images():
    rng = np.random.default_rng(0)
    images = rng.random((20_000, 3, 3), np.float32)
    labels = np.arange(20_000) % 2
    network = [Conv(1, 3)]
    short = {
        NewtonCNNClassifier: ({"epochs": 1}, {"max_iter": 1, "cg_max_iter": 1}),
        SGDCNNClassifier: ({"max_iter": 1},),
    }
    found = {
        n: [
            estimator(network, **parameters).fit(images[:n], labels[:n]).C_
            for estimator, choices in short.items()
            for parameters in choices
        ]
        for n in (300, 1000, 5000, 20_000)
    }
    assert found == {
        300: [100 / 300] * 3,
        1000: [0.3, 0.1, 0.1],
        5000: [0.06, 0.02, 0.02],
        20_000: [0.03, 0.01, 0.01],
    }
    # of the same classifier, by what solves now
    classifier = NewtonCNNClassifier(network, epochs=1).fit(images, labels)
    assert classifier.set_params(epochs="auto", max_iter=1, cg_max_iter=1).fit(images, labels).C_ == 0.01


def test_too_small_a_C_ends_at_the_regularised_optimum_and_says_so():
    chosen, _ = stratified_rows(y, 0, train=320)
    images, labels = X[chosen], y[chosen]
    with pytest.warns(
        ConvergenceWarning, match=r"smallest where all outputs are alike\. Raise C to 0\.31, or"
    ):
        classifier = NewtonCNNClassifier(NETWORK, C=0.01, loss="squared", random_state=0).fit(images, labels)
    # least f of outputs that are the same for all images, biases b: |b|^2 / 2Cl + mean |b - y|^2
    share = np.bincount(labels) / 320
    least = 1 - (share**2).sum() / (1 + 1 / (2 * 3.2))
    assert least * (1 - 1e-5) < classifier.history_["f"][-1] < 1.01 * least
    assert classifier.history_["training_accuracy"].max() > 0.3  # on the way there

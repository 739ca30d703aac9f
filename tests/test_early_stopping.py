"""Early stopping by any scorer of scikit-learn: what is kept is the best, and its score is the scorer's."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss
from small import BOTH, digits

X, y = digits(150)
X_val, y_val = (part[150:] for part in digits(230))


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("scoring", [None, "f1_macro", "neg_log_loss"])
def test_best_score_is_the_scorers_on_the_kept_parameters(make, scoring):
    classifier = make(max_iter=6, early_stopping=True, scoring=scoring).fit(X, y, X_val=X_val, y_val=y_val)
    history = classifier.history_
    column = history["validation_accuracy" if scoring is None else "validation_score"]
    expected = {
        None: lambda: np.mean(classifier.predict(X_val) == y_val),
        "f1_macro": lambda: f1_score(y_val, classifier.predict(X_val), average="macro"),
        "neg_log_loss": lambda: -log_loss(y_val, classifier.predict_proba(X_val), labels=np.arange(10)),
    }[scoring]()
    assert classifier.best_score_ == pytest.approx(expected, rel=1e-6)
    assert classifier.best_score_ == column.max()
    assert classifier.best_iteration_ == history["iteration"][column.argmax()]


@pytest.mark.parametrize("make", BOTH)
def test_a_function_of_estimator_images_and_labels_scores(make):
    seen = []

    def worse_each_time(estimator, images, labels):
        seen.append((estimator.predict(images).shape, len(labels)))
        return -float(len(seen))

    classifier = make(max_iter=6, early_stopping=True, n_iter_no_change=2, scoring=worse_each_time)
    classifier.fit(X, y, X_val=X_val, y_val=y_val)
    assert seen[0] == ((80,), 80)
    assert classifier.best_iteration_ == 1 and classifier.best_score_ == -1
    assert classifier.n_iter_ == 3  # two that were no better
    first = make(max_iter=1).fit(X, y)
    np.testing.assert_array_equal(classifier.theta_, first.theta_)


@pytest.mark.parametrize("make", BOTH)
def test_there_is_no_best_without_early_stopping(make):
    classifier = make(early_stopping=True).fit(X, y)
    assert classifier.best_score_ == classifier.history_["validation_accuracy"].max()
    classifier.set_params(early_stopping=False).fit(X, y)
    assert not hasattr(classifier, "best_score_") and not hasattr(classifier, "best_iteration_")

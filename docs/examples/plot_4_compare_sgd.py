"""
Newton beside stochastic gradient
=================================

:class:`~hfcnn.SGDCNNClassifier` minimises the same objective by mini-batch stochastic gradient with
momentum. It needs a learning rate; the paper's main finding is that the Newton method, which has none, is
less sensitive to its parameters.
"""

# %%
# Three learning rates, far apart. Both methods start from the same weights, as ``random_state`` is the
# same.
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from hfcnn import Conv, ImageScaler, NewtonCNNClassifier, SGDCNNClassifier, plots

X, y = load_digits(return_X_y=True)
X = ImageScaler().fit_transform(X.reshape(-1, 8, 8).astype(np.uint8))
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
common = {"network": [Conv(8, 3, pool=2), Conv(16, 3, pool=2)], "C": 0.3}
common |= {"loss": "cross_entropy", "random_state": 0}

classifiers = {"Newton": NewtonCNNClassifier(max_iter=15, **common)}
for rate in (1.0, 0.1, 0.003):
    classifiers[f"SG, rate {rate}"] = SGDCNNClassifier(learning_rate=rate, max_iter=40, **common)
for classifier in classifiers.values():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rate that is too large
        classifier.fit(X_train, y_train, X_val=X_test, y_val=y_test)

# %%
# Against the work done: a pass is a forward and a backward pass over as many images as there are training
# images. A Gauss-Newton product over a subset of them counts as the corresponding part of a pass. Work is
# a fairer measure than iterations, and unlike seconds it is the same on every machine.
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
plots.compare(classifiers, by="passes", column="f", ax=axes[0])
axes[0].set(yscale="log", ylabel="objective f")
plots.compare(classifiers, by="passes", ax=axes[1])
for ax in axes:
    ax.set_xlim(0, 42)
    ax.get_legend().remove()
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
plt.show()

# %%
# With a good rate stochastic gradient needs less work than Newton, as the paper finds too (its Figure 3).
# With a poor one it is slow or gets nowhere, and which rates are good is not known beforehand.
for name, classifier in classifiers.items():
    print(f"{name:15} {classifier.history_['validation_accuracy'].max():.3f}")

"""
Which images are wrong, and what the network looks at
=====================================================

:func:`hfcnn.plots.misclassified` draws the errors that the classifier is surest of, which shows wrong labels
and classes that are alike; :func:`hfcnn.inspection.saliency` says which pixels an output depends on.
"""

# %%
# Every default: of a hundred digits no more than a few seconds.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hfcnn import NewtonCNNClassifier, plots
from hfcnn.inspection import saliency

X, y = load_digits(return_X_y=True)
X = X.reshape(-1, 8, 8).astype(np.uint8)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=100, stratify=y, random_state=0)
classifier = NewtonCNNClassifier(random_state=0).fit(X_train, y_train)
print(f"test accuracy {classifier.score(X_test, y_test):.3f}")

# %%
# Label, prediction and its probability stand above each image.
figure, ax = plt.subplots(figsize=(7, 6.5), layout="constrained")
plots.misclassified(classifier, X_test, y_test, n_images=16, ax=ax)

# %%
# How strongly the output of the predicted class depends on each pixel: the absolute value of its derivative.
maps = saliency(classifier, X_test[:8])
figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for column, (image, strengths) in enumerate(zip(X_test, maps, strict=False)):
    axes[0, column].imshow(image, cmap="gray")
    axes[1, column].imshow(strengths, cmap="magma")
    axes[0, column].set_title(y_test[column])
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()

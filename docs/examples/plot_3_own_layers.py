"""
Own networks: lists of Conv and Dense
=====================================

A network is a list of convolutional layers, then fully-connected ones. Each is followed by a ReLU. The
linear output layer, with one output per class, is added.
"""

# %%
# A :class:`~hfcnn.Conv` pads so that the image keeps its size, unless told otherwise; its ``pool`` is the
# size of the max-pooling windows. Sizes can be pairs, down and across. An empty list is a linear model.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hfcnn import Conv, Dense, ImageScaler, Network, NewtonCNNClassifier

networks = {
    "linear": [],
    "one hidden layer": [Dense(32)],
    "stride 2, no pooling": [Conv(8, 3, stride=2), Conv(16, 3, stride=2)],
    "pooling": [Conv(8, 3, pool=2), Conv(16, 3, pool=2)],
    "pooling, then dense": [Conv(8, 3, pool=2), Conv(16, 3, pool=2), Dense(32)],
    "wide and flat filters": [Conv(16, (1, 5), pool=(1, 2)), Conv(16, (5, 1), pool=(2, 1))],
}

# %%
# :class:`~hfcnn.Network` works the shapes out without any images at hand, and says which layer does not
# fit.
for layer in Network(networks["pooling, then dense"], input_shape=(8, 8, 1), n_outputs=10).layers:
    print(f"{type(layer).__name__:12} weight {layer.weight_shape!s:14} output {layer.output_shape}")
try:
    Network([Conv(8, 3, pool=4), Conv(8, 3, pool=4)], input_shape=(8, 8, 1), n_outputs=10)
except ValueError as error:
    print(error)

# %%
# All of them, with the same 12 iterations.
X, y = load_digits(return_X_y=True)
X = ImageScaler().fit_transform(X.reshape(-1, 8, 8).astype(np.uint8))
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
accuracies, sizes = [], []
for network in networks.values():
    newton = NewtonCNNClassifier(network, C=0.3, max_iter=12, random_state=0).fit(X_train, y_train)
    accuracies.append(newton.score(X_test, y_test))
    sizes.append(newton.network_.n_parameters)

figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
labels = [f"{name}\n{size:,} parameters" for name, size in zip(networks, sizes, strict=True)]
ax.plot(accuracies, labels, "o")
for label, value in zip(labels, accuracies, strict=True):
    ax.annotate(f"{value:.3f}", (value, label), xytext=(0, 6), ha="center", textcoords="offset points")
ax.grid(axis="y")
ax.invert_yaxis()
ax.margins(x=0.12, y=0.1)
ax.set(xlabel="test accuracy after 12 iterations")
plt.show()

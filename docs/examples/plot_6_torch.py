"""
From torch and to torch
=======================

A network of convolutions, ReLUs, max pooling and linear layers goes from ``torch.nn.Sequential`` to hfcnn
and back. So a network that was trained in torch can be trained further by the Newton method, and the result
be used in torch.
"""

# %%
# A module as one would write it in torch, which has channels first: (l, channels, height, width).
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from hfcnn import ImageScaler, Network, NewtonCNNClassifier, Objective
from hfcnn.newton import NewtonOptions, newton

X, y = load_digits(return_X_y=True)
X = ImageScaler().fit_transform(X.reshape(-1, 8, 8, 1).astype(np.float32))
X_train, X_test, y_train, y_test = map(torch.from_numpy, train_test_split(X, y, stratify=y, random_state=0))
torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(8, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(64, 10),
)


def accuracy(module: nn.Sequential) -> float:
    """Share of the test images that a torch module classifies rightly."""
    with torch.no_grad():
        return float((module(X_test.permute(0, 3, 1, 2)).argmax(1) == y_test).float().mean())


# %%
# Some epochs of Adam in torch, with cross entropy.
optimizer = torch.optim.Adam(module.parameters(), lr=0.003)
in_torch = []
for _ in range(10):
    for batch in torch.randperm(len(X_train)).split(64):
        loss = nn.functional.cross_entropy(module(X_train[batch].permute(0, 3, 1, 2)), y_train[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    in_torch.append(accuracy(module))

# %%
# The module as a network and its parameters. The outputs are the same up to rounding.
network, theta = Network.from_torch(module, input_shape=(8, 8, 1))
print(network)
with torch.no_grad():
    difference = module(X_test.permute(0, 3, 1, 2)) - network.to_torch(theta)(X_test.permute(0, 3, 1, 2))
print(f"largest difference of an output: {float(difference.abs().max()):.1e}")

# %%
# Go on by the Newton method, with the same loss.
objective = Objective(network, X_train, y_train, loss="cross_entropy", C=3.0 * len(X_train))
by_newton = []
for state in newton(objective, theta, NewtonOptions(max_iter=10, damping=0.1)):
    by_newton.append(accuracy(network.to_torch(state.theta)))

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
ax.plot(range(1, 11), in_torch, marker="o", label="Adam in torch, by epoch")
ax.plot(range(11, 11 + len(by_newton)), by_newton, marker="o", label="then Newton, by iteration")
ax.set(xlabel="epoch, then iteration", ylabel="test accuracy", xticks=range(0, 21, 5))
ax.legend()
plt.show()

# %%
# The other way: a fitted classifier as a module. Its outputs are the classifier's ``decision_function``.
newton_classifier = NewtonCNNClassifier(network, C=0.3, max_iter=5, random_state=0).fit(X_train, y_train)
exported = newton_classifier.to_torch()
print(exported)
print(f"accuracy {newton_classifier.score(X_test, y_test):.3f}, exported {accuracy(exported):.3f}")

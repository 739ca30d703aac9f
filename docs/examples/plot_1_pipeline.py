"""
A pipeline: scale, train, look
==============================

:class:`~hfcnn.ImageScaler` prepares images as the paper does, :class:`~hfcnn.NewtonCNNClassifier` trains a
network on them, and scikit-learn's pipeline joins the two, so that test images are scaled with the training
images' mean.
"""

# %%
# The digits that scikit-learn ships are 1,797 gray images of 8 x 8 pixels. ``load_digits`` gives them
# flat, one row of 64 values per image; as 64 is a square, that is how they could be passed in. Here they
# are given their shape.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from hfcnn import Conv, ImageScaler, NewtonCNNClassifier, plots

X, y = load_digits(return_X_y=True)
X = X.reshape(-1, 8, 8).astype(np.uint8)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(X_train.shape, X_train.dtype)

# %%
# The scaler stretches each image to the range from 0 to 1, then subtracts the mean of the stretched
# training images.
scaler = ImageScaler().fit(X_train)
figure, axes = plt.subplots(2, 8, figsize=(8, 2.4), layout="constrained")
for column, (raw, scaled) in enumerate(zip(X_test, scaler.transform(X_test[:8]), strict=False)):
    axes[0, column].imshow(raw, cmap="gray")
    axes[1, column].imshow(scaled, cmap="gray")
    axes[0, column].set_title(y_test[column])
for ax, text in zip(axes[:, 0], ("given", "scaled"), strict=True):
    ax.set_ylabel(text)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])

# %%
# Two convolutional layers, each followed by a ReLU and 2 x 2 max pooling; the linear output layer is
# added. The presets ``"cnn3"`` and ``"cnn5"`` are the paper's networks for images of 28 x 28 and 32 x 32
# pixels.
#
# ``C`` is that of scikit-learn: the smaller, the stronger the regularisation.
network = [Conv(16, 3, pool=2), Conv(32, 3, pool=2)]
newton = NewtonCNNClassifier(network, C=0.3, max_iter=15, random_state=0)
model = make_pipeline(ImageScaler(), newton).fit(X_train, y_train)
print(f"test accuracy {model.score(X_test, y_test):.3f}, {newton.network_.n_parameters:,} parameters")

# %%
# ``history_`` holds one number per iteration for everything that the algorithm knows for free. CG's
# products grow as the damping ``lambda`` falls.
print(newton.history_frame()[["f", "training_accuracy", "damping", "cg_iterations", "step"]].round(4))

# %%
# The objective never rises.
figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
plots.learning_curve(newton, ax=axes[0])
plots.confusion(model, X_test, y_test, normalize=None, ax=axes[1])
plt.show()

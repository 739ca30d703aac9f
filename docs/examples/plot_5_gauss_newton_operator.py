"""
The Gauss-Newton matrix as an operator
======================================

:class:`~hfcnn.GaussNewton` is the matrix of the Newton method, as products with vectors. It is never
formed, so it can be used where its n x n numbers would not fit. Here it gives the largest eigenvalues,
before and after training.
"""

# %%
# The parts below the classifiers work on torch tensors: images of shape (l, height, width, channels),
# labels as class indices, and ``theta``, all parameters in one vector. Their ``C`` is the paper's,
# without the number of images divided out.
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from sklearn.datasets import load_digits

from hfcnn import Conv, GaussNewton, ImageScaler, Network, Objective
from hfcnn.newton import NewtonOptions, newton

X, y = load_digits(return_X_y=True)
images = torch.from_numpy(ImageScaler().fit_transform(X.reshape(-1, 8, 8, 1)))  # float64, as X is
labels = torch.from_numpy(y)
network = Network([Conv(4, 3, pool=2), Conv(8, 3, pool=2)], input_shape=(8, 8, 1), n_outputs=10)
theta = network.init(seed=0, dtype=torch.float64)

# %%
# A product, in the two forms that the package has: they agree up to rounding. ``@`` takes tensors and
# arrays, vectors and matrices.
v = torch.randn(network.n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
subset = images[:200]
by_operator = GaussNewton(network, theta, subset, form="rop") @ v
by_jacobian = GaussNewton(network, theta, subset, form="jacobian") @ v
print(f"n = {network.n_parameters}; difference {float((by_operator - by_jacobian).abs().max()):.1e}")

# %%
# This network is small enough to form the matrix after all: symmetric, and positive semi-definite.
G = GaussNewton(network, theta, subset)
dense = G @ np.eye(network.n_parameters)
print(
    f"asymmetry {np.abs(dense - dense.T).max():.1e}, smallest eigenvalue {np.linalg.eigvalsh(dense)[0]:.1e}"
)

# %%
# Train with the solver itself, a generator of states, and take the eigenvalues at its ends with scipy's
# Lanczos method.
objective = Objective(network, images, labels, C=0.3 * len(images))
states = list(newton(objective, theta, NewtonOptions(max_iter=10, seed=0)))
print("f:", ", ".join(f"{state.f:.3f}" for state in states))

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, point in (("at the start", theta), ("after 10 iterations", states[-1].theta)):
    G = GaussNewton(network, point, subset, C=objective.C)
    eigenvalues = eigsh(
        G.as_linear_operator(), k=40, which="LM", return_eigenvectors=False, v0=np.ones(G.shape[0])
    )
    ax.semilogy(np.sort(eigenvalues)[::-1], marker=".", label=name)
ax.set(xlabel="rank", ylabel="eigenvalue", title="40 largest eigenvalues")
ax.legend()
plt.show()

# %%
# The curvature falls by nearly two orders of magnitude over these forty directions, and without
# regularisation the smallest eigenvalue was zero. One learning rate must suit all directions; a Newton
# step is scaled by the inverse of the matrix.

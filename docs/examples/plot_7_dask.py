"""
A search on a cluster
=====================

A search fits many models, each by itself, and so needs no more than workers: here two processes of this
machine, started by dask. On a real cluster only the line that starts it is another; on GPUs, one worker each.
"""

# %%
# Every fit stays in one worker, on one thread (``n_jobs=1``). Workers are fresh Python processes, so in a
# script what starts them stands below ``if __name__ == "__main__"``.
import joblib
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from hfcnn import Conv, NewtonCNNClassifier

X, y = load_digits(return_X_y=True)
X, y = X[:400].reshape(-1, 8, 8).astype(np.uint8), y[:400]
model = NewtonCNNClassifier([Conv(8, 3, pool=2)], epochs=12, n_jobs=1, random_state=0)
grid = {"C": [0.5, 3.0, 20.0], "network": [[Conv(4, 3, pool=2)], [Conv(4, 3, pool=2), Conv(8, 3, pool=2)]]}

if __name__ == "__main__":
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
        joblib.parallel_config("dask"),
    ):
        search = GridSearchCV(model, grid, cv=2).fit(X, y)
    print(
        f"{len(search.cv_results_['params'])} settings, best C {search.best_params_['C']:g} "
        f"with {len(search.best_params_['network'])} convolutional layers"
    )

# %%
# The scores are those of the same search in one process: each fit has its seed, and one thread.
if __name__ == "__main__":
    again = GridSearchCV(
        model, {"C": [search.best_params_["C"]], "network": [search.best_params_["network"]]}, cv=2
    )
    print(again.fit(X, y).best_score_ == search.best_score_)

    scores = search.cv_results_["mean_test_score"].reshape(len(grid["C"]), len(grid["network"]))
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.plot(grid["C"], scores, marker="o", label=[f"layers: {len(layers)}" for layers in grid["network"]])
    ax.set(xscale="log", xlabel="C", ylabel="accuracy in cross validation")
    ax.legend()
    plt.show()

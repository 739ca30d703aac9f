"""
Choosing C by grid search
=========================

``C`` is the one parameter that has to be chosen for each data set, since it decides how strongly the
parameters are regularised. The paper uses 0.01 times the number of images throughout, which is ``C=0.01``
here; sets much smaller than the paper's can need another.
"""

# %%
# A step of a pipeline goes by its name in lower case. Without ``random_state`` each fit would start from
# other weights.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from hfcnn import Conv, ImageScaler, NewtonCNNClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X.astype(np.uint8), y, train_size=300, stratify=y, random_state=0
)
network = [Conv(8, 3, pool=2)]
model = make_pipeline(ImageScaler(), NewtonCNNClassifier(network, max_iter=12, random_state=0))
grid = {"newtoncnnclassifier__C": [0.01, 0.1, 1.0, 10.0, 100.0]}
search = GridSearchCV(model, grid, cv=3).fit(X_train, y_train)
best = search.best_params_["newtoncnnclassifier__C"]
print(f"best C {best}, test accuracy {search.score(X_test, y_test):.3f}")

# %%
# The bars show the standard deviation over the three folds.
results = search.cv_results_
values = results["param_newtoncnnclassifier__C"].data.astype(float)
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.errorbar(values, results["mean_test_score"], results["std_test_score"], marker="o", capsize=4)
ax.set(xscale="log", xlabel="C", ylabel="accuracy in cross validation")
plt.show()

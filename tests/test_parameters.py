"""Every wrong parameter is refused before the first pass over the images, by the name that the user typed."""

from functools import partial

import numpy as np
import pytest
from small import BOTH, digits, kfac, newton, sgd

from hfcnn import Conv, NewtonCNNClassifier

X, y = digits(40)
NAN, INF = float("nan"), float("inf")

#: Wrong values of parameters that both classifiers have, and part of what is said beside the name.
COMMON = [
    ("network", "cnn4", "'cnn3', 'cnn5' or a list"),
    ("network", 3, "'cnn3', 'cnn5' or a list"),
    ("network", ["conv"], "conv"),
    ("network", [Conv(2, 3, pool=9)], "shrinks the image to nothing"),
    ("C", 0, "positive"),
    ("C", -1.0, "positive"),
    ("C", NAN, "positive"),
    ("C", "1", "positive"),
    ("C", None, "positive"),
    ("C", True, "positive"),
    ("C", 1j, "positive"),
    ("C", "large", "auto"),
    ("scale", "minmax", 'True, False or "auto"'),
    ("scale", None, 'True, False or "auto"'),
    ("scale", 1, 'True, False or "auto"'),
    ("scoring", "accurate", "scikit-learn's scorers"),
    ("scoring", 3, "scikit-learn's scorers"),
    ("loss", "hinge", "'squared' or 'cross_entropy'"),
    ("loss", None, "'squared' or 'cross_entropy'"),
    ("max_iter", 0, "integer from 1 on"),
    ("max_iter", 2.5, "integer from 1 on"),
    ("max_iter", NAN, "integer from 1 on"),
    ("image_shape", 8, "height, width"),
    ("image_shape", (8,), "height, width"),
    ("image_shape", (8, 0), "height, width"),
    ("image_shape", (8.0, 8.0), "height, width"),
    ("image_shape", "8,8", "height, width"),
    ("class_weight", "auto", "balanced"),
    ("class_weight", {0: -1.0}, "that of 0 is -1.0"),
    ("class_weight", {0: NAN}, "that of 0 is nan"),
    ("class_weight", {0: "2"}, "that of 0 is '2'"),
    ("class_weight", {"a": 1}, "class"),
    ("early_stopping", "no", "True or False"),
    ("early_stopping", 1, "True or False"),
    ("early_stopping", None, "True or False"),
    ("validation_fraction", 0.0, "share between 0 and 1"),
    ("validation_fraction", 1.0, "share between 0 and 1"),
    ("validation_fraction", NAN, "share between 0 and 1"),
    ("validation_fraction", "0.1", "share between 0 and 1"),
    ("n_iter_no_change", 0, "integer from 1 on"),
    ("n_iter_no_change", None, "integer from 1 on"),
    ("warm_start", "yes", "True or False"),
    ("callbacks", 1, "callable"),
    ("callbacks", [1], "callable"),
    ("callbacks", "print", "callable"),
    ("checkpoint", 3, "path"),
    ("checkpoint", "absent/run", "no folder"),
    ("checkpoint", ".", "is a folder"),
    ("checkpoint", "n" * 300, "too long"),
    ("checkpoint_every", 0, "integer from 1 on"),
    ("backend", "jax", '"auto", "torch" or "triton"'),
    ("backend", None, '"auto", "torch" or "triton"'),
    ("device", "gpu of mine", "device of torch"),
    ("device", None, "device of torch"),
    ("device", "cuda", "no GPU"),
    ("precision", "half", '"ieee"'),
    ("precision", "tf32", "triton"),
    ("batch_size", 0, "None or an integer"),
    ("batch_size", 1.5, "None or an integer"),
    ("n_jobs", 0, "number of threads"),
    ("n_jobs", 1.5, "number of threads"),
    ("n_jobs", "all", "number of threads"),
    ("random_state", -1, "RandomState"),
    ("random_state", "seed", "RandomState"),
    ("random_state", 2**40, "RandomState"),
    ("verbose", -1, "integer from 0 on"),
    ("verbose", "yes", "integer from 0 on"),
]
NEWTON = [
    ("solver", "lbfgs", '"auto", "newton-cg" or "kfac"'),
    ("solver", None, '"auto", "newton-cg" or "kfac"'),
    ("augment", "rotate", 'None, "shift" or "shift+flip"'),
    ("augment", True, 'None, "shift" or "shift+flip"'),
    ("augment", "shift", 'the solver is "newton-cg"'),
    ("epochs", 0, "integer from 1 on"),
    ("epochs", "all", "integer from 1 on"),
    ("epochs", 2.5, "integer from 1 on"),
    ("epochs", 2, "max_iter=3 is of Newton-CG"),
    ("sampling_rate", 2.0, "share"),
    ("sampling_rate", 0, "share"),
    ("sampling_rate", NAN, "share"),
    ("sampling_rate", "all", "share"),
    ("sampling_rate", None, "share"),
    ("sampling_rate", True, "share"),
    ("sampling", "all", '"random" or "cycle"'),
    ("tol", -1.0, "number from 0 on"),
    ("tol", NAN, "number from 0 on"),
    ("tol", INF, "number from 0 on"),
    ("cg_tol", 0.0, "positive"),
    ("cg_tol", NAN, "positive"),
    ("cg_max_iter", 0, "integer from 1 on"),
    ("damping", -0.1, "number from 0 on"),
    ("damping", NAN, "number from 0 on"),
    ("damping", INF, "number from 0 on"),
    ("gauss_newton", "exact", '"auto", "rop" or "jacobian"'),
    ("gauss_newton", None, '"auto", "rop" or "jacobian"'),
    ("memory", "much", "number of bytes"),
    ("memory", -1, "number of bytes"),
    ("memory", 1e9, "number of bytes"),
    ("memory", NAN, "number of bytes"),
    ("cuda_graph", "yes", "True, False"),
    ("cuda_graph", True, "CUDA GPU"),
]
SGD = [
    ("learning_rate", 0.0, "positive"),
    ("learning_rate", NAN, "positive"),
    ("learning_rate", INF, "positive"),
    ("momentum", -0.1, "number from 0 on"),
    ("momentum", NAN, "number from 0 on"),
    ("decay", -1.0, "number from 0 on"),
    ("decay", NAN, "number from 0 on"),
    ("sgd_batch_size", 0, "integer from 1 on"),
]
WRONG = [
    *((make, *case) for make in BOTH for case in COMMON if make is not kfac or case[0] != "max_iter"),
    *((newton, *case) for case in NEWTON),
    *((sgd, *case) for case in SGD),
    (kfac, "epochs", 0, "integer from 1 on"),
    (partial(kfac, solver="newton-cg"), "epochs", 2, "set max_iter instead"),
    (partial(newton, solver="kfac"), "max_iter", 2, "set epochs instead"),
]


class Unread(np.memmap):
    """Images that must not be read: only looking at their values fails."""

    def __getitem__(self, index):
        raise AssertionError("a parameter is refused only after images were read")


@pytest.fixture(scope="module")
def unread(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r").view(Unread)


@pytest.mark.parametrize(
    ("make", "name", "value", "message"),
    WRONG,
    ids=[
        f"{getattr(make, '__name__', 'partial')}-{name}-{str(value)[:20]}" for make, name, value, _ in WRONG
    ],
)
def test_wrong_values_are_named_before_any_image_is_read(
    make, name, value, message, unread, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for fit in (
        lambda classifier: classifier.fit(unread, y),
        lambda classifier: classifier.partial_fit(unread, y, classes=np.arange(10)),
    ):
        with pytest.raises((ValueError, TypeError, OSError)) as caught:
            fit(make(**{name: value}))
        assert name in str(caught.value) or (name, message) in (
            ("network", "conv"),
            ("network", "shrinks the image to nothing"),
        )
        assert message in str(caught.value)


def test_every_parameter_has_a_check_and_a_wrong_value():
    for make, cases in ((newton, COMMON + NEWTON), (sgd, COMMON + SGD)):
        classifier = make()
        assert set(classifier._checks) == set(classifier.get_params()) == {case[0] for case in cases}


@pytest.mark.parametrize(
    "parameters",
    [
        {"C": np.float32(1)},
        {"C": INF},
        {"C": np.int64(1)},
        {"max_iter": np.int32(1)},
        {"early_stopping": np.False_},
        {"warm_start": np.bool_(False)},
        {"verbose": False},
        {"image_shape": [8, 8]},
        {"image_shape": np.array([8, 8])},
        {"random_state": np.int64(1)},
        {"sampling_rate": np.float32(0.5)},
        {"memory": np.int64(10**6)},
        {"callbacks": (print,)},
        {"callbacks": []},
        {"cuda_graph": np.False_},
        {"device": "cpu"},
    ],
    ids=str,
)
def test_values_of_numpys_types_are_taken(parameters):
    newton(**{"max_iter": 1, **parameters}).fit(X, y)


def test_a_subclass_may_have_fewer_parameters():
    class SmallCNN(NewtonCNNClassifier):
        def __init__(self, C=1.0, max_iter=2):
            super().__init__([Conv(4, 3)], C=C, max_iter=max_iter)

    assert SmallCNN(max_iter=1).fit(X, y).n_iter_ == 1
    with pytest.raises(ValueError, match="C must be"):
        SmallCNN(C=-1).fit(X, y)

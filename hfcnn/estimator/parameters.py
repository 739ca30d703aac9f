"""Checks of parameters before any work, in the words of the parameter that the user typed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
import torch
from sklearn.metrics import get_scorer
from sklearn.utils import check_random_state

from hfcnn.backend import PRECISIONS
from hfcnn.files import check_output_path
from hfcnn.loss import LOSSES, get_loss
from hfcnn.network import PRESETS, Network

__all__ = [
    "COMMON",
    "PAPER_C",
    "STOCHASTIC_C",
    "Check",
    "auto_C",
    "auto_loss",
    "check_length",
    "check_parameters",
    "choice",
    "count",
    "flag",
    "integer",
    "loss_or_auto",
    "not_negative",
    "number",
    "positive",
    "sampling_rate",
    "strength",
]

#: C="auto" on many images: the paper's, per image (Sec. 6.1), and that of kfac: see docs/solver.md.
PAPER_C, STOCHASTIC_C = 0.01, 0.03

#: C="auto" keeps C times the number of images from falling below this, and for kfac and cross-entropy from
#: falling below the second number: see docs/guide/choices.md and docs/solver.md.
SMALLEST_C_TIMES_IMAGES, SMALLEST_C_TIMES_IMAGES_CROSS_ENTROPY = 100.0, 300.0

#: loss="auto" of the stochastic solver is the squared loss on so many images and fewer: see docs/solver.md.
SQUARED_UP_TO = 300

#: Least C times the number of images whose inverse, the weight of the regularisation, is within float32.
SMALLEST_REGULARISATION = 1e-30

#: Most threads that anyone means.
MOST_THREADS = 4096

#: Takes a parameter's name and value, and raises TypeError or ValueError.
Check: TypeAlias = Callable[[str, Any], None]


def check_parameters(estimator: Any, checks: Mapping[str, Check]) -> None:
    """Check parameters of an estimator: one check for each name, on the attribute of that name.

    Raises
    ------
    TypeError, ValueError, OSError
        If one is wrong; the message begins with its name, and says what is expected and what it is.
    """
    for name, check in checks.items():
        check(name, getattr(estimator, name))


def strength(C: float | str, total_weight: float, auto: float) -> float:
    """C as a number, for images of some total weight; `auto` is what "auto" means for them.

    Raises
    ------
    ValueError
        If it is so small that nothing but the regularisation would count.
    """
    if isinstance(C, str):
        return auto
    if not C * total_weight > SMALLEST_REGULARISATION:
        raise ValueError(
            f"C times the sum of the weights is {C * total_weight:g}, too small to be told from zero; "
            "raise C, or the weights in sample_weight and class_weight"
        )
    return float(C)


def auto_C(solver: str, loss: str, total_weight: float) -> float:
    """C that "auto" means, for a solver, a loss and images of some total weight."""
    share, least = PAPER_C, SMALLEST_C_TIMES_IMAGES
    if solver == "kfac":
        share = STOCHASTIC_C
        if loss != "squared":
            least = SMALLEST_C_TIMES_IMAGES_CROSS_ENTROPY
    return max(share, least / total_weight)


def auto_loss(solver: str, n_images: int) -> str:
    """Name of the loss that "auto" means, for a solver and a number of images."""
    return "squared" if solver == "newton-cg" or n_images <= SQUARED_UP_TO else "cross_entropy"


def check_length(solver: str, max_iter: int | None, epochs: int | str) -> None:
    """Check that a fit has one length at most, and the one that its solver goes by: ValueError otherwise."""
    if solver == "kfac" and max_iter is not None:
        raise ValueError(
            f'max_iter={max_iter} is of solver="newton-cg"; for solver="kfac" set epochs instead'
        )
    if solver == "newton-cg" and epochs != "auto":
        raise ValueError(f'epochs={epochs} is of solver="kfac"; for solver="newton-cg" set max_iter instead')
    if max_iter is not None and epochs != "auto":
        raise ValueError(
            f"max_iter={max_iter} is of Newton-CG, and epochs={epochs} of the stochastic solver: "
            "set one of them"
        )


def number(low: float, high: float = math.inf, *, expected: str, is_open: bool = True, **also: Any) -> Check:
    """Check a number above `low` (or from it on, if not `is_open`) and below `high`.

    Parameters
    ----------
    low, high : float
        The bounds; `high` itself is allowed only if it is among `also`.
    expected : str
        What is expected, in words.
    is_open : bool, default=True
        Whether `low` itself is refused.
    **also : Any
        Further values that are allowed; their names do not matter.
    """

    def check(name: str, value: Any) -> None:
        if _is_among(value, also.values()):
            return
        if not _is_number(value):
            raise TypeError(f"{name} must be {expected}; got {value!r}")
        if not ((value > low if is_open else value >= low) and value < high):
            raise ValueError(f"{name} must be {expected}; got {value!r}")

    return check


def integer(low: int, *, expected: str, **also: Any) -> Check:
    """Check an integer from `low` on, or one of the values of `also`."""

    def check(name: str, value: Any) -> None:
        if _is_among(value, also.values()):
            return
        if not _is_number(value, Integral):
            raise TypeError(f"{name} must be {expected}; got {value!r}")
        if value < low:
            raise ValueError(f"{name} must be {expected}; got {value!r}")

    return check


def choice(*options: Any) -> Check:
    """Check that a value is one of some."""
    listed = ", ".join(_quoted(option) for option in options[:-1]) + f" or {_quoted(options[-1])}"

    def check(name: str, value: Any) -> None:
        if not _is_among(value, options):
            raise ValueError(f"{name} must be {listed}; got {value!r}")

    return check


def flag(name: str, value: Any) -> None:
    """Check that a value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}")


def sampling_rate(name: str, value: Any) -> None:
    """Check the share or number of images that a Gauss-Newton matrix averages over."""
    expected = f'{name} must be a share in (0, 1], a number of images from 1 on, or "auto"; got {value!r}'
    if isinstance(value, str):
        if value != "auto":
            raise ValueError(expected)
        return
    if not _is_number(value):
        raise TypeError(expected)
    if not (value >= 1 if _is_number(value, Integral) else 0 < value <= 1):
        raise ValueError(expected)


def _quoted(option: Any) -> str:
    return f'"{option}"' if isinstance(option, str) else str(option)


def _is_number(value: Any, kind: type[Any] = Real) -> bool:
    """Whether a value is a real number, or an integer, and no truth value."""
    return isinstance(value, kind) and not isinstance(value, bool | np.bool_)


def _is_among(value: Any, options: Any) -> bool:
    """Whether a value is one of some: of the same type, so that 1 is not True."""
    value = bool(value) if isinstance(value, np.bool_) else value
    return any(isinstance(value, type(option)) and value == option for option in options)


def _network(name: str, value: Any) -> None:
    expected = f"{name} must be {', '.join(map(repr, PRESETS))} or a list of Conv and Dense; got {value!r}"
    if isinstance(value, str):
        if value not in PRESETS:
            raise ValueError(expected)
    elif not isinstance(value, Network | list | tuple):
        raise TypeError(expected)


def _loss(name: str, value: Any, also: str = "") -> None:
    expected = f"{name} must be {also}{' or '.join(map(repr, LOSSES))}; got {value!r}"
    if isinstance(value, str) and value not in LOSSES:
        raise ValueError(expected)
    if not hasattr(get_loss(value), "hessian_product"):
        raise TypeError(expected)


def loss_or_auto(name: str, value: Any) -> None:
    """Check a loss that may be left to the solver."""
    if value != "auto":
        _loss(name, value, "'auto', ")


def _image_shape(name: str, value: Any) -> None:
    if value is None:
        return
    expected = f"{name} must be (height, width) or (height, width, channels); got {value!r}"
    if not isinstance(value, tuple | list | np.ndarray):
        raise TypeError(expected)
    if len(value) not in (2, 3) or not all(_is_number(n, Integral) and n >= 1 for n in value):
        raise ValueError(expected)


def _class_weight(name: str, value: Any) -> None:
    if value is None or (isinstance(value, str) and value == "balanced"):
        return
    if not isinstance(value, Mapping):
        raise ValueError(f'{name} must be a dict of labels and weights, "balanced" or None; got {value!r}')
    for label, weight in value.items():
        if not _is_number(weight) or not 0 <= weight < math.inf:
            raise ValueError(
                f"{name} must hold weights that are finite and not negative; that of {label!r} is {weight!r}"
            )


def _scoring(name: str, value: Any) -> None:
    if value is None or callable(value):
        return
    try:
        get_scorer(value)
    except ValueError as error:
        raise ValueError(
            f"{name} must be the name of one of scikit-learn's scorers, a scorer or None; got {value!r}"
        ) from error


def _callbacks(name: str, value: Any) -> None:
    if value is None or callable(value):
        return
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} must be callable, or a list of callables; got {value!r}")
    for callback in value:
        if not callable(callback):
            raise TypeError(f"{name} must be callable; the list holds {callback!r}")


def _checkpoint(name: str, value: Any) -> None:
    if value is not None:
        check_output_path(value, name)


def _random_state(name: str, value: Any) -> None:
    try:
        check_random_state(value)
    except ValueError as error:
        raise ValueError(
            f"{name} must be None, an integer from 0 to 2**32 - 1 or a numpy RandomState; got {value!r}"
        ) from error


def _n_jobs(name: str, value: Any) -> None:
    expected = f"{name} must be None, -1 for all processors, or a number of threads; got {value!r}"
    if value is not None and (not _is_number(value, Integral)):
        raise TypeError(expected)
    if value is not None and (value == 0 or abs(value) > MOST_THREADS):
        raise ValueError(expected)


def _device(name: str, value: Any) -> None:
    try:
        torch.device("cpu" if value == "auto" else value)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f'{name} must be "auto" or a device of torch, as "cpu"; got {value!r}') from error


positive = number(0, expected="a positive number")
not_negative = number(0, expected="a number from 0 on", is_open=False)
count = integer(1, expected="an integer from 1 on")

#: Parameters that all classifiers have.
COMMON: dict[str, Check] = {
    "network": _network,
    "C": number(0, expected='a positive number or "auto"', by_size="auto", no_regularisation=math.inf),
    "loss": _loss,
    "scale": choice(True, False, "auto"),
    "max_iter": count,
    "image_shape": _image_shape,
    "class_weight": _class_weight,
    "early_stopping": flag,
    "validation_fraction": number(0, 1, expected="a share between 0 and 1, both excluded"),
    "n_iter_no_change": count,
    "scoring": _scoring,
    "warm_start": flag,
    "callbacks": _callbacks,
    "checkpoint": _checkpoint,
    "checkpoint_every": count,
    "backend": choice("auto", "torch", "triton"),
    "device": _device,
    "precision": choice(*PRECISIONS),
    "batch_size": integer(1, expected="None or an integer from 1 on", auto=None),
    "n_jobs": _n_jobs,
    "random_state": _random_state,
    "verbose": integer(0, expected="True, False or an integer from 0 on", on=True, off=False),
}

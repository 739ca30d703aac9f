"""The subset S of an iteration, over which the Gauss-Newton matrix is averaged (Sec. 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SAMPLINGS", "Sampler", "subsample_size"]

#: "random": a fresh draw without replacement an iteration; "cycle": consecutive blocks of a permutation,
#: a new one when it is used up, the last block topped up from its head (the authors' MATLAB code).
SAMPLINGS = ("random", "cycle")

#: Fewest images that "auto" averages over, where there are as many: 5 % of a small set is a poor average.
AUTO_MINIMUM = 256


def subsample_size(n_images: int, rate: float | int | str = "auto") -> int:
    """Number of images in S.

    Parameters
    ----------
    n_images : int
        Number l of training images.
    rate : float, int or "auto", default="auto"
        A share of the images in (0, 1], or a number of them. "auto" is the paper's 5 %, but at least 256
        images, or all where there are fewer.

    Raises
    ------
    ValueError
        If the rate is none of these.
    """
    if isinstance(rate, str):
        if rate != "auto":
            raise ValueError(f'sampling_rate must be a number or "auto"; got {rate!r}')
        return min(n_images, max(AUTO_MINIMUM, _share(n_images, 0.05)))
    if isinstance(rate, int | np.integer) and not isinstance(rate, bool):
        if rate < 1:
            raise ValueError(f"sampling_rate as a number of images must be at least 1; got {rate}")
        return min(n_images, int(rate))
    if not 0 < rate <= 1:
        raise ValueError(f"sampling_rate as a share must be in (0, 1]; got {rate}")
    return _share(n_images, float(rate))


def _share(n_images: int, rate: float) -> int:
    return max(1, round(n_images * rate))


class Sampler:
    """Draws S: an iterator over sorted index arrays, whose state can be saved.

    Parameters
    ----------
    n_images : int
        Number l of training images.
    size : int
        Images in S.
    sampling : {"random", "cycle"}, default="random"
        See `SAMPLINGS`. Neither is stratified.
    seed : int, default=0
        Seed of the draws.
    """

    def __init__(self, n_images: int, size: int, sampling: str = "random", seed: int = 0) -> None:
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}")
        if not 1 <= size <= n_images:
            raise ValueError(f"size must be in 1..{n_images}; got {size}")
        self.n_images = n_images
        self.size = size
        self.sampling = sampling
        self._rng = np.random.default_rng(seed)
        self._order: NDArray[np.int64] = np.empty(0, np.int64)
        self._next = 0

    def __iter__(self) -> Sampler:
        return self

    def __next__(self) -> NDArray[np.int64]:
        """Draw the next S: int64 array of shape (size,), sorted so that reading is in order."""
        if self.sampling == "random":
            return np.sort(self._rng.choice(self.n_images, self.size, replace=False))
        if self._next >= len(self._order):
            self._order, self._next = self._rng.permutation(self.n_images), 0
        block = self._order[self._next : self._next + self.size]
        self._next += self.size
        return np.sort(np.concatenate([block, self._order[: self.size - len(block)]]))

    @property
    def state(self) -> dict[str, Any]:
        """All that the next draws depend on, of plain Python types."""
        return {
            "generator": self._rng.bit_generator.state,
            "order": self._order.tolist(),
            "next": self._next,
        }

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; ValueError where it is damaged."""
        try:
            order, following = np.asarray(state["order"], np.int64), int(state["next"])
            is_permutation = np.array_equal(np.sort(order), np.arange(len(order)))
            if not is_permutation or len(order) not in (0, self.n_images) or following < 0:
                raise ValueError("the order of the images is none")
            self._rng.bit_generator.state = state["generator"]
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"the state of the subsampling is damaged: {error!r}") from error
        self._order, self._next = order, following

import json

import numpy as np
import pytest

from hfcnn.sampling import SAMPLINGS, Sampler, subsample_size

each_sampling = pytest.mark.parametrize("sampling", SAMPLINGS)


@pytest.mark.parametrize(
    ("n_images", "rate", "size"),
    [
        (60_000, "auto", 3000),
        (1000, "auto", 256),
        (100, "auto", 100),
        (5120, "auto", 256),
        (5140, "auto", 257),
        (60_000, 0.05, 3000),
        (1000, 0.1, 100),
        (10, 1.0, 10),
        (10, 0.001, 1),
        (10, 1, 1),
        (10, 7, 7),
        (10, 99, 10),
        (10, np.int64(4), 4),
    ],
)
def test_size(n_images, rate, size):
    assert subsample_size(n_images, rate) == size


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        ("half", "must be a number or \"auto\"; got 'half'"),
        (0, "as a number of images must be at least 1; got 0"),
        (-3, "at least 1; got -3"),
        (0.0, r"as a share must be in \(0, 1\]; got 0.0"),
        (1.5, r"must be in \(0, 1\]; got 1.5"),
        (float("nan"), r"must be in \(0, 1\]; got nan"),
    ],
)
def test_size_errors(rate, message):
    with pytest.raises(ValueError, match=message):
        subsample_size(100, rate)


@each_sampling
@pytest.mark.parametrize(("n_images", "size"), [(10, 3), (10, 5), (10, 10), (7, 1), (1, 1)])
def test_draw_is_sorted_and_without_replacement(sampling, n_images, size):
    sampler = Sampler(n_images, size, sampling, seed=4)
    for _ in range(12):
        draw = next(sampler)
        assert draw.dtype == np.int64
        assert draw.shape == (size,)
        assert (np.diff(draw) > 0).all()
        assert draw[0] >= 0
        assert draw[-1] < n_images


@pytest.mark.parametrize(("n_images", "size"), [(10, 5), (12, 3), (6, 6)])
def test_cycle_covers_every_image_once_a_permutation(n_images, size):
    sampler = Sampler(n_images, size, "cycle")
    for _ in range(3):
        blocks = [next(sampler) for _ in range(n_images // size)]
        assert sorted(np.concatenate(blocks)) == list(range(n_images))


def test_cycle_tops_up_the_last_block_from_the_head():
    sampler = Sampler(10, 4, "cycle")
    for _ in range(3):
        first, second, third = (next(sampler) for _ in range(3))
        rest = set(range(10)) - set(first) - set(second)
        assert len(rest) == 2
        assert rest < set(third)
        assert set(third) - rest < set(first)


@each_sampling
def test_fresh_draws_differ(sampling):
    sampler = Sampler(100, 50, sampling)
    draws = [tuple(next(sampler)) for _ in range(6)]
    assert len(set(draws)) == 6


def test_every_image_is_drawn_in_time():
    sampler = Sampler(20, 5, "random")
    assert set(np.concatenate([next(sampler) for _ in range(60)])) == set(range(20))


@each_sampling
def test_seed_decides_the_draws(sampling):
    one, same, other = (Sampler(50, 10, sampling, seed) for seed in (3, 3, 4))
    for _ in range(7):
        draw = next(one)
        np.testing.assert_array_equal(draw, next(same))
        assert not np.array_equal(draw, next(other))


@each_sampling
@pytest.mark.parametrize("drawn", range(5))
def test_state_restores(sampling, drawn):
    sampler = Sampler(10, 4, sampling, seed=1)
    for _ in range(drawn):
        next(sampler)
    state = json.loads(json.dumps(sampler.state))
    expected = [next(sampler) for _ in range(6)]
    restored = Sampler(10, 4, sampling, seed=99)
    restored.state = state
    np.testing.assert_array_equal([next(restored) for _ in range(6)], expected)


def test_state_is_a_snapshot():
    sampler = Sampler(10, 4, "cycle")
    next(sampler)
    state = sampler.state
    before = json.dumps(state)
    for _ in range(5):
        next(sampler)
    assert json.dumps(state) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 0), r"size must be in 1..10; got 0"),
        ((10, 11), r"size must be in 1..10; got 11"),
        ((10, 2, "stratified"), "sampling must be one of random, cycle; got 'stratified'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampler(*arguments)

"""A short run of the fuzz driver; the long one is `python tests/fuzz/fuzz_files.py --inputs 100000`."""

import os

import pytest
from fuzz_files import BATCH, make, run, run_batch, try_input
from seeds import seeds

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


@pytest.mark.parametrize("name", seeds())
def test_seeds_are_sound(tmp_path, name):
    """What is mutated loads as it is, and through its layers; but for pickles too small to be CIFAR's."""
    seed = seeds()[name]
    first, *_ = seed.files
    repacked = seed.files | {first: seed.pack(seed.unpack(seed.files[first]))}
    expected = "refused" if name.startswith("small pickle") else "loaded"
    for place, files in enumerate((seed.files, repacked)):
        assert try_input(tmp_path / str(place), files, seed.load) == (expected, None)


@forks
@pytest.mark.slow
def test_mutated_files_are_loaded_or_refused():
    counts, failures = run(2000, seed=0)
    assert failures == {}
    assert counts.total() == 2000
    results = {result: sum(n for (_, found), n in counts.items() if found == result) for _, result in counts}
    assert min(results["loaded"], results["refused"]) > 200  # it reaches both


@forks
def test_the_driver_sees_what_goes_wrong(tmp_path, monkeypatch):
    def bad(path, **keywords):
        number = int(path.parts[-2] if path.suffix or path.name in ("set", "data") else path.name)
        if number == 0:
            assert b"x" * (400 << 20)
            raise ValueError("x")
        if number == 3:
            os.kill(os.getpid(), 9)
        raise KeyError("x")

    monkeypatch.setattr("fuzz_files.load", bad)
    _, failures = run_batch(seeds(), 0, range(BATCH), tmp_path)
    assert set(failures) == {0, 1, 2, 3}
    assert "MiB" in failures[0] and "KeyError" in failures[1] and "killed the process" in failures[3]


def test_inputs_are_made_again_by_their_number():
    found = seeds()
    assert make(found, 1, 7) == make(found, 1, 7)
    assert make(found, 1, 7) != make(found, 1, 8)

"""Images in .npy shards: indexed as the array they are parts of, loaded, fitted, never read as a whole."""

import pickle
import sys
import threading

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from hfcnn import Conv, NewtonCNNClassifier, image_reader, load
from hfcnn.benchmark.streaming import measure_streaming
from hfcnn.datasets import DatasetError, MissingPartError, Shards, load_images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 3, 40)
CUTS = [0, 1, 8, 30, 40]


def write(folder, images, names="X-{}", cuts=CUTS):
    folder.mkdir(exist_ok=True)
    paths = []
    for i, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
        paths.append(folder / f"{names.format(i)}.npy")
        np.save(paths[-1], images[start:stop])
    return paths


@pytest.mark.parametrize("dtype", ["u1", "<f4", ">i2"])
@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(3, 33),
        slice(None, None, -7),
        slice(5, 5),
        np.array([39, 0, 8, 7, 7, -1]),
        np.arange(40) % 3 == 0,
        [4],
        np.array([], np.int64),
        17,
        -1,
        (np.array([9, 2]), ...),
        (slice(2, 9), slice(1, 3), 0),
        (3, 2),
    ],
    ids=str,
)
def test_indexed_as_the_array(index, dtype, tmp_path):
    images = PIXELS.astype(dtype)
    shards = Shards(write(tmp_path, images))
    found, expected = shards[index], images[index]
    assert found.shape == expected.shape and np.array_equal(found, expected)
    assert found.dtype == shards.dtype == np.dtype(dtype).newbyteorder("=")
    assert shards.shape == images.shape and len(shards) == 40 and shards.ndim == 4
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(shards))), images)


@pytest.mark.parametrize(
    "index", [40, -41, np.array([0, 40]), np.zeros(3, bool), np.zeros((2, 2), int), [0.5]]
)
def test_what_is_no_index(index, tmp_path):
    with pytest.raises(IndexError):
        Shards(write(tmp_path, PIXELS))[index]


def test_gray_and_flat_images(tmp_path):
    assert Shards(write(tmp_path / "gray", PIXELS[..., 0])).shape == (40, 6, 5, 1)
    flat = Shards(write(tmp_path / "flat", PIXELS.reshape(40, -1)), image_shape=(6, 5, 3))
    assert np.array_equal(flat[7:9], PIXELS[7:9])


def test_loaded_by_name_number_and_part(tmp_path):
    cuts = [*range(0, 39, 3), 40]  # more than nine: numbers count, not names
    write(tmp_path / "a", PIXELS, "X-{}", cuts), write(tmp_path / "a", LABELS, "y-{}", cuts)
    X, y = load(tmp_path / "a")
    assert isinstance(X, Shards) and np.array_equal(X[:], PIXELS) and np.array_equal(y, LABELS)
    with pytest.raises(MissingPartError):
        load(tmp_path / "a", split="test")
    write(tmp_path / "b", PIXELS, "images_train-{}")
    np.save(tmp_path / "b" / "labels_train.npy", LABELS.astype(str))
    np.save(tmp_path / "b" / "images_test.npy", PIXELS[:4])
    np.save(tmp_path / "b" / "labels_test.npy", LABELS[:4].astype(str))
    X, y = load(tmp_path / "b")
    assert np.array_equal(X[:], PIXELS) and y.tolist() == LABELS.astype(str).tolist()
    X, y = load(tmp_path / "b", split="test", image_shape=(6, 5, 3))
    assert len(X) == len(y) == 4
    X, names = load_images(tmp_path / "b", split="test")
    assert np.array_equal(np.asarray(X), PIXELS[:4]) and len(names) == 4


def damaged(folder, what):
    paths = write(folder, PIXELS)
    np.save(folder / "y.npy", LABELS)
    if what == "truncated":
        paths[1].write_bytes(paths[1].read_bytes()[:-1])
    elif what == "other shape":
        np.save(paths[2], PIXELS[:3, :5])
    elif what == "other type":
        np.save(paths[2], PIXELS[:3].astype(np.int16))
    elif what == "pickled":
        np.save(paths[2], np.array([{}], dtype=object))
    elif what == "fortran":
        np.save(paths[2], np.asfortranarray(PIXELS[:3]))
    elif what == "no header":
        paths[2].write_bytes(b"no numpy")
    elif what == "empty":
        np.save(paths[2], PIXELS[:0])
    elif what == "no labels":
        (folder / "y.npy").unlink()
    elif what == "too few labels":
        np.save(folder / "y.npy", LABELS[1:])
    elif what == "unequal shards":
        (folder / "y.npy").unlink()
        write(folder, LABELS, "y-{}", [0, 2, 8, 30, 40])
    elif what == "a number twice":
        np.save(folder / "X-02.npy", PIXELS[:3])
    elif what == "mixed parts":
        np.save(folder / "X_train-0.npy", PIXELS[:3])
    elif what == "not bytes":
        write(folder, PIXELS.astype(np.float32))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", "X-1.npy: 629 bytes in C order; expected those of shape"),
        ("other shape", r"X-2.npy: images of shape \(5, 5, 3\) and type uint8; expected \(6, 5, 3\)"),
        ("other type", "X-2.npy: images of .* type int16; expected .* uint8, as in the first shard"),
        ("pickled", "X-2.npy: images of type object"),
        ("fortran", "X-2.npy: .*Fortran order; expected .* C order"),
        ("no header", "damaged"),
        ("empty", r"X-2.npy: an array of shape \(0, 6, 5, 3\)"),
        ("no labels", "has no train labels, such as y-000.npy"),
        ("too few labels", "expected one for each of 40 images"),
        ("unequal shards", "shard 0 has 1 images and 2 labels"),
        ("a number twice", "X-02.npy and X-2.npy; expected one of a number"),
        ("mixed parts", "with and without train or test in their names"),
        ("not bytes", r"images of type float32; expected uint8.*hfcnn.datasets.Shards\(paths\)"),
    ],
)
def test_what_is_wrong_is_said(what, message, tmp_path):
    damaged(tmp_path / "set", what)
    with pytest.raises(DatasetError, match=message):
        load(tmp_path / "set")


def test_no_shards_and_a_file_that_shrinks(tmp_path):
    with pytest.raises(DatasetError, match="there are no shards"):
        Shards([])
    paths = write(tmp_path, PIXELS)
    shards = Shards(paths)
    paths[3].write_bytes(paths[3].read_bytes()[:-1])
    with pytest.raises(OSError, match="ends before its last image"):
        shards[35:]


NETWORK = [Conv(4, 3, pool=2)]


def digits(tmp_path):
    images, y = load_digits(return_X_y=True)
    images = images[:300].reshape(-1, 8, 8, 1).astype(np.uint8)
    return images, Shards(write(tmp_path, images, cuts=[0, 17, 100, 300])), y[:300]


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 3, "batch_size": 9, "augment": "shift"},
        {"epochs": 3, "early_stopping": True, "scoring": "f1_macro"},
        {"max_iter": 3, "C": 1.0, "memory": 0, "batch_size": 40},
    ],
    ids=["kfac", "early stopping", "newton-cg"],
)
def test_a_fit_is_that_of_the_array(settings, tmp_path):
    images, shards, y = digits(tmp_path)
    classifier = NewtonCNNClassifier(NETWORK, random_state=0, n_jobs=1, **settings)
    plain = clone(classifier).fit(images, y, X_val=None)
    classifier.set_params(checkpoint=tmp_path / "run").fit(shards, y)
    assert np.array_equal(classifier.theta_, plain.theta_)
    assert np.array_equal(classifier.predict_proba(shards), plain.predict_proba(images))


def test_floats_are_checked_and_scaled_if_they_are_pixels(tmp_path):
    images, _, y = digits(tmp_path)
    images = images.astype(np.float64)
    shards = Shards(write(tmp_path / "floats", images))
    classifier = NewtonCNNClassifier(NETWORK, epochs=2, random_state=0, n_jobs=1).fit(shards, y[:40])
    assert classifier.scaler_ is not None and classifier.theta_.dtype == np.float64
    images[35, 3, 3] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        classifier.fit(Shards(write(tmp_path / "floats", images)), y[:40])


def test_a_search_over_shards(tmp_path):
    images, shards, y = digits(tmp_path)
    search = GridSearchCV(
        NewtonCNNClassifier(NETWORK, epochs=1, random_state=0, n_jobs=1), {"C": [0.1, 1.0]}, cv=2
    )
    found, expected = (clone(search).fit(X, y).cv_results_["mean_test_score"] for X in (shards, images))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("batch_size", [None, 16])
def test_batches_are_read_once_and_ahead(batch_size, tmp_path, monkeypatch):
    """Of the stochastic solver: while a step is computed, a thread reads the first images of the next one."""
    _, shards, y = digits(tmp_path)
    read, waited, original = [], [], image_reader.ImageReader.read

    def counted(self, index, *arguments):
        ahead = self._ahead
        waited.append(ahead is None or not ahead.is_of(index, arguments[0]))
        return original(self, index, *arguments)

    def seen(self, rows):
        read.append((len(rows), threading.current_thread() is threading.main_thread()))
        return original_rows(self, rows)

    original_rows = Shards._read
    monkeypatch.setattr(image_reader.ImageReader, "read", counted)
    monkeypatch.setattr(Shards, "_read", seen)
    classifier = NewtonCNNClassifier(NETWORK, scale=False, epochs=4, random_state=0, batch_size=batch_size)
    classifier.fit(shards, y)
    assert not any(is_main for _, is_main in read)
    assert sum(n for n, _ in read) == 300 * (1 + 2 * 4), (
        "f at the start; each epoch its steps, and f at its end"
    )
    assert sum(waited) == 1 + 2 * 4, "for the first batch of each pass"
    assert len(waited) > 4 * sum(waited)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_images():
    """Under a limit that the images do not fit into as one array, both solvers fit."""
    size, *peaks, whole = measure_streaming(20, limit=160 * 2**20)
    assert size.figure > 230 and whole.figure == 0
    assert all(peak.figure > 0 and peak.is_reached for peak in peaks), peaks

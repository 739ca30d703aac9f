"""Images without labels: files, folders, patterns and arrays."""

import os

import numpy as np
import pytest
from dataset_files import draw, idx

from hfcnn.datasets import DatasetError, load_images

image = pytest.importorskip("PIL.Image")


@pytest.fixture
def photos(tmp_path):
    """Four images of three sizes and colours, two of them in a folder of their own."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name, size, mode in (
        ("a.png", (9, 6), "L"),
        ("b.jpg", (12, 20), "RGB"),
        ("more/c.gif", (8, 8), "P"),
        ("more/d.webp", (8, 8), "RGBA"),
    ):
        image.new(mode, size).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("by hand")
    return tmp_path / "photos"


def test_a_file_a_folder_and_a_pattern(photos):
    X, names = load_images(photos / "a.png")
    assert X.shape == (1, 6, 9, 1) and names == [str(photos / "a.png")]
    X, names = load_images(photos, image_shape=(5, 4, 3))
    assert X.shape == (4, 5, 4, 3) and X.dtype == np.uint8
    assert names == [str(photos / name) for name in ("a.png", "b.jpg", "more/c.gif", "more/d.webp")]
    X, names = load_images(str(photos / "**" / "*.gif"), size=(3, 3), color="gray")
    assert X.shape == (1, 3, 3, 1) and names == [str(photos / "more" / "c.gif")]
    X, names = load_images([photos / "b.jpg", photos / "more"], image_shape=(7, 7))
    assert X.shape == (3, 7, 7, 1) and len(names) == 3


def test_a_folder_of_classes_and_of_parts(photos, tmp_path):
    (tmp_path / "set" / "train").mkdir(parents=True)
    (tmp_path / "set" / "test").mkdir()
    photos.rename(tmp_path / "set" / "train" / "one")
    (tmp_path / "set" / "test" / "one").mkdir()
    image.new("L", (4, 4)).save(tmp_path / "set" / "test" / "one" / "e.png")
    assert load_images(tmp_path / "set")[1] == [str(tmp_path / "set" / "test" / "one" / "e.png")]
    assert len(load_images(tmp_path / "set", split="train", image_shape=(4, 4))[1]) == 4


def test_arrays_without_labels(tmp_path):
    X, _ = draw(3, 4, 5)
    np.savez(tmp_path / "new.npz", X=X)
    found, names = load_images(tmp_path / "new.npz")
    np.testing.assert_array_equal(found, X[..., None])
    assert names == [f"{tmp_path / 'new.npz'}[{i}]" for i in range(3)]
    np.savez(tmp_path / "flat.npz", images=X.reshape(3, -1))
    np.testing.assert_array_equal(load_images(tmp_path / "flat.npz", image_shape=(4, 5))[0], found)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(X))
    np.testing.assert_array_equal(load_images(tmp_path / "t10k-images-idx3-ubyte")[0], found)
    (tmp_path / "test.csv").write_text("p0,p1,p2,p3\n1,2,3,4\n5,6,7,8\n")
    assert load_images(tmp_path / "test.csv")[0].ravel().tolist() == list(range(1, 9))


def test_a_labelled_set_gives_its_test_part(tmp_path):
    X, y = draw(4, 3, 3)
    np.savez(tmp_path / "set.npz", X_train=X, y_train=y, X_test=X[:1], y_test=y[:1])
    assert len(load_images(tmp_path / "set.npz")[0]) == 1
    assert len(load_images(tmp_path / "set.npz", split="train")[0]) == 4


@pytest.mark.parametrize(
    ("paths", "options", "error", "message"),
    [
        ("nowhere.png", {}, FileNotFoundError, "nowhere.png: no such file"),
        ("*.tiff", {}, FileNotFoundError, "no pattern that a file matches"),
        ("", {}, DatasetError, r"size=\(height, width\)"),
        ("", {"size": (4, 4)}, DatasetError, "color='gray'"),
        ("notes.txt", {}, DatasetError, "of no known format"),
        ("a.png", {"size": (4, 0)}, DatasetError, r"size=\(4, 0\)"),
        ("a.png", {"color": "blue"}, DatasetError, "color='blue'"),
        ("a.png", {"split": "all"}, DatasetError, "split='all'"),
        ("a.png", {"image_shape": (4, 4, 2)}, DatasetError, r"expected image_shape=\(4, 4, 2\)"),
    ],
)
def test_refused(photos, paths, options, error, message):
    with pytest.raises(error, match=message):
        load_images(photos / paths, **options)


def test_no_paths():
    with pytest.raises(DatasetError, match="at least one"):
        load_images([])


def test_names_that_are_no_text_and_memory_that_runs_out(photos, monkeypatch):
    odd = os.fsencode(photos / "x") + b"caf\xe9.png"
    try:
        (photos / "a.png").rename(os.fsdecode(odd))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes names of text alone")
    (name,) = load_images(os.fsdecode(odd))[1]
    assert name.endswith("xcaf\\xe9.png")

    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("hfcnn.datasets.unlabelled.read_files", fail)
    with pytest.raises(DatasetError, match="need more memory than there is"):
        load_images(photos)

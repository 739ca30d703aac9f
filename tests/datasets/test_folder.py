"""Folders of images."""

import sys

import numpy as np
import pytest
from dataset_files import check, draw

from hfcnn.datasets import DatasetError, load


def write_images(folder, X, y, name="{}.png".format):
    image = pytest.importorskip("PIL.Image")
    for i, (pixels, label) in enumerate(zip(X, y, strict=True)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(folder / label / name(i))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)], ids=str)
def test_image_folder(tmp_path, shape):
    X, _ = draw(6, *shape)
    y = np.array(["cat", "cat", "dog", "dog", "dog", "emu"])
    write_images(tmp_path / "one", X, y)
    (tmp_path / "one" / "cat" / "notes.txt").write_text("not an image")
    expected = X.reshape(6, 6, 5, -1)
    check(load(tmp_path / "one"), expected, y)
    with pytest.raises(DatasetError, match="no test part"):
        load(tmp_path / "one", split="test")
    write_images(tmp_path / "both" / "train", X[:4], y[:4])
    with pytest.raises(DatasetError, match="no test part; expected a sub-folder test"):
        load(tmp_path / "both", split="test")
    write_images(tmp_path / "both" / "test", X[4:], y[4:])
    check(load(tmp_path / "both"), expected[:4], y[:4])
    check(load(tmp_path / "both", split="test"), expected[4:], y[4:])


def test_image_folder_jpeg(tmp_path):
    write_images(tmp_path, np.full((2, 16, 16, 3), 90, np.uint8), ["a", "b"], "{}.JPG".format)
    X, y = load(tmp_path)
    assert X.shape == (2, 16, 16, 3) and abs(X.astype(int) - 90).max() <= 2
    assert y.tolist() == ["a", "b"]


def test_image_folder_odd_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    X, _ = draw(3, 6, 5)
    write_images(tmp_path, X, ["a", "a", "b"])
    odd = tmp_path / "b" / "2.png"
    image.fromarray(X[0, :4]).save(odd)
    with pytest.raises(
        DatasetError, match=r"2.png: of shape \(4, 5, 1\); expected \(6, 5, 1\), that of .*0.png; size="
    ):
        load(tmp_path)
    image.fromarray(X[0]).convert("RGB").save(odd)
    with pytest.raises(DatasetError, match=r"2.png: of shape \(6, 5, 3\); .*color='gray'"):
        load(tmp_path)
    odd.write_bytes((tmp_path / "a" / "0.png").read_bytes()[:50])
    with pytest.raises(DatasetError, match="2.png: damaged"):
        load(tmp_path)
    odd.write_bytes(b"text")
    with pytest.raises(DatasetError, match="2.png: damaged"):
        load(tmp_path)


def test_image_folder_without_images(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(DatasetError, match="a: a class with no images"):
        load(tmp_path)


def test_image_folder_without_pillow(tmp_path, monkeypatch):
    write_images(tmp_path, draw(1, 4, 4)[0], ["a"])
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install hfcnn\[plots\]"):
        load(tmp_path)

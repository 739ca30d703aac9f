"""Folders as people and archives lay them out."""

import gzip
import unicodedata

import numpy as np
import pytest
from dataset_files import check, cifar_binary, draw, idx

from hfcnn.datasets import DatasetError, MissingPartError, load

image = pytest.importorskip("PIL.Image")


def put(folder, *paths):
    """Write images, each of one shade: the number of its path."""
    for shade, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.new("L", (4, 4), shade).save(folder / path)


def shades(loaded):
    X, y = loaded
    return list(zip(X[:, 0, 0, 0].tolist(), y.tolist(), strict=True))


@pytest.mark.parametrize(
    "train", ["train", "Train", "TRAIN", "training", "Training_Set", "train set", "seg_train"]
)
@pytest.mark.parametrize("test", ["test", "Testing", "test-set", "val"])
def test_names_of_parts(tmp_path, train, test):
    put(tmp_path, f"{train}/a/1.png", f"{train}/b/1.png", f"{test}/b/1.png")
    assert shades(load(tmp_path)) == [(0, "a"), (1, "b")]
    assert shades(load(tmp_path, split="test")) == [(2, "b")]


def test_validation_is_not_taken_where_there_is_a_test_part(tmp_path):
    put(tmp_path, "train/a/1.png", "val/a/1.png", "test/a/1.png", "pred/1.png")
    assert shades(load(tmp_path, split="test")) == [(2, "a")]


def test_a_class_named_train(tmp_path):
    put(tmp_path, "bus/1.png", "train/1.png", "test/1.png")
    assert shades(load(tmp_path)) == [(0, "bus"), (2, "test"), (1, "train")]
    put(tmp_path / "parts", "train/bus/1.png", "train/train/1.png", "test/train/1.png")
    assert shades(load(tmp_path / "parts")) == [(0, "bus"), (1, "train")]
    assert shades(load(tmp_path / "parts", split="test")) == [(2, "train")]


def test_parts_or_classes_that_cannot_be_told(tmp_path):
    put(tmp_path / "one", "train/2020/1.png", "bus/2020/1.png")
    with pytest.raises(DatasetError, match="expected either parts or classes"):
        load(tmp_path / "one")
    put(tmp_path / "two", "train/cat.0.png", "train/dog.0.png", "test/1.png")
    with pytest.raises(DatasetError, match="test, train hold images that are in no folder of a class"):
        load(tmp_path / "two")
    put(tmp_path / "three", "train/a/1.png", "Training/a/1.png")
    with pytest.raises(DatasetError, match="expected one folder of train images"):
        load(tmp_path / "three")


def test_nested_folders_belong_to_their_class(tmp_path):
    put(tmp_path, "cat/1.png", "cat/black/old/2.png", "dog/red/3.png", "dog/4.png")
    assert shades(load(tmp_path)) == [(0, "cat"), (1, "cat"), (3, "dog"), (2, "dog")]


def test_a_folder_around_the_folder(tmp_path):
    put(tmp_path, "archive/PetImages/cat/1.png", "archive/PetImages/dog/1.png", "__MACOSX/archive/._x.png")
    assert shades(load(tmp_path)) == [(0, "cat"), (1, "dog")]
    put(tmp_path / "intel", "seg_train/seg_train/sea/1.png", "seg_train/seg_train/ice/1.png")
    put(tmp_path / "intel", "seg_test/seg_test/sea/1.png", "seg_pred/seg_pred/1.png")
    assert shades(load(tmp_path / "intel")) == [(1, "ice"), (0, "sea")]


def test_no_class_and_no_image_goes_missing_in_silence(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    for extra in ("cat/2.heic", "cat/more/3.raw", "dog/4.npy", "bird/1.svg"):
        path = tmp_path / extra
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"anything")
        with pytest.raises(DatasetError, match=f"{path.name}: no image of a kind that is read"):
            load(tmp_path)
        path.unlink()
    with pytest.raises(DatasetError, match="bird: a class with no images"):
        load(tmp_path)
    (tmp_path / "bird").rmdir()
    (tmp_path / "cat" / "more").rmdir()
    put(tmp_path, "stray.png")
    with pytest.raises(DatasetError, match="stray.png: an image in no folder of a class"):
        load(tmp_path)


def test_images_without_an_ending_and_companions(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "1")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "labels.csv", "1.xml"):
        (tmp_path / "cat" / name).write_text("x")
    assert shades(load(tmp_path)) == [(0, "cat"), (1, "dog")]


def test_accents_composed_and_decomposed_are_one_class(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    put(tmp_path, f"train/{names[0]}/1.png", "train/tea/1.png", f"test/{names[1]}/1.png")
    assert load(tmp_path, split="test")[1][0] in load(tmp_path)[1]


def write_mnist(folder, X, y, train="train", test="t10k", prefix="", ending=""):
    folder.mkdir(parents=True, exist_ok=True)
    pack = gzip.compress if ending else bytes
    for part, images, labels in ((train, X, y), (test, X[:1], y[:1])):
        (folder / f"{prefix}{part}-images-idx3-ubyte{ending}").write_bytes(pack(idx(images)))
        (folder / f"{prefix}{part}-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels)))


def test_torchvisions_folders(tmp_path):
    X, y = draw(3, 5, 4)
    write_mnist(tmp_path / "MNIST" / "raw", X, y)
    check(load(tmp_path), X[..., None], y)
    check(load(tmp_path / "MNIST", split="test"), X[:1, ..., None], y[:1])
    write_mnist(tmp_path / "FashionMNIST" / "raw", X, y)
    with pytest.raises(DatasetError, match="holds several data sets"):
        load(tmp_path)
    images, labels = draw(2, 32, 32, 3)
    (tmp_path / "c" / "cifar-10-batches-bin").mkdir(parents=True)
    (tmp_path / "c" / "cifar-10-batches-bin" / "data_batch_1.bin").write_bytes(cifar_binary(images, labels))
    check(load(tmp_path / "c"), images, labels)


def test_emnist(tmp_path):
    X, y = draw(3, 5, 4)
    write_mnist(tmp_path, X, y, test="test", prefix="emnist-letters-", ending=".gz")
    check(load(tmp_path), X[..., None], y)
    check(load(tmp_path, split="test"), X[:1, ..., None], y[:1])
    check(load(tmp_path / "emnist-letters-test-images-idx3-ubyte.gz"), X[:1, ..., None], y[:1])
    write_mnist(tmp_path, X, y, test="test", prefix="emnist-digits-", ending=".gz")
    with pytest.raises(DatasetError, match="holds the sets emnist-digits, emnist-letters"):
        load(tmp_path)


# --- CSV ---


def write_table(path, X, y, header=True, label="label"):
    rows = np.column_stack([y, X.reshape(len(X), -1)])
    names = [label, *(f"pixel{i}" for i in range(X[0].size))]
    text = "\n".join(",".join(map(str, row)) for row in ([names] if header else []) + rows.tolist())
    path.write_text(text + "\n")


def test_kaggles_digits(tmp_path):
    X, y = draw(4, 5, 5)
    write_table(tmp_path / "train.csv", X, y)
    write_table(tmp_path / "test.csv", X, y, label="image_id")
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    check(load(tmp_path), X[..., None], y)
    check(load(tmp_path / "train.csv"), X[..., None], y)
    with pytest.raises(MissingPartError, match="test.csv: no column of labels"):
        load(tmp_path, split="test")
    write_table(tmp_path / "test.csv", X[:2], y[:2])
    check(load(tmp_path, split="test"), X[:2, ..., None], y[:2])


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_tables_of_other_forms(tmp_path, ending, bom):
    X, y = draw(4, 2, 2, 3)
    write_table(tmp_path / "a.csv", X, y, header=False)
    check(load(tmp_path / "a.csv", image_shape=(2, 2, 3)), X, y)
    text = (tmp_path / "a.csv").read_text()
    header = ",".join(["", "Label", *map(str, range(12))])
    rows = [f"{i},{line}" for i, line in enumerate(text.splitlines())]
    (tmp_path / "b.csv").write_text(bom + ending.join([header, *rows]), encoding="utf-8", newline="")
    check(load(tmp_path / "b.csv", image_shape=(2, 2, 3)), X, y)
    words = np.array(["bird", "café", "dog", "bird"])
    lines = ["p0,p1,p2,p3,class", *(f'1,2,3,{i},"{word}"' for i, word in enumerate(words))]
    (tmp_path / "c.csv").write_text(bom + ending.join(lines), encoding="utf-8", newline="")
    images, labels = load(tmp_path / "c.csv")
    assert labels.tolist() == words.tolist() and images[:, 1, 1, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,a,b,c,d\n", "no pixels"),
        ("label,a,b,c,d\n1,2,3,4\n", "damaged"),
        ("label,a,b,c,d\n1,2,3,x,4\n", "damaged"),
        ("label,a,b,c,d\n1,2,3,4,256\n", "not bytes"),
        ("label,a,b,c\n1,2,3,4\n", "3 values per image, which is no square"),
        ("label,a,b,c,d\n,1,2,3,4\n", "labels that are empty"),
        ("label,a,b,c,d\n0.5,1,2,3,4\n", "labels that are not integers"),
        ("name,score\nx,1\n", "no column of labels"),
        ("label,a,b,c,d\n1,2,3,4,5,6\n", "image 0 has 6 columns; expected 5"),
        ("a,b,c,d,label\n2,3,4,5,1\n2,3,4,5,6,1\n", "image 1 has 6 columns; expected 5"),
        ("label,a,b,c,d,class\n1,2,3,4,5,1\n", "has the columns label and class"),
        ("label,a,b,c,d\n99999999999999999999,2,3,3,4\n", "labels up to"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    (tmp_path / "set.csv").write_text(text)
    with pytest.raises(DatasetError, match=f"set.csv: .*{message}"):
        load(tmp_path / "set.csv")


# --- npz by other names ---


def test_names_of_arrays(tmp_path):
    X, y = draw(4, 5, 5)
    path = tmp_path / "set.npz"
    for names in (
        {"images": X, "labels": y},
        {"data": X.reshape(4, -1), "target": y.astype(float)},
        {"data": X.reshape(4, -1), "images": X, "target": y},
        {"train_images": X, "train_labels": y[:, None], "val_images": X[:1], "val_labels": y[:1]},
        {"X_train": X, "y_train": y, "X": X},
        {"X": X.reshape(4, -1), "y": y},
    ):
        np.savez(path, **names)
        check(load(path, image_shape=(5, 5)), X[..., None], y)
    for label in (np.array(["a", "b", "b", "c"]), np.array(["a", "b", "b", "c"], object)):
        np.savez(path, X=X, y=label)
        check(load(path), X[..., None], ["a", "b", "b", "c"])
    np.savez(path, train_images=X, train_labels=y, test_images=X[:2], test_labels=y[:2])
    check(load(path, split="test"), X[:2, ..., None], y[:2])
    np.savez(path, x=X[::-1], images=X, y=y)
    with pytest.raises(DatasetError, match="x and images; expected one of them"):
        load(path)


def test_zero_based(tmp_path):
    (tmp_path / "set").write_text("1 1:7 2:8\n2 3:9\n")
    shape = (2, 2)
    assert load(tmp_path / "set", image_shape=shape)[0][0].ravel().tolist() == [7, 8, 0, 0]
    assert load(tmp_path / "set", image_shape=shape, zero_based=True)[0][0].ravel().tolist() == [0, 7, 8, 0]
    with pytest.raises(DatasetError, match="zero_based='no'"):
        load(tmp_path / "set", zero_based="no")


def test_large_labels_are_told_apart(tmp_path):
    (tmp_path / "set.csv").write_text("label,a,b,c,d\n9007199254740993,1,2,3,4\n9007199254740992,1,2,3,4\n")
    assert load(tmp_path / "set.csv")[1].tolist() == [2**53 + 1, 2**53]
    X, _ = draw(2, 4, 4)
    for y in (np.array([2**63, 1], np.uint64), np.array([2.0**60, 1])):
        np.savez(tmp_path / "set.npz", X=X, y=y)
        with pytest.raises(DatasetError, match="labels up to"):
            load(tmp_path / "set.npz")

"""Images held in Python in other ways than as one array: into the scaler, the classifiers and `to_arrays`."""

import io

import numpy as np
import pytest
import torch
from dataset_files import draw

from hfcnn import Conv, ImageScaler, NewtonCNNClassifier
from hfcnn.datasets import to_arrays
from hfcnn.datasets.arrays import as_images

image = pytest.importorskip("PIL.Image")
X, Y = draw(6, 5, 4, 3)
PICTURES = [image.fromarray(pixels) for pixels in X]


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def columns():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    return {
        "pictures": PICTURES,
        "tuple of pictures": tuple(PICTURES),
        "object array": np.array([*PICTURES, None], object)[:-1],
        "arrays": list(X),
        "tensors": list(torch.from_numpy(X)),
        "encoded": [encoded(picture) for picture in PICTURES],
        "series": pandas.Series(PICTURES),
        "column of a frame": pandas.DataFrame({"image": [encoded(p) for p in PICTURES]}),
        "column of polars": polars.DataFrame({"image": [encoded(p) for p in PICTURES]}),
    }


def test_sequences_of_images():
    for name, images in columns().items():
        np.testing.assert_array_equal(as_images(images), X, err_msg=name)


def test_arrays_and_frames_of_numbers_stay_what_they_are():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.eye(3))
    column = pandas.DataFrame({"a": [1.0, 2.0]})
    for images in (X, frame, column, X.reshape(6, -1)):
        assert as_images(images) is images
    np.testing.assert_array_equal(as_images(X.tolist()), X)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(dtype):
    tensor = torch.arange(24.0).reshape(2, 3, 4).to(dtype)
    if dtype.is_floating_point:
        tensor.requires_grad_()
    expected = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(as_images(tensor), expected)
    np.testing.assert_array_equal(
        ImageScaler().fit_transform(tensor),
        ImageScaler().fit_transform(expected).astype(np.float64)
        if dtype == torch.float64
        else ImageScaler().fit_transform(expected.astype(np.float32)),
    )


def test_classifier_and_scaler_take_pictures_and_frames():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    labels = np.arange(6) % 2
    make = lambda: NewtonCNNClassifier([Conv(2, 3)], C=1.0, max_iter=1, n_jobs=1, random_state=0)  # noqa: E731
    scaled = ImageScaler().fit_transform(PICTURES)
    np.testing.assert_array_equal(scaled, ImageScaler().fit_transform(X))
    expected = make().fit(X.astype(np.float32), labels).decision_function(X.astype(np.float32))
    pictures = make().fit(PICTURES, labels)
    np.testing.assert_allclose(pictures.decision_function(PICTURES), expected, rtol=1e-5, atol=1e-5)
    flat = X.reshape(6, -1).astype(float)
    for frame in (pandas.DataFrame(flat).add_prefix("p"), polars.DataFrame(flat)):
        assert make().set_params(image_shape=(5, 4, 3)).fit(frame, labels).predict(frame).shape == (6,)
        assert ImageScaler().fit(frame).transform(frame).shape == (6, 60)


def test_pictures_of_different_sizes():
    with pytest.raises(ValueError, match=r"the first \(5, 4, 3\), number 6 \(4, 5, 3\); .*ImageOps"):
        as_images([*PICTURES, PICTURES[0].resize((5, 4))])


def test_data_sets_say_what_to_do():
    pairs = Pairs(PICTURES, Y.tolist())
    for taken in (as_images, ImageScaler().fit):
        with pytest.raises(TypeError, match=r"X, y = hfcnn.datasets.to_arrays\(dataset\)"):
            taken(pairs)
        with pytest.raises(TypeError, match=r"to_arrays\(loader.dataset\)"):
            taken(torch.utils.data.DataLoader(pairs))


def test_to_arrays():
    first = torch.from_numpy(X).permute(0, 3, 1, 2).float() / 255
    wide = torch.zeros(2, 3, 8, 9)
    for dataset in (
        Pairs(PICTURES, Y.tolist()),
        Pairs(list(X), torch.from_numpy(Y)),
        [{"image": picture, "label": label} for picture, label in zip(PICTURES, Y, strict=True)],
        [{"img": encoded(picture), "fine_label": label} for picture, label in zip(PICTURES, Y, strict=True)],
    ):
        images, labels = to_arrays(dataset)
        np.testing.assert_array_equal(images, X)
        np.testing.assert_array_equal(labels, Y)
    assert to_arrays(Pairs(wide, [0, 1]))[0].shape == (2, 8, 9, 3)
    assert (
        to_arrays(torch.utils.data.TensorDataset(first[:, :1], torch.from_numpy(Y)))[1].tolist() == Y.tolist()
    )
    images, labels = to_arrays(
        Pairs([PICTURES[0], PICTURES[1].resize((9, 9))], "ab"), size=(6, 6), color="gray"
    )
    assert images.shape == (2, 6, 6, 1) and labels.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (iter([]), TypeError, "no number of items"),
        ([], ValueError, "empty"),
        ([1, 2], TypeError, "item 0 is a int; expected a pair"),
        ([{"picture": 1}], TypeError, "item 0 has the fields picture; expected an image in one of image"),
        ([(np.zeros((2, 2)), 0), (np.zeros((3, 2)), 1)], ValueError, "different shapes"),
    ],
)
def test_data_sets_that_are_none(dataset, error, message):
    with pytest.raises(error, match=message):
        to_arrays(dataset)

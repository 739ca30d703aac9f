"""Image files of every kind, brought to one shape."""

import io

import numpy as np
import pytest
from dataset_files import draw

from hfcnn.datasets import DatasetError, load
from hfcnn.datasets.decode import decode_image

image = pytest.importorskip("PIL.Image")

RGB = draw(1, 6, 9, 3)[0][0]
PICTURE = image.fromarray(RGB)
LUMA = np.asarray(PICTURE.convert("L"))
DEEP = np.random.default_rng(0).integers(0, 1 << 16, (6, 9)).astype(np.uint16)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file


@pytest.mark.parametrize(
    ("mode", "kind", "channels"),
    [
        *(("L", kind, 1) for kind in ("PNG", "BMP", "TIFF", "GIF", "PPM")),
        *(("RGB", kind, 3) for kind in ("PNG", "BMP", "TIFF", "PPM")),
        *(("1", "PNG", 1), ("LA", "PNG", 1), ("RGBA", "PNG", 3), ("RGBA", "TIFF", 3), ("CMYK", "TIFF", 3)),
    ],
)
def test_modes_that_lose_nothing(mode, kind, channels):
    picture = PICTURE.convert(mode)
    pixels = decode_image(encoded(picture, kind), "x")
    expected = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(6, 9, channels)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")])
@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_modes_that_lose_a_little(kind, mode, color):
    smooth = image.fromarray(np.add.outer(np.arange(0, 160, 10), np.arange(0, 80, 5)).astype(np.uint8))
    pixels = decode_image(encoded(smooth.convert("RGB").convert(mode), kind), "x", None, color)
    assert pixels.shape == (16, 16, 1 if color == "gray" else 3)
    assert np.abs(pixels.astype(int) - np.asarray(smooth)[..., None]).max() < 12


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits(kind):
    pixels = decode_image(encoded(image.fromarray(DEEP), kind), "x")
    np.testing.assert_array_equal(pixels[..., 0], np.rint(DEEP / 257))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_refused(mode):
    with pytest.raises(DatasetError, match="x: pixels of 32 bits"):
        decode_image(encoded(PICTURE.convert(mode), "TIFF"), "x")


@pytest.mark.parametrize(
    ("turn", "expected"), [(1, RGB), (3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1)), (8, np.rot90(RGB))]
)
def test_orientation(turn, expected):
    exif = image.Exif()
    exif[0x0112] = turn
    np.testing.assert_array_equal(decode_image(encoded(PICTURE, "PNG", exif=exif), "x"), expected)


def test_transparent_is_white():
    for picture in (image.new("RGBA", (4, 4), (0, 0, 0, 0)), image.new("LA", (4, 4), (0, 0))):
        assert decode_image(encoded(picture, "PNG"), "x").min() == 255
    for picture, key in ((image.new("RGB", (4, 4), (3, 4, 5)), (3, 4, 5)), (image.new("L", (4, 4), 3), 3)):
        assert decode_image(encoded(picture, "PNG", transparency=key), "x").min() == 255


def test_gray_palette_is_gray():
    picture = image.new("P", (4, 4), 7)
    picture.putpalette([k // 3 for k in range(768)])
    assert decode_image(encoded(picture, "PNG"), "x").tolist() == [[[7]] * 4] * 4


def test_size_is_height_and_width_and_cuts_at_the_centre():
    pixels = np.zeros((20, 60), np.uint8)
    pixels[:, 20:40] = 200
    fitted = decode_image(encoded(image.fromarray(pixels), "PNG"), "x", (10, 10))
    assert fitted.shape == (10, 10, 1) and (fitted[:, 1:-1] >= 198).all()
    assert decode_image(encoded(PICTURE, "PNG"), "x", (4, 7)).shape == (4, 7, 3)
    large = image.new("RGB", (2000, 1000), (10, 200, 90))
    assert np.abs(decode_image(encoded(large, "JPEG"), "x", (8, 8)).astype(int) - (10, 200, 90)).max() <= 3


def test_load_brings_a_folder_of_photographs_to_one_shape(tmp_path):
    for i, (mode, ending) in enumerate(
        [("RGB", "jfif"), ("L", "JPG"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "tif")]
    ):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        kind = {"jfif": "JPEG", "JPG": "JPEG", "png": "PNG", "gif": "GIF", "tif": "TIFF"}[ending]
        PICTURE.convert(mode).resize((10 + i, 20)).save(tmp_path / "ab"[i % 2] / f"{i}.{ending}", kind)
    X, y = load(tmp_path, size=(8, 6), color="rgb")
    assert X.shape == (5, 8, 6, 3) and y.tolist() == ["a", "a", "a", "b", "b"]
    assert load(tmp_path, size=(8, 6), color="gray")[0].shape == (5, 8, 6, 1)
    with pytest.raises(DatasetError, match=r"size=\(height, width\), or --size H,W"):
        load(tmp_path)


def test_arrays_keep_their_size(tmp_path):
    X, y = draw(3, 4, 5)
    np.savez(tmp_path / "set.npz", X=X, y=y)
    assert load(tmp_path / "set.npz", size=(4, 5), color="gray")[0].shape == (3, 4, 5, 1)
    with pytest.raises(DatasetError, match=r"whose size stays; expected size=\(8, 8\)"):
        load(tmp_path / "set.npz", size=(8, 8))
    with pytest.raises(DatasetError, match="whose colour stays; expected color='rgb'"):
        load(tmp_path / "set.npz", color="rgb")


@pytest.mark.parametrize("size", [5, (5,), (5, -1), (5.0, 5), "5,5", (5, 5, 5)])
def test_size_is_checked(tmp_path, size):
    with pytest.raises(DatasetError, match="expected .height, width."):
        load(tmp_path, size=size)

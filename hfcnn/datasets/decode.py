"""Image files as arrays: any size, colour mode and orientation, brought to one shape."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfcnn.datasets.files import EXPANSION, SMALLEST_LIMIT, Color, DatasetError, Shape, Wanted

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "check_color",
    "check_shape",
    "check_size",
    "decode_image",
    "is_image_name",
    "looks_like_image",
    "to_pixels",
]

#: Formats that pillow may try; others have decoders that run programs, or are seldom met.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM")

#: Endings of the names of such files.
ENDINGS = frozenset(".png .jpg .jpeg .jpe .jfif .bmp .dib .webp .tif .tiff .gif .ppm .pgm .pbm .pnm".split())

#: What such files start with, for those without an ending.
MAGIC = rb"\x89PNG|\xff\xd8\xff|BM|GIF8|II\*\0|MM\0\*|RIFF....WEBP|P[1-6]\s"

#: Modes of pillow that are shades of gray of 8 bits at most.
GRAY_MODES = frozenset(["1", "L", "LA", "La"])

#: Channels of a colour.
N_CHANNELS = {"gray": 1, "rgb": 3}

#: Bytes per pixel while an image is decoded and converted.
BYTES_PER_PIXEL = 4


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as that of an image that can be read."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def looks_like_image(start: bytes) -> bool:
    """Whether a file that starts so is an image that can be read."""
    return re.match(MAGIC, start, re.DOTALL) is not None


def check_size(size: Any) -> tuple[int, int] | None:
    """Check (height, width): positive whole numbers.

    Raises
    ------
    ValueError
        If it is neither that nor None.
    """
    if size is None:
        return None
    is_pair = isinstance(size, tuple | list) and len(size) == 2
    if not is_pair or not all(isinstance(n, int | np.integer) and 0 < n <= 1 << 16 for n in size):
        raise DatasetError(f"size={size!r}: expected (height, width), whole numbers from 1 to {1 << 16}")
    return int(size[0]), int(size[1])


def check_color(color: Any) -> Color | None:
    """Check "gray", "rgb" or None.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if color not in (None, "gray", "rgb"):
        raise DatasetError(f"color={color!r}: expected 'gray', 'rgb' or None, which keeps what the file has")
    chosen: Color | None = color
    return chosen


def size_and_color(shape: Shape) -> tuple[tuple[int, int], Color | None]:
    """Size and colour to bring image files to, for images of a shape (height, width, channels)."""
    colors: dict[int, Color] = {1: "gray", 3: "rgb"}
    return shape[:2], colors.get(shape[2])


def check_shape(shape: tuple[int, ...], wanted: Wanted, source: str | Path) -> None:
    """Compare the shape of images, (n, height, width, channels), with what was asked for.

    Raises
    ------
    DatasetError
        If they are of another shape, size or colour.
    """
    shape = shape[1:]
    if wanted.image_shape is not None and shape != wanted.image_shape:
        raise DatasetError(f"{source}: images of shape {shape}; expected image_shape={wanted.image_shape}")
    # only image files are brought to a size and colour: arrays are taken as they are, or not at all
    if wanted.size is not None and shape[:2] != wanted.size:
        raise DatasetError(
            f"{source}: arrays of images of shape {shape}, whose size stays; expected size={wanted.size}, "
            "which image files alone are brought to"
        )
    if wanted.color is not None and shape[2] != N_CHANNELS[wanted.color]:
        raise DatasetError(
            f"{source}: arrays of images of shape {shape}, whose colour stays; expected "
            f"color={wanted.color!r}, which image files alone are brought to"
        )


def decode_image(
    file: IO[bytes],
    source: str | Path,
    size: tuple[int, int] | None = None,
    color: Color | None = None,
    max_bytes: int | None = None,
) -> NDArray[np.uint8]:
    """Decode an image file: turned as its EXIF data say, of 8 bits, in the size and colour asked for.

    Parameters
    ----------
    file : binary file
        The image, open and seekable.
    source : str or path
        Its name, for messages.
    size : (height, width) or None
        Size to bring it to: resized by bicubic interpolation until it covers that size, then cut at the
        centre. None keeps its own.
    color : {"gray", "rgb"} or None
        None keeps gray images gray and makes RGB of all others. Transparent parts become white.
    max_bytes : int or None
        Most memory for it. None allows 256 MiB, or a hundred times the size of its file if that is more.

    Returns
    -------
    ndarray of shape (height, width, channels), uint8
        One channel if gray, else three.

    Raises
    ------
    DatasetError
        If it is damaged, in no format that is read, or larger than is allowed.
    ImportError
        If pillow is missing.
    """
    PIL = pillow(source)
    if max_bytes is None:
        n_bytes = file.seek(0, os.SEEK_END)
        max_bytes = max(SMALLEST_LIMIT, EXPANSION * n_bytes)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # of sizes, which are compared here, and of what a damaged file holds besides
            warnings.simplefilter("ignore")
            with PIL.Image.open(file, formats=FORMATS) as image:
                if size is not None and "progressive" not in image.info:
                    # a JPEG is decoded at about the size that is needed: photographs a lot faster; but one
                    # that comes in several passes is kept whole meanwhile
                    image.draft(None, (2 * max(size), 2 * max(size)))
                width, height = image.size
                if width * height * BYTES_PER_PIXEL > max_bytes:
                    raise DatasetError(
                        f"{source}: {height} x {width} pixels need {width * height * BYTES_PER_PIXEL} bytes, "
                        f"and at most {max_bytes} are allowed for it; pass a larger max_bytes if you trust "
                        "its source"
                    )
                return to_pixels(image, source, size, color)
    except (DatasetError, MemoryError):
        raise
    except PIL.Image.DecompressionBombError as error:
        raise DatasetError(f"{source}: more pixels than are ever decoded ({error})") from error
    except PIL.UnidentifiedImageError as error:
        raise DatasetError(
            f"{source}: damaged, or no image; expected PNG, JPEG, BMP, WebP, TIFF, GIF or PPM"
        ) from error
    except Exception as error:  # a damaged file leads decoders into almost any exception
        raise DatasetError(f"{source}: damaged ({error}); expected an image") from error


def to_pixels(
    image: Image.Image, source: str | Path, size: tuple[int, int] | None = None, color: Color | None = None
) -> NDArray[np.uint8]:
    """Bring an image of pillow to 8 bits, and to a size and colour, as `decode_image` does.

    Parameters
    ----------
    image : PIL.Image.Image
        The image.
    source : str or path
        Its name, for messages.
    size : (height, width) or None
        Size to bring it to.
    color : {"gray", "rgb"} or None
        Colour to bring it to.

    Returns
    -------
    ndarray of shape (height, width, channels), uint8
        One channel if gray, else three.

    Raises
    ------
    DatasetError
        If its pixels are numbers of more than 16 bits.
    """
    from PIL import Image, ImageOps

    image = _eight_bits(ImageOps.exif_transpose(image), source)
    is_gray = color == "gray" or (color is None and _is_gray(image))
    if image.mode in ("PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB") if image.mode not in ("L", "1") else image
    image = image.convert("L" if is_gray else "RGB")
    if size is not None and image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[..., np.newaxis] if is_gray else pixels


def _eight_bits(image: Image.Image, source: str | Path) -> Image.Image:
    """Bring shades of gray of 16 bits to 8: 65535 becomes 255."""
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    # older pillow opens a PNG of 16 bits as one of 32
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not is_16_bit:
        raise DatasetError(
            f"{source}: pixels of 32 bits, whose range nobody knows; expected 8 or 16 bits per channel"
        )
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _is_gray(image: Image.Image) -> bool:
    if image.mode in ("P", "PA"):
        colors = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return bool((colors == colors[:, :1]).all())
    return image.mode in GRAY_MODES


def pillow(source: str | Path) -> Any:
    """Import pillow.

    Raises
    ------
    ImportError
        If pillow is missing: the message says how to install it.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError(f"{source}: reading images needs pillow: pip install hfcnn[plots]") from error
    return PIL

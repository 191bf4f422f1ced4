"""Image files from outside: which kinds are opened, how much is decoded, and what pixels mean.

Every picture that a user gives goes through here: dataset images, photographs of objectives and
starts, masks. So all of them are seen alike.
"""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What image files hold, also under another's name. Others stay closed: they would run programs."""

MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Pillow's limit. At twice as many pixels it opens nothing, as it would take gigabytes."""

# From one to two times the limit it only warns, wherever that is printed. What is decoded is
# bounded here, and told with the name of the file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)


def open_image(path: Path) -> Image.Image:
    """Open an image file, of which nothing is decoded yet; close it after use.

    Raises: whatever a file from outside can raise.
    """
    return Image.open(path, formats=_FORMATS)


def check_pixels(image: Image.Image) -> None:
    """Make sure that an image that is about to be decoded is not too large.

    Raises:
        ValueError: it is.
    """
    if math.prod(image.size) > MOST_PIXELS:
        width, height = image.size
        raise ValueError(f"its {width} x {height} pixels are more than the limit of {MOST_PIXELS}")


# --- one reader for all pictures -----------------------------------------------------------------


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode any image to 8-bit red, green and blue, upright.

    - Samples of 16 bits keep their upper 8; Pillow alone would clip those of grey images.
    - Transparent parts are composited on white; the colour stored under them is not seen.
    - The EXIF orientation is applied; EXIF data that cannot be read is ignored.
    - Of an animation the first frame is read. ICC profiles are ignored, as in training.

    Raises: whatever a file from outside can raise.
    """
    image = _upright(_with_key_as_alpha(image))
    if image.mode.startswith("I"):
        image = _upper_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    if image.mode != "RGB":
        return image.convert("RGB")
    image.load()
    return image


def is_on_its_side(image: Image.Image) -> bool:
    """Whether width and height swap when the EXIF orientation is applied. May decode the image."""
    return _orientation(image) >= _ON_ITS_SIDE


_ORIENTATION, _ON_ITS_SIDE = 0x0112, 5
"""The EXIF tag, and the first of its values that swap width and height."""


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where there is none or it cannot be read."""
    try:
        told = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - whatever damaged EXIF data trips over; the pixels may be fine
        return 1
    return told if told in _TURNS else 1


_TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS[_orientation(image)]
    return image if turn is None else image.transpose(turn)


# A PNG may name one colour that is transparent. Pillow compares it with samples that it has already
# brought to 8 bits, without bringing the colour there as well.
_KEY_SCALES: dict[str, Callable[[int], int]] = {
    "L;2": lambda value: 85 * value,
    "L;4": lambda value: 17 * value,
    "RGB;16B": lambda value: value >> 8,
}


def _with_key_as_alpha(image: Image.Image) -> Image.Image:
    """The image, its transparent colour in the scale of its samples or, of 16 bits, as alpha."""
    key = image.info.get("transparency")
    if key is None or not isinstance(image, ImageFile.ImageFile):
        return image
    if image.mode.startswith("I;16"):
        alpha = Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
        rgba = _upper_bits(image).convert("RGBA")
        rgba.putalpha(alpha)
        rgba.info["exif"] = image.info.get("exif", b"")
        return rgba
    raw = image.tile[0].args if image.tile else None
    scale = _KEY_SCALES.get(raw) if isinstance(raw, str) else None
    if scale is not None:
        scaled = tuple(map(scale, key)) if isinstance(key, tuple) else scale(key)
        image.load()
        image.info["transparency"] = scaled
    return image


def _upper_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits in the upper 8 of them."""
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


_QUALITY = 92


def as_jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) as the bytes of a JPEG file (n,): a tenth of its size."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def from_jpeg(file: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The picture (size, size, 3) in a JPEG file.

    Raises:
        ValueError: it is no JPEG file, or of another size.
    """
    try:
        with Image.open(io.BytesIO(file.tobytes()), formats=["JPEG"]) as picture:
            if picture.size != (size, size) or picture.mode != "RGB":
                raise ValueError(f"{picture.mode} {picture.size}")
            return np.asarray(picture)
    except Exception as error:
        raise ValueError(f"no picture of {size} x {size} pixels: {error}") from error


def joined(files: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.int64] | NDArray[np.uint8]]:
    """Files one behind the other: their bytes `picture`, and where each ends `picture_end`."""
    ends = np.cumsum([len(file) for file in files], dtype=np.int64)
    return {"picture": np.concatenate([*files, np.zeros(0, np.uint8)]), "picture_end": ends}


def parted(picture: NDArray[np.uint8], picture_end: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """The inverse of `joined`."""
    return np.split(picture, picture_end)[:-1]

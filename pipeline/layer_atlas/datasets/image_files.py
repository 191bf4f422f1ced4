"""Image files from users: permitted formats, decoding limits, and conversion to pixels.

Every image that a user provides passes through here: dataset images, reference and initial images,
masks. All of them are therefore decoded alike.
"""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from layer_atlas.errors import UserError

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Permitted file contents, whatever the file's name. Other decoders of Pillow may run programs."""

MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Pillow's limit. It refuses images of twice as many pixels, which would take gigabytes."""

# Between one and two times the limit Pillow only warns. `check_pixels` raises instead, and callers
# report the file's name.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning)


def open_image(path: Path) -> Image.Image:
    """Open an image file without decoding it; the caller closes it.

    Raises: any exception of Pillow's decoders.
    """
    return Image.open(path, formats=_FORMATS)


def check_pixels(image: Image.Image) -> None:
    """Check that an image is not too large before it is decoded.

    Raises:
        ValueError: it is.
    """
    if math.prod(image.size) > MOST_PIXELS:
        width, height = image.size
        raise ValueError(f"its {width} x {height} pixels are more than the limit of {MOST_PIXELS}")


# --- one reader for all images -------------------------------------------------------------------


def as_rgb(image: Image.Image) -> Image.Image:
    """Decode any image to 8-bit red, green and blue, upright.

    - 16-bit samples keep their upper 8 bits; Pillow alone would clip those of grey images.
    - Transparent parts are composited on white; the colour stored under them is ignored.
    - The EXIF orientation is applied; unreadable EXIF data is ignored.
    - The first frame of an animation is read. ICC profiles are ignored, as in training.

    Raises: any exception of Pillow's decoders.
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
    """Return whether the EXIF orientation swaps width and height. May decode the image."""
    return _orientation(image) >= _ON_ITS_SIDE


_ORIENTATION, _ON_ITS_SIDE = 0x0112, 5
"""The EXIF tag, and the first of its values that swap width and height."""


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where it is missing or unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF data; the pixels may be intact
        return 1
    return value if value in _TRANSPOSITIONS else 1


_TRANSPOSITIONS = {
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
    transposition = _TRANSPOSITIONS[_orientation(image)]
    return image if transposition is None else image.transpose(transposition)


# A PNG may declare one transparent colour. Pillow scales samples to 8 bits, but compares them with
# the unscaled colour.
_KEY_SCALES: dict[str, Callable[[int], int]] = {
    "L;2": lambda value: 85 * value,
    "L;4": lambda value: 17 * value,
    "RGB;16B": lambda value: value >> 8,
}


def _with_key_as_alpha(image: Image.Image) -> Image.Image:
    """Scale the image's transparent colour to its samples or, for 16 bits, convert it to alpha."""
    key = image.info.get("transparency")
    if key is None or not isinstance(image, ImageFile.ImageFile):
        return image
    if image.mode.startswith("I;16"):
        alpha = Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
        rgba = _upper_bits(image).convert("RGBA")
        rgba.putalpha(alpha)
        # The new image would lose the orientation, which is applied later.
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
    """Reduce a 16-bit grey image to its upper 8 bits."""
    return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))


_QUALITY = 92


def as_jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode an image (H, W, 3) as the bytes of a JPEG file (n,): a tenth of its size."""
    buffer = io.BytesIO()
    # No chroma subsampling: at this quality it is the most visible loss in small images.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def from_jpeg(file: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Decode the image (size, size, 3) of a JPEG file.

    Raises:
        ValueError: it is not a JPEG file, or has another size.
    """
    try:
        with Image.open(io.BytesIO(file.tobytes()), formats=["JPEG"]) as image:
            if image.size != (size, size) or image.mode != "RGB":
                raise ValueError(f"{image.mode} {image.size}")
            return np.asarray(image)
    except Exception as error:
        raise ValueError(f"no image of {size} x {size} pixels: {error}") from error


def joined(files: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[np.int64] | NDArray[np.uint8]]:
    """Concatenate files: their bytes as `picture`, and the end of each as `picture_end`."""
    ends = np.cumsum([len(file) for file in files], dtype=np.int64)
    return {"picture": np.concatenate([*files, np.zeros(0, np.uint8)]), "picture_end": ends}


def parted(picture: NDArray[np.uint8], picture_end: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    """Split what `joined` concatenated."""
    return np.split(picture, picture_end)[:-1]


# --- input images of recipes ----------------------------------------------------------------------


def read_picture(path: Path, colours: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Read the centre of an image file at a given size: (1, C, H, W) in [0, 1].

    Args:
        path: an image file, decoded by `as_rgb`.
        colours: C; 3 is RGB, 1 is grey, and any other number repeats the grey image.
        size: height and width in pixels.
    Raises:
        UserError: the file is not an image.
    """
    image = _decoded(path, "RGB" if colours == 3 else "L")
    # Cropped, not distorted: features keep their aspect ratio.
    fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
    pixels = np.asarray(fitted, np.float32) / np.float32(255.0)
    planes = pixels.transpose(2, 0, 1) if colours == 3 else np.tile(pixels, (colours, 1, 1))
    return np.ascontiguousarray(planes[None])


def picture_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image file; raises UserError."""
    width, height = _decoded(path, "L").size
    return height, width


def _decoded(path: Path, mode: str) -> Image.Image:
    """Decode an image file upright, in one of Pillow's modes."""
    try:
        with open_image(path) as image:
            check_pixels(image)
            return as_rgb(image).convert(mode)
    except Exception as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"picture {str(path)!r} cannot be read: {reason}. Give a JPEG, PNG or WebP file."
        ) from error

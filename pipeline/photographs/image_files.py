"""Image files from outside: which kinds are opened, and how much of them is decoded."""

import math
import warnings
from pathlib import Path

from PIL import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What image files hold, also under another's name. Others stay closed: they would run programs."""

MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 2**26
"""Pillow's limit. At twice as many pixels it opens nothing, as it would take gigabytes."""

# From one to two times the limit it only warns, wherever that is printed. What is decoded is
# bounded here, and told with the name of the file.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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

"""Input images of recipes: read from a file, cropped and resized to the optimized images' shape."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from layer_atlas.datasets.image_files import as_rgb, check_pixels, open_image
from layer_atlas.errors import UserError


def read_picture(path: Path, colours: int, size: tuple[int, int]) -> Tensor:
    """Read the centre of an image file at a given size: (1, C, H, W) in [0, 1].

    Args:
        path: an image file, decoded by `as_rgb`.
        colours: C; 3 is RGB, 1 is grey, and any other number repeats the grey image.
        size: height and width in pixels.
    Raises:
        UserError: the file is not an image.
    """
    image = _upright(path, "RGB" if colours == 3 else "L")
    # Cropped, not distorted: features keep their aspect ratio.
    fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(fitted)).float().div_(255.0)
    planes = pixels.permute(2, 0, 1) if colours == 3 else pixels.expand(colours, -1, -1)
    return planes[None].contiguous()


def picture_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image file; raises UserError."""
    width, height = _upright(path, "L").size
    return height, width


def _upright(path: Path, mode: str) -> Image.Image:
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

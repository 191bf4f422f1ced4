"""Pictures that a user gives: read from a file, cut to the shape of the images, and resized."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from layer_atlas.datasets.image_files import as_rgb, check_pixels, open_image
from layer_atlas.errors import UserError


def read_picture(path: Path, colours: int, size: tuple[int, int]) -> Tensor:
    """The middle of a picture in the shape of the images, resized: (1, C, H, W) in [0, 1].

    Args:
        path: of an image file, read as `as_rgb` says.
        colours: C; 3 is RGB, 1 is grey, and any other number repeats the grey picture.
        size: height and width.
    Raises:
        UserError: the file is no image.
    """
    wanted = _upright(path, "RGB" if colours == 3 else "L")
    fitted = ImageOps.fit(wanted, (size[1], size[0]), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(fitted)).float().div_(255.0)
    planes = pixels.permute(2, 0, 1) if colours == 3 else pixels.expand(colours, -1, -1)
    return planes[None].contiguous()


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture; raises UserError."""
    width, height = _upright(path, "L").size
    return height, width


def _upright(path: Path, mode: str) -> Image.Image:
    """A picture as it is to be seen, in a mode of Pillow's."""
    try:
        with open_image(path) as picture:
            check_pixels(picture)
            return as_rgb(picture).convert(mode)
    except Exception as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UserError(
            f"picture {str(path)!r} cannot be read: {reason}. Give a JPEG, PNG or WebP file."
        ) from error

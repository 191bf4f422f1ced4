"""How images of any number of colours are shown as RGB."""

import numpy as np
from numpy.typing import NDArray


def in_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert pixels (..., C) of any number of colours to RGB (..., 3).

    One colour is grey, two are red and green; of more than three the first three are shown.
    """
    count = pixels.shape[-1]
    if count == 1:
        return np.repeat(pixels, 3, axis=-1)
    if count == 2:
        return np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    return np.ascontiguousarray(pixels[..., :3])


def colours_shown(count: int) -> str:
    """Name the bands that `in_colour` shows; empty where all are shown as they are."""
    if count in (1, 3):
        return ""
    return "2 bands in red and green" if count == 2 else f"bands 0 to 2 of {count}"

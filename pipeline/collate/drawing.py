"""What all pictures of the atlas share: colours, the font, tiles, and lines of text that fit."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, EMPTY, ALARM = "#ffffff", "#1a1a1a", "#6b6b6b", "#e9e9ee", "#a02020"
RULE = "#c8c8d0"
"""Thin lines that part and cross out."""
LARGEST_SIDE = 12_000
"""Pixels; what is larger is shown smaller or cut into pages, so that viewers still open it."""

_SMALLEST_FONT = 9


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all texts, `size` pixels high."""
    return ImageFont.load_default(size)


def as_tile(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """Pixels (H, W, 3) as a square picture; they are resized only if they are not `side` wide."""
    tile = Image.fromarray(pixels)
    if tile.size != (side, side):
        tile = tile.resize((side, side), Image.Resampling.LANCZOS)
    return tile


def draw_empty(draw: ImageDraw.ImageDraw, corner: tuple[int, int], side: int) -> None:
    """A crossed out square where an image would be."""
    x, y = corner
    end = side - 1
    draw.rectangle((x, y, x + end, y + end), fill=EMPTY)
    draw.line((x, y, x + end, y + end), fill=RULE)
    draw.line((x + end, y, x, y + end), fill=RULE)


def draw_fitting(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    colour: str,
    size: int,
    width: float,
) -> None:
    """Write a line that fits the width: smaller if need be, then cut short."""
    shown, chosen = fitting(text, size, width)
    draw.text(corner, shown, colour, font(chosen))


def fitting(text: str, size: int, width: float) -> tuple[str, int]:
    """The text, cut short if it must be, and the largest size up to `size` at which it fits."""
    for smaller in range(size, _SMALLEST_FONT - 1, -1):
        if font(smaller).getlength(text) <= width:
            return text, smaller
    least = font(_SMALLEST_FONT)
    while text and least.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…", _SMALLEST_FONT

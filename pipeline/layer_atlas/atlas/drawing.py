"""What all pictures of the atlas share: colours, the font, tiles, and lines of text that fit."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from layer_atlas.plan.labels import sanitize

PAPER, INK, FAINT, EMPTY, ALARM = "#ffffff", "#1a1a1a", "#6b6b6b", "#e9e9ee", "#a02020"
RULE = "#c8c8d0"
"""Thin lines that part and cross out."""
LARGEST_SIDE = 12_000
"""Pixels; what is larger is shown smaller or cut into pages, so that viewers still open it."""

_SMALLEST_FONT = 9
_LONGEST_TEXT = 300
"""Letters; no picture has room for more, and they take time to measure."""
_SHADOW = "#00000080"


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all texts, `size` pixels high."""
    return ImageFont.load_default(size)


def as_tile(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """Pixels (H, W, C) as a picture; they are resized only if they are not `size`, width first."""
    tile = Image.fromarray(in_colour(pixels))
    if tile.size != size:
        tile = tile.resize(size, Image.Resampling.LANCZOS)
    return tile


def in_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (..., C) of any number of colours as RGB (..., 3).

    One colour is grey. Of more than three the first three are shown, of two red and green.
    """
    count = pixels.shape[-1]
    if count == 1:
        return np.repeat(pixels, 3, axis=-1)
    if count == 2:
        return np.concatenate([pixels, np.zeros_like(pixels[..., :1])], axis=-1)
    return np.ascontiguousarray(pixels[..., :3])


def colours_shown(count: int) -> str:
    """How `in_colour` shows so many colours, where that does not go without saying."""
    if count in (1, 3):
        return ""
    return "2 bands in red and green" if count == 2 else f"bands 0 to 2 of {count}"


def draw_empty(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: tuple[int, int]) -> None:
    """A crossed out rectangle where an image would be."""
    (x, y), (right, bottom) = corner, (corner[0] + size[0] - 1, corner[1] + size[1] - 1)
    draw.rectangle((x, y, right, bottom), fill=EMPTY)
    draw.line((x, y, right, bottom), fill=RULE)
    draw.line((right, y, x, bottom), fill=RULE)


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
    text = drawable(text)
    for smaller in range(size, _SMALLEST_FONT - 1, -1):
        if font(smaller).getlength(text) <= width:
            return text, smaller
    return shortened(text, _SMALLEST_FONT, width), _SMALLEST_FONT


def drawable(text: str) -> str:
    """The text on one line, without accents, which the font does not have."""
    text = unicodedata.normalize("NFD", sanitize(text[:_LONGEST_TEXT]))
    return "".join(c for c in text if not unicodedata.combining(c))


def shortened(text: str, size: int, width: float) -> str:
    """The text, cut short if it must be."""
    text, letters = drawable(text), font(size)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def numbered(word: str, numbers: Iterable[int], width: float) -> list[str]:
    """Numbers with a word before each, or where that is too wide, without it."""
    texts = [f"{word} {number}" for number in numbers]
    fit = all(font(_SMALLEST_FONT).getlength(text) <= width for text in texts)
    return texts if fit else [text.removeprefix(f"{word} ") for text in texts]


def common_size(texts: Iterable[str], size: int, width: float, least: int = _SMALLEST_FONT) -> int:
    """The largest size from `least` up to `size` at which all texts fit, or `least`."""
    longest = max(map(drawable, texts), key=font(size).getlength, default="")
    return max(least, fitting(longest, size, width)[1])


def wrapped(text: str, size: int, width: float) -> list[str]:
    """A text in lines of no more than `width`, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are the first outside."""


@dataclass(frozen=True)
class Tile:
    """A picture and its place."""

    box: Box
    """A square."""
    pixels: NDArray[np.uint8] | None
    """(H, W, 3); resized where it is not of the box's size. None: an empty square."""
    frame: Box | None = None
    """A part of `pixels` around which a thin frame is drawn."""
    word: str = ""
    """Written in the middle of an empty square."""


@dataclass(frozen=True)
class Text:
    """A line of text and its place."""

    box: Box
    words: str
    size: int
    """Of the letters, in pixels; smaller where the words would not fit."""
    colour: str = INK
    align: Literal["left", "right", "centre"] = "left"


def paint_tile(picture: Image.Image, tile: Tile) -> None:
    """Put a tile into its place, with its frame."""
    left, top, right, bottom = tile.box
    if tile.pixels is None:
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left, top, right - 1, bottom - 1), fill=EMPTY)
        letters = max(12, (right - left) // 9)
        paint_text(draw, Text(tile.box, tile.word, letters, ALARM, "centre"))
        return
    shown = as_tile(tile.pixels, (right - left, right - left))
    if tile.frame is not None:
        _draw_frame(shown, tile.frame, (right - left) / tile.pixels.shape[1])
    picture.paste(shown, (left, top))


def paint_text(draw: ImageDraw.ImageDraw, text: Text) -> None:
    """Write a line within its box, in the middle of its height."""
    left, top, right, bottom = text.box
    words, size = fitting(text.words, text.size, right - left)
    spare = right - left - font(size).getlength(words)
    x = left + {"left": 0.0, "centre": spare / 2, "right": spare}[text.align]
    # The middle of capital letters, so that lines stand level whatever their letters.
    _, up, _, down = font(size).getbbox("H")
    draw.text((x, round((top + bottom - up - down) / 2)), words, text.colour, font(size))


def _draw_frame(picture: Image.Image, part: Box, scale: float) -> None:
    """A white line between dark ones: it shows on any ground, the white paper beside it too."""
    end, line = picture.width - 1, max(1, picture.width // 100)
    left, top = (min(end, max(1, round(side * scale))) for side in part[:2])
    right, bottom = (max(0, min(end, round(side * scale)) - 1) for side in part[2:])
    draw = ImageDraw.Draw(picture, "RGBA")
    for out, colour, width in ((1, _SHADOW, 1), (-line, _SHADOW, 1), (0, PAPER, line)):
        box = (left - out, top - out, right + out, bottom + out)
        if box[0] <= box[2] and box[1] <= box[3]:
            draw.rectangle(box, outline=colour, width=width)

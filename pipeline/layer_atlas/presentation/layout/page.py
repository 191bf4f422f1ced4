"""Tiles, texts and lines at their places on a page; texts fitted to their room, in any font."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from layer_atlas.atlas.display import in_colour
from layer_atlas.errors import sanitize

PAPER, INK, FAINT, EMPTY, ALARM = "#ffffff", "#1a1a1a", "#5f5f66", "#e9e9ee", "#a02020"
RULE = "#c8c8d0"
"""Thin lines that separate rows and cross out empty boxes."""
LARGEST_SIDE = 12_000
"""Pixels of the longest side of a picture: viewers still open it."""
_SHADOW = "#00000080"
HAIRLINE = 0.5
"""Width of thin lines in points; at least a pixel in pictures."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in dots; right and bottom are the first outside."""
Align = Literal["left", "center", "right"]
Keep = Literal["start", "end"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Tile:
    """An image and its place."""

    box: Box
    pixels: NDArray[np.uint8] | None
    """The image (H, W, colours), resampled where it is not of the box's size; None: not made."""
    frame: Box | None = None
    """The part of `pixels` around which a thin frame is drawn."""
    word: str = ""
    """Written in an empty box, which is crossed out otherwise."""


@dataclass(frozen=True)
class Text:
    """A line of text and its place; its capitals stand in the middle of the box's height."""

    box: tuple[float, float, float, float]
    words: str
    size: float
    """Size of the letters: pixels on a Pillow canvas, points on a figure."""
    least: float | None = None
    """Smallest size to which letters shrink before words are cut; None: they keep their size."""
    colour: str = INK
    align: Align = "left"
    keep: Keep = "start"
    """The part of the words that is kept where there is no room for all."""
    bold: bool = False
    turned: bool = False
    """Whether the text reads upwards."""

    @property
    def room(self) -> float:
        """Length that there is for the words."""
        left, top, right, bottom = self.box
        return bottom - top if self.turned else right - left


@dataclass(frozen=True)
class Lines:
    """Polylines of one look."""

    paths: Sequence[Sequence[Point]]
    colour: str = INK
    width: float = HAIRLINE
    """Width in points."""


@dataclass(frozen=True)
class Page:
    """A planned page; no two boxes of tiles and texts overlap."""

    size: tuple[int, int]
    """Width and height."""
    tiles: tuple[Tile, ...]
    texts: tuple[Text, ...]
    lines: tuple[Lines, ...]


class Canvas(Protocol):
    """A back end: paints what is placed, in the order of the calls."""

    def tile(self, tile: Tile) -> None:
        """Paint an image in the middle of its box, or an empty box."""
        ...

    def text(self, text: Text) -> None:
        """Write a line, fitted to its box."""
        ...

    def lines(self, lines: Lines) -> None:
        """Draw polylines."""
        ...


def paint(canvas: Canvas, page: Page) -> None:
    """Paint a page: lines lie below tiles, tiles below texts."""
    for lines in page.lines:
        canvas.lines(lines)
    for tile in page.tiles:
        canvas.tile(tile)
    for text in page.texts:
        canvas.text(text)


def fitted_size(image_size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the largest image of a shape in a box.

    Args:
        image_size: height and width of the image.
        room: width and height of the box.
    """
    (height, width), (wide, high) = image_size, room
    tall, broad = max(1, round(wide * height / width)), max(1, round(high * width / height))
    # A box whose shape differs from the image's by rounding alone is filled.
    if high == tall or wide == broad:
        return wide, high
    return (wide, tall) if tall < high else (broad, high)


def resampled(pixels: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """Pixels (H, W, colours) as an RGB picture of a width and height; copied if of that size."""
    picture = Image.fromarray(in_colour(pixels))
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def tile_image(tile: Tile) -> tuple[tuple[int, int], Image.Image]:
    """The left upper corner and the picture of a tile that has pixels, in the middle of its box."""
    assert tile.pixels is not None
    left, top, right, bottom = tile.box
    height, width = tile.pixels.shape[:2]
    size = fitted_size((height, width), (right - left, bottom - top))
    corner = left + (right - left - size[0]) // 2, top + (bottom - top - size[1]) // 2
    picture = resampled(tile.pixels, size)
    # The frame is part of the pixels, so that both canvases show it.
    if tile.frame is not None:
        _draw_frame(picture, tile.frame, size[0] / width)
    return corner, picture


def _draw_frame(picture: Image.Image, part: Box, scale: float) -> None:
    """Draw a white line between dark ones, which shows on any ground."""
    end, line = picture.width - 1, max(1, picture.width // 100)
    left, top = (min(end, max(1, round(side * scale))) for side in part[:2])
    right, bottom = (max(0, min(end, round(side * scale)) - 1) for side in part[2:])
    draw = ImageDraw.Draw(picture, "RGBA")
    for out, colour, width in ((1, _SHADOW, 1), (-line, _SHADOW, 1), (0, PAPER, line)):
        box = (left - out, top - out, right + out, bottom + out)
        if box[0] <= box[2] and box[1] <= box[3]:
            draw.rectangle(box, outline=colour, width=width)


LINE = 1.35
"""Height of a line, in sizes of its letters."""

_PIECE = re.compile(r" ?[^ ]+?(?:(?<=\w-)(?=\w)|(?= )|$)")
"""A word, or a part of it up to a hyphen, with the blank before it."""


class Font(ABC):
    """Measures texts; lengths are in dots, sizes of letters in the unit of the back end."""

    @abstractmethod
    def width(self, text: str, size: float, bold: bool = False) -> float:
        """Width of a text, as it is."""

    @abstractmethod
    def line(self, size: float) -> int:
        """Height of a line."""

    @abstractmethod
    def size(self, texts: Iterable[str], room: float, most: float, least: float) -> float:
        """The largest size between two at which all texts have room, or else the least."""

    def drawable(self, text: str) -> str:
        """The text on one line, with nothing in it that the font lacks."""
        return sanitize(text)

    def widest(self, texts: Iterable[str], size: float) -> float:
        """Width of the widest of some texts; 0 if there are none."""
        return max((self.width(text, size) for text in texts), default=0.0)

    def fitted(self, text: Text) -> Text:
        """The text as it is drawn: smaller where that helps, then cut short."""
        words, size = self.drawable(text.words), text.size
        if text.least is not None:
            size = self.size([words], text.room, text.size, text.least)
        words = self._shortened(words, size, text.room, text.keep, text.bold)
        return replace(text, words=words, size=size)

    def shortened(self, text: str, size: float, room: float, keep: Keep = "start") -> str:
        """The text, or as much of its start or end as there is room for, and an ellipsis."""
        return self._shortened(self.drawable(text), size, room, keep, bold=False)

    def _shortened(self, text: str, size: float, room: float, keep: Keep, bold: bool) -> str:
        # Letters whose size was computed from this room come out at exactly its width.
        room *= 1 + 1e-9
        if self.width(text, size, bold) <= room:
            return text
        low, high = 0, len(text) - 1
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.width(_cut(text, middle, keep), size, bold) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return _cut(text, low, keep) if low else ""

    def wrapped(self, text: str, size: float, room: float, most: int | None = None) -> list[str]:
        """Break a text into lines between words; the last of at most so many holds the rest."""
        lines = self._broken(text, size, room)
        if most is not None and len(lines) > most:
            lines[most - 1 :] = ["".join(lines[most - 1 :])]
        return [self.shortened(line.strip(), size, room) for line in lines]

    def holds(self, text: str, size: float, room: float, most: int) -> bool:
        """Whether all of a text has room in at most so many lines."""
        lines = self._broken(text, size, room)
        return len(lines) <= most and self.widest(map(str.strip, lines), size) <= room

    def _broken(self, text: str, size: float, room: float) -> list[str]:
        """Break a text into lines, each with the blank before it; single words may be too long."""
        lines: list[str] = []
        for piece in _PIECE.findall(" ".join(text.split())):
            if lines and self.width((lines[-1] + piece).strip(), size) <= room:
                lines[-1] += piece
            else:
                lines.append(piece)
        return lines

    def without_common_word(self, texts: Sequence[str], size: float, room: float) -> list[str]:
        """The texts without a first word that all share, if there is no room for it."""
        # A single number below an image is plain enough; two kinds of words are not.
        shorter = [text.partition(" ")[2] for text in texts]
        common = len({text.split(" ")[0] for text in texts}) == 1 and all(shorter)
        return shorter if common and self.widest(texts, size) > room else list(texts)

    def placed(
        self,
        point: Point,
        words: str,
        size: float,
        room: float,
        align: Align = "left",
        **look: str | bool,
    ) -> Text:
        """A text in a band of one line that begins, ends or has its middle at x and begins at y."""
        (x, y), height = point, self.line(size)
        left = x - room * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
        box = left, y, left + room, y + height
        return Text(box, words, size, align=align, **look)  # type: ignore[arg-type]

    def turned(self, middle: Point, words: str, size: float, room: float) -> Text:
        """A text that reads upwards, with its middle at a place."""
        (x, y), half = middle, self.line(size) / 2
        return Text((x - half, y - room / 2, x + half, y + room / 2), words, size, turned=True)


def _cut(text: str, length: int, keep: Keep) -> str:
    return text[:length].rstrip() + "…" if keep == "start" else "…" + text[len(text) - length :]

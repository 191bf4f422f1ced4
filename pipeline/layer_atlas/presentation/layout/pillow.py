"""The Pillow back end: montages, evidence sheets, animation strips and the site's pictures."""

import io
import unicodedata
import zlib
from collections.abc import Iterable
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from layer_atlas.errors import sanitize
from layer_atlas.presentation.layout.page import (
    ALARM,
    EMPTY,
    LINE,
    PAPER,
    RULE,
    Font,
    Lines,
    Text,
    Tile,
    tile_image,
)

SMALLEST = 9
"""Size of the smallest letters that can be read, in pixels."""
_LONGEST_TEXT = 300
"""Letters; no picture has room for more, and they take time to measure."""


@cache
def _loaded(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class PillowFont(Font):
    """The font that comes with Pillow; sizes are whole pixels."""

    def width(self, text: str, size: float, bold: bool = False) -> float:
        """Width of a text; there are no bold letters."""
        return _loaded(round(size)).getlength(text)

    def line(self, size: float) -> int:
        """Height of a line."""
        return round(size * LINE)

    def size(
        self, texts: Iterable[str], room: float, most: float, least: float = SMALLEST
    ) -> float:
        """The largest whole size between two at which all texts have room, or else the least."""
        # Hinted letters do not scale in proportion, so sizes are tried.
        longest = max(map(self.drawable, texts), key=lambda t: self.width(t, most), default="")
        sizes = range(round(most), round(least), -1)
        return next((size for size in sizes if self.width(longest, size) <= room), least)

    def drawable(self, text: str) -> str:
        """The text on one line, without accents, which the font lacks."""
        text = unicodedata.normalize("NFD", sanitize(text[:_LONGEST_TEXT]))
        return "".join(c for c in text if not unicodedata.combining(c))

    def capitals(self, size: float) -> float:
        """Depth of the middle of capital letters below the top of a line."""
        _, top, _, bottom = _loaded(round(size)).getbbox("H")
        return (top + bottom) / 2


FONT = PillowFont()


class PillowCanvas:
    """An RGB picture that is painted on."""

    def __init__(self, size: tuple[int, int], ground: str = PAPER) -> None:
        self.picture = Image.new("RGB", size, ground)
        self._draw = ImageDraw.Draw(self.picture)

    def tile(self, tile: Tile) -> None:
        """Paint an image in the middle of its box, or an empty box."""
        if tile.pixels is None:
            self._empty(tile)
            return
        corner, shown = tile_image(tile)
        self.picture.paste(shown, corner)

    def _empty(self, tile: Tile) -> None:
        left, top, right, bottom = tile.box
        self._draw.rectangle((left, top, right - 1, bottom - 1), fill=EMPTY)
        if tile.word:
            size = max(12, (right - left) // 9)
            self.text(Text(tile.box, tile.word, size, SMALLEST, ALARM, "center"))
        else:
            self._draw.line((left, top, right - 1, bottom - 1), fill=RULE)
            self._draw.line((right - 1, top, left, bottom - 1), fill=RULE)

    def text(self, text: Text) -> None:
        """Write a line, fitted to its box."""
        text = FONT.fitted(text)
        left, top, right, bottom = text.box
        spare = right - left - FONT.width(text.words, text.size)
        x = left + {"left": 0.0, "center": spare / 2, "right": spare}[text.align]
        # Level capitals make lines stand level, whatever their letters are.
        y = round((top + bottom) / 2 - FONT.capitals(text.size))
        self._draw.text((x, y), text.words, text.colour, _loaded(round(text.size)))

    def lines(self, lines: Lines) -> None:
        """Draw polylines of at least a pixel's width."""
        for path in lines.paths:
            self._draw.line(path, fill=lines.colour, width=max(1, round(lines.width)))

    def png(self) -> bytes:
        """The picture as a PNG file."""
        buffer = io.BytesIO()
        # As small as level 4 of zlib's default for images like these, in 40 % of the time.
        self.picture.save(buffer, "PNG", compress_type=zlib.Z_RLE)
        return buffer.getvalue()

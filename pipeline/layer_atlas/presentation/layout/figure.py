"""The matplotlib back end: pages of figures, on which a dot is 1/dpi inch.

Everything lies on whole dots where that matters, so that an image of the right size reaches every
format pixel by pixel.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from layer_atlas.config.outputs import FigureSettings
from layer_atlas.errors import UserError, unknown
from layer_atlas.presentation.layout.page import (
    ALARM,
    EMPTY,
    FAINT,
    HAIRLINE,
    INK,
    LINE,
    RULE,
    Box,
    Font,
    Lines,
    Text,
    Tile,
    tile_image,
)

POINTS_PER_INCH = 72
HAIR = "#9a9aa2"
"""Colour of thin lines under headings."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1a")
"""Distinct with any colour vision (Okabe & Ito 2008), those that show best on white first."""

_MEASURED_AT = 10.0
"""Points at which widths are measured; letters without hinting scale in proportion."""
_TRUETYPE = (".ttf", ".ttc")
_STYLE: dict[Any, Any] = {
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "layer-atlas",
    "image.composite_image": False,
    "text.parse_math": False,
    "text.usetex": False,
    "text.hinting": "no_hinting",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": HAIRLINE,
    "axes.formatter.use_mathtext": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": HAIRLINE,
    "ytick.major.width": HAIRLINE,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_SIZES = ("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize")


# --- letters -------------------------------------------------------------------------------------


def check_font(family: str) -> None:
    """Raise UserError unless a TrueType font of this family is installed.

    Other fonts cannot be embedded in a PDF as TrueType, which publishers ask for.
    """
    known = {f.name for f in fontManager.ttflist if Path(f.fname).suffix.lower() in _TRUETYPE}
    if family not in known:
        raise unknown("figure.font", family, known)


@dataclass(frozen=True)
class FontMetrics(Font):
    """A TrueType font on pages of so many dots per inch; sizes of letters are points."""

    family: str
    dpi: int

    def dots(self, points: float) -> float:
        """A length in points as dots."""
        return points * self.dpi / POINTS_PER_INCH

    def line(self, size: float) -> int:
        """Height of a line."""
        return round(self.dots(size) * LINE)

    def points(self, line: int) -> float:
        """Size of the letters of a line of this height."""
        return line / LINE * POINTS_PER_INCH / self.dpi

    def width(self, text: str, size: float, bold: bool = False) -> float:
        """Width of a text, as it is."""
        return _width(self.family, bold, text) * self.dots(size) / _MEASURED_AT

    def size(self, texts: Iterable[str], room: float, most: float, least: float) -> float:
        """The largest size between two at which all texts have room, or else the least."""
        wide = self.widest(texts, most)
        return most if wide <= room else max(least, most * room / wide)


@lru_cache(65536)
def _width(family: str, bold: bool, text: str) -> float:
    """Width in points of letters of ten points."""
    weight = "bold" if bold else "normal"
    font = FontProperties(family=family, weight=weight, size=_MEASURED_AT)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)


# --- sizes of pages ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PageFormat:
    """A size of pages, and the sizes of letters and images on them."""

    width: float
    """Width in inches."""
    height: float
    """Largest height in inches."""
    page: float
    """Height of a usual page in inches."""
    margin: float
    """Margin on each side in inches; pages of text bring their own."""
    text: float
    """Points of titles and of the names of axes."""
    small: float
    """Points of labels."""
    least: float
    """Points of the smallest labels."""
    tile: tuple[float, float, float]
    """Smallest, best and largest width of an image, in inches."""


_COLUMN = PageFormat(3.3, 9.0, 9.0, 0.02, 8, 6.5, 5, (0.24, 0.5, 1.6))
_TEXT = PageFormat(6.9, 9.0, 9.0, 0.02, 8, 7, 5, (0.24, 0.75, 2.0))
_SLIDE = PageFormat(13.3, 7.5, 7.5, 0.35, 16, 13, 9, (0.4, 1.3, 3.6))
_PRESETS = {"column": _COLUMN, "text": _TEXT, "slide": _SLIDE}
_TALLEST = 190.0
"""Inches; PDF allows 200."""


def format_of(settings: FigureSettings) -> PageFormat:
    """The page format that settings ask for."""
    preset = _PRESETS.get(str(settings.width), _TEXT)
    if not isinstance(settings.width, str):
        preset = _COLUMN if settings.width < 5 else _TEXT
    width = preset.width if isinstance(settings.width, str) else settings.width
    heights = {"page": preset.page, "any": _TALLEST}
    height = heights.get(str(settings.height)) or float(settings.height)
    return replace(preset, width=width, height=height)


@contextmanager
def style(settings: FigureSettings) -> Iterator[None]:
    """Set the look of everything drawn within, whatever a user has set for matplotlib.

    Raises:
        UserError: the font is not installed.
    """
    check_font(settings.font)
    small = format_of(settings).small
    sizes: dict[Any, Any] = dict.fromkeys(_SIZES, small)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, **sizes, "font.family": settings.font})
        yield


# --- canvas --------------------------------------------------------------------------------------


class FigureCanvas:
    """A page of a figure, or a part of one, that is painted on."""

    def __init__(
        self,
        size: tuple[int, int],
        origin: tuple[int, int],
        font: FontMetrics,
        figure: Figure | None = None,
    ) -> None:
        """Make a page of a width and height; boxes count from `origin`, its left upper corner.

        Args:
            size: width and height in dots.
            origin: place where boxes begin.
            font: font of all texts.
            figure: page that others paint on too; until `move` puts the parts to their places, it
                is as large as the one that is painted.
        """
        (width, height), (left, top) = size, origin
        self.size, self.origin, self.font = size, origin, font
        self.figure = figure or Figure(dpi=font.dpi)
        self.figure.set_size_inches(width / font.dpi, height / font.dpi)
        FigureCanvasAgg(self.figure)
        self._axes: list[tuple[Axes, Box]] = []
        self._ground = self.figure.add_axes((0.0, 0.0, 1.0, 1.0), zorder=-1)
        self._ground.set_xlim(-left, width - left)
        self._ground.set_ylim(height - top, -top)
        self._ground.set_axis_off()

    def tile(self, tile: Tile) -> None:
        """Paint an image in the middle of its box, or an empty box."""
        if tile.pixels is None:
            self._empty(tile)
            return
        corner, picture = tile_image(tile)
        self.image(corner, np.asarray(picture))

    def image(self, corner: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        """Put pixels (H, W, 3) with their left upper corner at a place, a pixel to a dot."""
        (left, top), (height, width) = corner, pixels.shape[:2]
        extent = (left, left + width, top + height, top)
        # `imshow` would also fit the axes to each image: slow for thousands.
        image = AxesImage(self._ground, extent=extent, interpolation="none", origin="upper")
        image.set_data(pixels)
        image.set_clip_path(self._ground.patch)
        self._ground.add_image(image)

    def _empty(self, tile: Tile) -> None:
        left, top, right, bottom = tile.box
        size = right - left, bottom - top
        self._ground.add_patch(Rectangle((left, top), *size, facecolor=EMPTY, linewidth=0))
        if tile.word:
            points = self.font.points((bottom - top) // 3)
            self.text(Text(tile.box, tile.word, points, points / 3, ALARM, "center"))
        else:
            crossing = [[(left, top), (right, bottom)], [(left, bottom), (right, top)]]
            self.lines(Lines(crossing, RULE))

    def text(self, text: Text) -> None:
        """Write a line, fitted to its box."""
        text = self.font.fitted(text)
        if not text.words:
            return
        left, top, right, bottom = text.box
        middle = (top + bottom) / 2
        # The capitals of most fonts reach up two thirds of their size: a third lies below.
        baseline = middle + self.font.dots(text.size) * (1 - LINE / 2)
        self._ground.text(
            (left + right) / 2
            if text.turned
            else {"left": left, "right": right}.get(text.align, (left + right) / 2),
            middle if text.turned else baseline,
            text.words,
            fontsize=text.size,
            ha="center" if text.turned else text.align,
            va="center" if text.turned else "baseline",
            color=text.colour,
            weight="bold" if text.bold else "normal",
            rotation=90 if text.turned else 0,
        )

    def lines(self, lines: Lines) -> None:
        """Draw polylines."""
        drawn = LineCollection(
            lines.paths, colors=lines.colour, linewidths=lines.width, capstyle="butt"
        )
        self._ground.add_collection(drawn, autolim=False)

    def axes(self, box: Box) -> Axes:
        """Add axes whose frame is this box."""
        axes = self.figure.add_axes(_fractions(self._on_canvas(box), self.size))
        self._axes.append((axes, box))
        return axes

    def move(self, corner: tuple[int, int], page: tuple[int, int]) -> None:
        """Put the canvas, a part of a page, with its left upper corner at a place of the page.

        Args:
            corner: left and top in dots.
            page: width and height of the page.
        """
        (x, y), (width, height) = corner, self.size
        whole = x, y, x + width, y + height
        self._ground.set_position(_fractions(whole, page))
        for axes, box in self._axes:
            left, top, right, bottom = self._on_canvas(box)
            axes.set_position(_fractions((left + x, top + y, right + x, bottom + y), page))

    def remove(self) -> None:
        """Take the canvas from its page, to be drawn in another size."""
        for axes in (self._ground, *(axes for axes, _ in self._axes)):
            axes.remove()

    def _on_canvas(self, box: Box) -> Box:
        """A box counted from the corner of the canvas."""
        (left, top, right, bottom), (x, y) = box, self.origin
        return left + x, top + y, right + x, bottom + y


def _fractions(box: Box, page: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box as matplotlib has it: left, bottom, width and height as fractions of the page."""
    (left, top, right, bottom), (width, height) = box, page
    return left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height


@dataclass(frozen=True)
class PagePart:
    """A part of a page that holds one panel of several."""

    figure: Figure
    """The page, on which other panels are too."""
    format: PageFormat
    """Width and largest height of the part, without margins; sizes of letters of the page."""


@dataclass(frozen=True)
class PageSpec:
    """The pages of a figure, with a title above and a caption below; all lengths in dots."""

    settings: FigureSettings
    caption: str = ""
    """The caption that `figure.caption=auto` stands for."""
    part: PagePart | None = None
    """The part of a page that the figure is drawn on; None: it has pages of its own."""

    @cached_property
    def format(self) -> PageFormat:
        """Size of the pages in inches, and sizes of letters."""
        return self.part.format if self.part else format_of(self.settings)

    @cached_property
    def font(self) -> FontMetrics:
        """Font of all texts."""
        return FontMetrics(self.settings.font, self.settings.dpi)

    def dots(self, inches: float) -> int:
        """A length in inches as dots."""
        return round(inches * self.settings.dpi)

    @property
    def margin(self) -> int:
        """Margin on each side."""
        return self.dots(self.format.margin)

    @property
    def width(self) -> int:
        """Width between the margins."""
        return self.dots(self.format.width) - 2 * self.margin

    @property
    def gap(self) -> int:
        """Distance between things that belong together: 2.5 points."""
        return round(self.font.dots(2.5))

    @property
    def height(self) -> int:
        """Largest height without margins, title and caption; raises UserError if none is left."""
        left = self.dots(self.format.height) - 2 * self.margin - self._above - self._below
        if left < self.dots(0.5):
            raise UserError("title and caption leave no room: take a larger figure.height.")
        return left

    def canvas(self, height: int, first: bool = True, last: bool = True) -> FigureCanvas:
        """Make a page with so much room between title and caption, where its boxes begin.

        The title is on the first page, the caption on the last.
        """
        top = self.margin + (self._above if first else 0)
        bottom = self.margin + (self._below if last else 0)
        size = self.width + 2 * self.margin, top + height + bottom
        page = self.part.figure if self.part else None
        canvas = FigureCanvas(size, (self.margin, top), self.font, page)
        if first:
            above, title = (0, -self._above), self.settings.title or ""
            canvas.text(self.font.placed(above, title, self.format.text, self.width, bold=True))
        small, below = self.format.small, height + 2 * self.gap
        for number, words in enumerate(self._caption_lines if last else ()):
            corner = 0, below + number * self.font.line(small)
            canvas.text(self.font.placed(corner, words, small, self.width, colour=FAINT))
        return canvas

    @property
    def _above(self) -> int:
        return self.font.line(self.format.text) + 2 * self.gap if self.settings.title else 0

    @property
    def _below(self) -> int:
        line = self.font.line(self.format.small)
        return len(self._caption_lines) * line + 2 * self.gap if self._caption_lines else 0

    @cached_property
    def _caption_lines(self) -> list[str]:
        asked = self.settings.caption
        caption = self.caption if asked == "auto" else asked or ""
        return self.font.wrapped(caption, self.format.small, self.width)

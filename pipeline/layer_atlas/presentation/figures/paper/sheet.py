"""A sheet of paper: pictures, words and lines at places in dots, `dpi` to the inch, y downwards.

Everything lies on whole dots where that matters, so that a picture of the right size reaches every
format pixel by pixel.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from layer_atlas.atlas.drawing import Box, as_tile
from layer_atlas.config.figures import FigureSettings
from layer_atlas.presentation.figures.paper.letters import FontMetrics, Weight, check_font

INK, FAINT, HAIR, EMPTY = "#1a1a1a", "#5f5f66", "#9a9aa2", "#ececf0"
HAIRLINE = 0.5
"""Width of thin lines, in points."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1a1a1a")
"""Told apart with any colour vision (Okabe & Ito 2008), those that show best on white first."""

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


@dataclass(frozen=True)
class Format:
    """A size of paper, and of what is on it."""

    width: float
    """Inches."""
    height: float
    """Most inches."""
    page: float
    """Inches of a usual page."""
    margin: float
    """Inches on each side; pages of text bring their own."""
    text: float
    """Points of titles and of what axes are called."""
    small: float
    """Points of labels."""
    least: float
    """Points of the smallest labels."""
    tile: tuple[float, float, float]
    """Smallest, best and largest width of an image, in inches."""


_COLUMN = Format(3.3, 9.0, 9.0, 0.02, 8, 6.5, 5, (0.24, 0.5, 1.6))
_TEXT = Format(6.9, 9.0, 9.0, 0.02, 8, 7, 5, (0.24, 0.75, 2.0))
_SLIDE = Format(13.3, 7.5, 7.5, 0.35, 16, 13, 9, (0.4, 1.3, 3.6))
_PRESETS = {"column": _COLUMN, "text": _TEXT, "slide": _SLIDE}
_TALLEST = 190.0
"""Inches; PDF allows 200."""


def format_of(settings: FigureSettings) -> Format:
    """The paper that settings ask for."""
    preset = _PRESETS.get(str(settings.width), _TEXT)
    if not isinstance(settings.width, str):
        preset = _COLUMN if settings.width < 5 else _TEXT
    width = preset.width if isinstance(settings.width, str) else settings.width
    heights = {"page": preset.page, "any": _TALLEST}
    height = heights.get(str(settings.height)) or float(settings.height)
    return replace(preset, width=width, height=height)


@contextmanager
def style(settings: FigureSettings) -> Iterator[None]:
    """How everything within looks, whatever a user has set for matplotlib.

    Raises:
        UserError: there is no such font.
    """
    check_font(settings.font)
    small = format_of(settings).small
    sizes: dict[Any, Any] = dict.fromkeys(_SIZES, small)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, **sizes, "font.family": settings.font})
        yield


class Sheet:
    """A page of a figure."""

    def __init__(
        self, size: tuple[int, int], origin: tuple[int, int], letters: FontMetrics
    ) -> None:
        """A sheet of a width and a height; places count from `origin`, its left upper corner."""
        (width, height), (left, top) = size, origin
        self.size, self.origin, self.letters = size, origin, letters
        self.figure = Figure(figsize=(width / letters.dpi, height / letters.dpi), dpi=letters.dpi)
        FigureCanvasAgg(self.figure)
        self._ground = self.figure.add_axes((0.0, 0.0, 1.0, 1.0), zorder=-1)
        self._ground.set_xlim(-left, width - left)
        self._ground.set_ylim(height - top, -top)
        self._ground.set_axis_off()

    def image(self, corner: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        """Put a picture (H, W, 3) with its left upper corner at a place, a pixel to a dot."""
        (left, top), (height, width) = corner, pixels.shape[:2]
        extent = (left, left + width, top + height, top)
        # Where an artist belongs, `imshow` would also fit the axes to it: slow for thousands.
        image = AxesImage(self._ground, extent=extent, interpolation="none", origin="upper")
        image.set_data(pixels)
        image.set_clip_path(self._ground.patch)
        self._ground.add_image(image)

    def picture(self, box: Box, pixels: NDArray[np.uint8] | None) -> None:
        """Put an image in the middle of its box, as large as fits; `None`: it was not made."""
        if pixels is None:
            self.empty(box)
            return
        left, top, right, bottom = box
        high, wide = pixels.shape[:2]
        scale = min((right - left) / wide, (bottom - top) / high)
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        corner = left + (right - left - size[0]) // 2, top + (bottom - top - size[1]) // 2
        self.image(corner, np.asarray(as_tile(pixels, size)))

    def text(
        self,
        place: tuple[float, float],
        words: str,
        points: float,
        align: Literal["left", "center", "right"] = "left",
        colour: str = INK,
        weight: Weight = "normal",
        turned: bool = False,
    ) -> None:
        """Write a line in the upper part of the band of a line that begins at y.

        One that is turned reads upwards and has its middle at the place.
        """
        x, y = place
        if not words:
            return
        below = 0.0 if turned else self.letters.dots(points) * _BASELINE
        self._ground.text(
            x,
            y + below,
            words,
            fontsize=points,
            ha="center" if turned else align,
            va="center" if turned else "baseline",
            color=colour,
            weight=weight,
            rotation=90 if turned else 0,
        )

    def lines(
        self,
        paths: Sequence[Sequence[tuple[float, float]]],
        colour: str = INK,
        points: float = HAIRLINE,
    ) -> None:
        """Draw lines along places."""
        found = LineCollection(paths, colors=colour, linewidths=points, capstyle="butt")
        self._ground.add_collection(found, autolim=False)

    def empty(self, box: Box) -> None:
        """A pale rectangle, crossed out, where an image would be."""
        left, top, right, bottom = box
        size = right - left, bottom - top
        self._ground.add_patch(Rectangle((left, top), *size, facecolor=EMPTY, linewidth=0))
        crossing = [[(left, top), (right, bottom)], [(left, bottom), (right, top)]]
        self.lines(crossing, "#c8c8d0")

    def axes(self, box: Box) -> Axes:
        """Axes whose frame is this box."""
        left, top, right, bottom = box
        (width, height), (x, y) = self.size, self.origin
        place = ((left + x) / width, 1 - (bottom + y) / height)
        return self.figure.add_axes((*place, (right - left) / width, (bottom - top) / height))


_BASELINE = 1.0
"""Of a line's letters, below the top of its band, in sizes of the letters."""

"""Plots side by side: panels of one size, a title above each, row by row."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layer_atlas.presentation.layout.figure import FigureCanvas, PageSpec
from layer_atlas.presentation.layout.grid import Cells, choose_columns, fewest_rows
from layer_atlas.presentation.layout.page import INK, Box

_WIDTH = 1.7
"""Width of a panel in inches, on slides about twice that; less where more stand side by side."""
_WIDTH_IN_PART = 1.1
"""The same where they are part of a composite figure, which has less room for each."""
_WIDEST = 1.6
"""Width of a panel that stands alone, in widths of others."""
_SHAPE = 0.68
"""Height of a panel, as a fraction of its usual width."""
_TICK = "−0.000"
"""About as wide as the numbers beside an axis become."""
_STEPS = (1, 2, 5, 10)
"""Distances of ticks, up to powers of ten."""


@dataclass(frozen=True)
class Panels:
    """Panels of one size on pages; all lengths in dots."""

    spec: PageSpec
    titles: Sequence[str]
    x_label: str = ""
    y_label: str = ""
    wanted: int = 0
    """Width of a panel within its frame, if larger than the usual one."""
    foot: int = 0
    """Height of labels along the lower axes that are not numbers; where rows have one panel, they
    stand along the lowest one alone."""

    @property
    def _line(self) -> int:
        return self.spec.font.line(self.spec.format.small)

    @property
    def _usual(self) -> int:
        """Width of a panel."""
        width = _WIDTH_IN_PART if self.spec.part else _WIDTH
        return self.spec.dots(width * self.spec.format.small / 7)

    @property
    def _before(self) -> int:
        """Width of the numbers to the left of a panel."""
        font, small = self.spec.font, self.spec.format.small
        return round(font.width(_TICK, small)) + 2 * self.spec.gap

    @property
    def _start(self) -> int:
        """Width of the name of the axis to the left of a row."""
        return self._line if self.y_label else 0

    @property
    def _room(self) -> int:
        return self.spec.width - self._start

    @cached_property
    def across(self) -> int:
        """Panels side by side: as even rows as possible."""
        step = max(self._usual, self.wanted) + self._before + self.spec.gap
        most = max(1, round(self._room / step))
        count = len(self.titles)
        return choose_columns([count], fewest_rows(count, most))

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of a panel within its frame."""
        room = self._room // self.across - self._before - self.spec.gap
        most = round(_WIDEST * max(self._usual, self.wanted))
        return min(room, most), round(min(room, self._usual) * _SHAPE)

    @property
    def _above(self) -> int:
        return self.spec.font.line(self.spec.format.small) + self.spec.gap

    @property
    def shares(self) -> bool:
        """Whether the labels along the lowest axis are also those of the panels above it."""
        return self.across == 1 and self.foot > 0

    @property
    def _row_height(self) -> int:
        below = 0 if self.shares else self.foot or self._line
        return self._above + self.size[1] + below + 3 * self.spec.gap

    @cached_property
    def pages(self) -> list[range]:
        """The numbers of the panels of each page."""
        rows = max(1, (self.spec.height - self._end) // self._row_height)
        step = rows * self.across
        count = len(self.titles)
        return [range(i, min(i + step, count)) for i in range(0, count, step)]

    @property
    def _end(self) -> int:
        """Height below all panels: the name of the lower axes, or the labels of the lowest one."""
        return (self._line if self.x_label else 0) + (self.foot if self.shares else 0)

    def drawn(self) -> Iterator[tuple[FigureCanvas, list[Axes]]]:
        """Yield every page with the empty axes of its panels."""
        for page, numbers in enumerate(self.pages):
            rows = math.ceil(len(numbers) / self.across)
            height = rows * self._row_height + self._end
            canvas = self.spec.canvas(height, page == 0, page == len(self.pages) - 1)
            self._name_axes(canvas, rows, min(self.across, len(numbers)))
            yield canvas, [self._axes(canvas, i, self.titles[n]) for i, n in enumerate(numbers)]

    def _name_axes(self, canvas: FigureCanvas, rows: int, across: int) -> None:
        small, (width, height) = self.spec.format.small, self.size
        left, right = self.box(0)[0], self.box(across - 1)[0] + width
        below = rows * self._row_height - self.spec.gap
        font, room = self.spec.font, height + self._above
        middle = (left + right) / 2
        wide = 2 * min(middle, self.spec.width - middle)
        x_size = font.size([self.x_label], wide, small, self.spec.format.least)
        canvas.text(font.placed((middle, below), self.x_label, x_size, wide, "center"))
        size = font.size([self.y_label], room, small, self.spec.format.least)
        for row in range(rows):
            middle = self.box(row * self.across)[1] + height / 2
            beside = left - self._before - self._line / 2, middle
            canvas.text(font.turned(beside, self.y_label, size, room))

    def box(self, position: int) -> Box:
        """The frame of the panel at a position of its page."""
        gap = self._before + self.spec.gap, self._row_height - self.size[1]
        used = self._start + self.across * (self.size[0] + gap[0])
        left = (self.spec.width - used) // 2 + self._start + self._before
        return Cells((left, self._above), self.size, self.across, gap).box(position)

    def _axes(self, canvas: FigureCanvas, position: int, title: str) -> Axes:
        """Add the axes of the panel at a position of a page, under its title."""
        left, top, right, _ = box = self.box(position)
        small, indent = self.spec.format.small, self._before - self.spec.gap
        corner, room = (left - indent, top - self._above), right - left + indent
        canvas.text(self.spec.font.placed(corner, title, small, room, keep="end"))
        axes = canvas.axes(box)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=_STEPS))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=_STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
        axes.tick_params(pad=1.5)
        return axes


def number_text(value: float) -> str:
    """A number beside an axis.

    >>> number_text(-0.25), number_text(12500.0)
    ('−0.25', '12500')
    """
    return f"{value:g}".replace("-", "−") if abs(value) > 1e-12 else "0"


def legend(
    axes: Axes, spec: PageSpec, names: Sequence[tuple[str, str] | tuple[str, str, str]]
) -> None:
    """Write names line by line at the right above the curves.

    A name is in its colour, or in ink behind a marker of that colour if it has one.
    """
    font, size = spec.font, spec.format.least
    extent = axes.get_window_extent()
    step = font.line(size) / extent.height
    low, high = axes.get_ylim()
    axes.set_ylim(low, low + (high - low) / (1 - len(names) * step))
    for number, (name, colour, *marker) in enumerate(names):
        y = 0.98 - (number + 0.5) * step
        words = font.shortened(name, size, 0.8 * extent.width)
        axes.text(
            0.98,
            y,
            words,
            transform=axes.transAxes,
            ha="right",
            va="center",
            fontsize=size,
            color=INK if marker else colour,
        )
        if marker:
            x = 0.98 - (font.width(words, size) + font.dots(size) * 0.75) / extent.width
            axes.plot(
                [x],
                [y],
                marker[0],
                transform=axes.transAxes,
                color="white",
                markeredgecolor=colour,
                markersize=0.6 * size,
                markeredgewidth=0.8,
                clip_on=False,
            )

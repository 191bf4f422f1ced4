"""Plots side by side: panels of one size, a title above each, row by row."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from layer_atlas.atlas.drawing import Box
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import Sheet

_WIDTH = 1.7
"""Inches that a panel is wide, on slides about twice that; less where more stand side by side."""
_WIDEST = 1.6
"""A panel that stands alone is so many times as wide."""
_SHAPE = 0.68
"""Height of a panel for its usual width."""
_TICK = "−0.000"
"""About as wide as the numbers beside an axis become."""
_STEPS = (1, 2, 5, 10)
"""Distances of ticks, but for powers of ten."""


@dataclass(frozen=True)
class Panels:
    """So many panels of one size on paper; all lengths in dots."""

    paper: PageSpec
    titles: Sequence[str]
    x_label: str = ""
    y_label: str = ""
    wanted: int = 0
    """Width of a panel within its frame, if that is more than the usual one."""
    foot: int = 0
    """Height of what stands along the lower axes, if those are not numbers; along the lowest one
    alone if there is but one panel in a row."""
    together: int = 1
    """So many panels that follow each other stand side by side, if there is room."""

    @property
    def _line(self) -> int:
        return self.paper.letters.line(self.paper.format.small)

    @property
    def _usual(self) -> int:
        """Width of a panel."""
        return self.paper.dots(_WIDTH * self.paper.format.small / 7)

    @property
    def _before(self) -> int:
        """To the left of a panel: the numbers of its axis."""
        letters, small = self.paper.letters, self.paper.format.small
        return round(letters.width(_TICK, small)) + 2 * self.paper.gap

    @property
    def _start(self) -> int:
        """To the left of a row: what its axis is called."""
        return self._line if self.y_label else 0

    @property
    def _room(self) -> int:
        return self.paper.width - self._start

    @cached_property
    def across(self) -> int:
        """Panels side by side: as even rows as possible."""
        step = max(self._usual, self.wanted) + self._before + self.paper.gap
        most = max(1, round(self._room / step))
        if most >= self.together:
            most -= most % self.together
        rows = math.ceil(len(self.titles) / most)
        across = math.ceil(len(self.titles) / rows)
        return min(most, math.ceil(across / self.together) * self.together)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of a panel within its frame."""
        room = self._room // self.across - self._before - self.paper.gap
        most = round(_WIDEST * max(self._usual, self.wanted))
        return min(room, most), round(min(room, self._usual) * _SHAPE)

    @property
    def _above(self) -> int:
        return self.paper.letters.line(self.paper.format.small) + self.paper.gap

    @property
    def shares(self) -> bool:
        """Whether what stands along the lowest axis is meant for those above it too."""
        return self.across == 1 and self.foot > 0

    @property
    def _row_height(self) -> int:
        below = 0 if self.shares else self.foot or self._line
        return self._above + self.size[1] + below + 3 * self.paper.gap

    @cached_property
    def pages(self) -> list[range]:
        """The numbers of the panels of each page."""
        rows = max(1, (self.paper.height - self._end) // self._row_height)
        step = rows * self.across
        count = len(self.titles)
        return [range(i, min(i + step, count)) for i in range(0, count, step)]

    @property
    def _end(self) -> int:
        """Below all: what the lower axes are called, or what stands along the lowest one."""
        return (self._line if self.x_label else 0) + (self.foot if self.shares else 0)

    def drawn(self) -> Iterator[tuple[Sheet, list[Axes]]]:
        """Every page with the empty axes of its panels."""
        for page, numbers in enumerate(self.pages):
            rows = math.ceil(len(numbers) / self.across)
            height = rows * self._row_height + self._end
            sheet = self.paper.sheet(height, page == 0, page == len(self.pages) - 1)
            self._name_axes(sheet, rows, min(self.across, len(numbers)))
            yield sheet, [self._axes(sheet, i, self.titles[n]) for i, n in enumerate(numbers)]

    def _name_axes(self, sheet: Sheet, rows: int, across: int) -> None:
        small, (width, height) = self.paper.format.small, self.size
        left, right = self.box(0)[0], self.box(across - 1)[0] + width
        below = rows * self._row_height - self.paper.gap
        sheet.text(((left + right) / 2, below), self.x_label, small, "center")
        letters, room = self.paper.letters, height + self._above
        size = letters.size([self.y_label], room, small, self.paper.format.least)
        words = letters.shortened(self.y_label, size, room)
        for row in range(rows):
            middle = self.box(row * self.across)[1] + height / 2
            sheet.text((left - self._before - self._line / 2, middle), words, size, turned=True)

    def box(self, place: int) -> Box:
        """The frame of the panel at a place of its page."""
        row, column = divmod(place, self.across)
        (width, height), step = self.size, self.size[0] + self._before + self.paper.gap
        used = self._start + self.across * step
        left = (self.paper.width - used) // 2 + self._start + self._before + column * step
        top = row * self._row_height + self._above
        return left, top, left + width, top + height

    def _axes(self, sheet: Sheet, place: int, title: str) -> Axes:
        """The axes of the panel at a place of a page, under its title."""
        left, top, right, _ = box = self.box(place)
        small, indent = self.paper.format.small, self._before - self.paper.gap
        words = self.paper.letters.shortened(title, small, right - left + indent, keep="end")
        sheet.text((left - indent, top - self._above), words, small)
        axes = sheet.axes(box)
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


def legend(axes: Axes, paper: PageSpec, names: Sequence[tuple[str, str]]) -> None:
    """Names in their colours, line by line, at the right above what is drawn."""
    step = paper.letters.line(paper.format.least) / axes.get_window_extent().height
    low, high = axes.get_ylim()
    axes.set_ylim(low, low + (high - low) / (1 - len(names) * step))
    for number, (name, colour) in enumerate(names):
        axes.text(
            0.98,
            0.98 - number * step,
            name,
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=paper.format.least,
            color=colour,
        )

"""Grids: cells of one size in reading order, and the grid of tiles of montages and strips."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from layer_atlas.config.config import CollateSettings
from layer_atlas.presentation.layout.page import (
    ALARM,
    FAINT,
    INK,
    LARGEST_SIDE,
    Box,
    Text,
    fitted_size,
)
from layer_atlas.presentation.layout.pillow import FONT, SMALLEST

_NARROWEST = 480
"""Pixels of a picture's width; a title needs some."""
_LARGEST_SCALE = 160.0
_MOST_FACT_LINES = 3
SEPARATOR = "  ·  "
"""Stands between the facts of a heading."""
"""Letters that go with images of this side, in pixels, are large enough for any image."""


@dataclass(frozen=True)
class Cells:
    """Cells of one size in reading order; grids nest by the corners of their cells."""

    corner: tuple[int, int]
    """Left and top of the first cell."""
    cell: tuple[int, int]
    """Width and height of a cell."""
    columns: int
    gap: tuple[int, int] = (0, 0)
    """Dots between columns and between rows."""

    def box(self, position: int) -> Box:
        """The box of the cell at a position in reading order."""
        row, column = divmod(position, self.columns)
        left = self.corner[0] + column * (self.cell[0] + self.gap[0])
        top = self.corner[1] + row * (self.cell[1] + self.gap[1])
        return left, top, left + self.cell[0], top + self.cell[1]

    def corner_of(self, position: int) -> tuple[int, int]:
        """Left and top of a cell, where a grid within it begins."""
        return self.box(position)[:2]

    def size(self, count: int) -> tuple[int, int]:
        """Width of all columns, and height of so many cells."""
        rows = math.ceil(count / self.columns)
        width = self.columns * (self.cell[0] + self.gap[0]) - self.gap[0]
        return width, max(0, rows * (self.cell[1] + self.gap[1]) - self.gap[1])


def choose_columns(
    counts: Sequence[int],
    candidates: Iterable[int],
    misfit: Callable[[int], float] = lambda columns: 0.0,
) -> int:
    """Choose the number of columns of a grid: few empty cells, and little misfit.

    Args:
        counts: numbers of cells; each run of cells begins a row of its own.
        candidates: numbers of columns; the first of the best is taken.
        misfit: cost of whatever else follows from the columns, such as tiles of another size than
            the best. A cost of 3 outweighs any number of empty cells.
    """
    return min(candidates, key=lambda columns: misfit(columns) + 3 * _empty(counts, columns))


def _empty(counts: Sequence[int], columns: int) -> float:
    """Fraction of the cells of all rows that are empty."""
    cells = sum(max(1, math.ceil(count / columns)) * columns for count in counts)
    return 1 - sum(counts) / cells


def fewest_rows(count: int, most: int) -> range:
    """The numbers of columns, up to a most, with which cells need the fewest rows."""
    most = max(1, most)
    rows = max(1, math.ceil(count / most))
    return range(max(1, math.ceil(count / rows)), most + 1)


@dataclass(frozen=True)
class Layout:
    """A heading, then one or several grids of cells; a cell has blocks, a block has variants.

    A cell of one seed is an image over its number. With several seeds a cell has a block for each,
    unless they have grids of their own, and a block has an image for each variant.
    """

    tile: tuple[int, int]
    """Width and height of an image."""
    columns: int
    rows: int
    blocks: int
    """Blocks of a cell, side by side."""
    variants: int
    """Images of a block, side by side."""
    grids: int
    gap: int
    facts: str = ""
    """What the heading says below its title, as far as the height of the heading depends on it."""

    @property
    def scale(self) -> float:
        """Side of a square as large as an image, to which letters are fitted up to a size."""
        return min(math.sqrt(self.tile[0] * self.tile[1]), _LARGEST_SCALE)

    @property
    def line(self) -> int:
        """Height of a line of text below the images."""
        return max(12, round(self.scale * 0.14)) + 4

    @property
    def header(self) -> int:
        """Height of the heading."""
        further = (self.fact_lines - 1) * FONT.line(self._small)
        return 2 * self.gap + max(34, round(self.scale * 0.42)) + further

    @cached_property
    def fact_lines(self) -> int:
        """Lines of the heading below its title; every tile's place depends on them."""
        lines = FONT.wrapped(self.facts, self._small, self._width - 4 * self.gap, _MOST_FACT_LINES)
        return max(1, len(lines))

    @property
    def _title(self) -> int:
        """Size of the letters of the title."""
        return max(14, round(self.scale * 0.19))

    @property
    def _small(self) -> int:
        """Size of the letters below the title."""
        return max(13, round(self._title * 0.62))

    @property
    def block(self) -> int:
        """Width of a block."""
        return self._in_block((0, 0)).size(self.variants)[0]

    @property
    def room(self) -> int:
        """Width of a cell."""
        return self.blocks * (self.block + self.gap) - self.gap

    @property
    def lines(self) -> int:
        """Lines of text below the images: names of variants, names of seeds, the number."""
        return 1 + (self.variants > 1) + (self.blocks > 1)

    @property
    def letters(self) -> int:
        """Size of the letters below the images."""
        return max(10, self.line - 6)

    @property
    def cell(self) -> tuple[int, int]:
        """Width and height of a cell with the gap after it; several images need a wider one."""
        together = self.blocks * self.variants > 1
        gap = self.gap * 3 if together else self.gap
        height = self.tile[1] + self.lines * self.line + self.gap
        return self.room + gap, height + (self.gap if together else 0)

    @property
    def subtitle(self) -> int:
        """Height of the line above each grid, if there are several."""
        return self.line + self.gap if self.grids > 1 else 0

    @property
    def grid_height(self) -> int:
        """Height of one grid with its subtitle."""
        return self.subtitle + self.rows * self.cell[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole picture."""
        return self._width, self.header + self.grids * self.grid_height + 2 * self.gap

    @property
    def _width(self) -> int:
        return max(2 * self.gap + self.columns * self.cell[0], _NARROWEST)

    def tile_box(self, position: int, seed_index: int = 0, variant: int = 0) -> Box:
        """The box of the image of a cell, by its place in the grid, seed and variant."""
        grid, block = (seed_index, 0) if self.grids > 1 else (0, seed_index)
        first = 2 * self.gap, self.header + grid * self.grid_height + self.subtitle
        cell = Cells(first, self.cell, self.columns).corner_of(position)
        blocks = Cells(cell, (self.block, self.tile[1]), self.blocks, (self.gap, 0))
        return self._in_block(blocks.corner_of(block)).box(variant)

    def _in_block(self, corner: tuple[int, int]) -> Cells:
        return Cells(corner, self.tile, self.variants, (self.gap // 2, 0))

    def tile_corner(self, position: int, seed_index: int = 0, variant: int = 0) -> tuple[int, int]:
        """Left and top of an image."""
        return self.tile_box(position, seed_index, variant)[:2]

    def line_corner(self, number: int, position: int, *image: int) -> tuple[int, int]:
        """Left and top of a line of text below an image; negative numbers count from the last."""
        x, y = self.tile_corner(position, *image)
        return x, y + self.tile[1] + 2 + number % self.lines * self.line

    def heading(self, title: str, facts: Iterable[str]) -> Iterator[Text]:
        """A title, and below it in small letters the facts that are not empty."""
        left, right = 2 * self.gap, self._width - 2 * self.gap
        small, top = self._small, self.gap + FONT.line(self._title)
        yield Text((left, self.gap, right, top), title, self._title, SMALLEST)
        words = SEPARATOR.join(filter(None, facts))
        for line in FONT.wrapped(words, small, right - left, self.fact_lines):
            below = (left, top, right, top + FONT.line(small))
            # Wrapping leaves one blank at each side of a separator; none ends a line.
            shown = line.strip(" ·").replace(" · ", SEPARATOR)
            yield Text(below, shown, small, SMALLEST, FAINT)
            top = below[3]

    def grid_title(self, grid: int, words: str) -> Text:
        """The line above one of several grids."""
        left, top = 2 * self.gap, self.header + grid * self.grid_height
        box = (left, top, self.size[0] - left, top + self.line)
        return Text(box, words, self.letters, colour=FAINT)

    def label(
        self,
        corner: tuple[int, int],
        words: str,
        size: float,
        room: int,
        colour: str = INK,
        fate: str = "",
    ) -> Iterator[Text]:
        """Words below an image and a job's fate behind them, or in its colour if that has no room.

        Args:
            corner: as of `line_corner`.
            words: cut short where they have no room.
            size: of the letters.
            room: width.
            colour: of words without a fate.
            fate: empty where the job went well.
        """
        x, y = corner
        bottom = y + self.line - 2
        words = FONT.shortened(words, size, room)
        after = FONT.width(words + "  ", size)
        apart = bool(fate) and after + FONT.width(fate, size) <= room
        colour = ALARM if fate and not apart else colour
        yield Text((x, y, x + room, bottom), words, size, colour=colour)
        if apart:
            yield Text((x + after, y, x + room, bottom), fate, size, colour=ALARM)


def plan_layout(
    n: int,
    seeds: int,
    image_size: tuple[int, int],
    settings: CollateSettings,
    variants: int = 1,
    facts: str = "",
) -> Layout:
    """Choose columns and tile size for n cells: about a square, and never too large to open.

    Args:
        n: number of cells.
        seeds: number of images of each, or of grids.
        image_size: height and width.
        settings: how the picture is to look.
        variants: number of images of each seed.
        facts: what the heading will say below its title, or as much as is known.
    """
    blocks, grids = (1, seeds) if settings.seeds == "grid" else (seeds, 1)
    largest = max(16, min(max(image_size), settings.tile))
    # The largest tile that keeps the whole picture small enough to open.
    for side in range(largest, 15, -1):
        tile = fitted_size(image_size, (side, side))
        columns = settings.columns or _columns(n, tile, blocks * variants, grids, settings.gap)
        columns = min(n, columns)
        rows = math.ceil(n / columns)
        layout = Layout(tile, columns, rows, blocks, variants, grids, settings.gap, facts)
        if max(layout.size) <= LARGEST_SIDE:
            break
    return layout


def _columns(n: int, tile: tuple[int, int], across: int, grids: int, gap: int) -> int:
    """Columns of a picture that is between square and twice as wide.

    Few images stand in few rows instead, as far as the title needs the width anyway.
    """
    square = math.sqrt(n * grids * tile[1] / (tile[0] * across))
    below_title = _NARROWEST // (across * (tile[0] + gap))
    if below_title > square:
        return choose_columns([n], fewest_rows(n, below_title))
    least = math.ceil(square)
    return choose_columns([n], range(least, max(least, round(2 * square)) + 1))

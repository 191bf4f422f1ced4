"""The grid of a figure of images: how large they are, how many stand side by side, on which page.

A section is a run of strips, wrapped into rows; a strip is a row of images with its label to the
left, and is itself broken into lines where it is too long for the page. Nothing is drawn here:
numbers of images go in, boxes in dots come out. Several sizes and widths are tried, and the one
that looks best is taken.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from layer_atlas.errors import UserError
from layer_atlas.presentation.layout.grid import Cells, choose_columns
from layer_atlas.presentation.layout.page import Box

Shapes = Sequence[Sequence[int]]
"""Number of images of each strip of each section."""

Place = tuple[int, int, int]
"""Key of a row: its section, the first of its strips, and the first image within that."""

_LINE = 0.38
"""Height of a line of text below an image, as a fraction of the image's width."""


@dataclass(frozen=True)
class Measures:
    """Measures that a grid keeps to, in dots."""

    width: int
    height: int
    """Largest height of a page; sections continue on the next one."""
    tall: int
    """Height of a page beyond which more columns are better."""
    tiles: tuple[int, int, int]
    """Least, best and largest width of an image."""
    aspect: float
    """Height of an image as a fraction of its width."""
    gap: int
    """Distance between the images of a strip, and between rows."""
    aisle: int
    """Distance between strips side by side."""
    side: int
    """Width of the labels to the left of strips."""
    text_lines: int
    """Lines of text below each image."""
    broken_text_lines: int
    """Lines of text where strips are broken into lines, so that columns have no headings."""
    line_heights: tuple[int, int]
    """Least and largest height of a line of these texts; small images have small texts."""
    heading: int
    """Height of the heading of a section."""
    header: int
    """Height of the headings of columns."""
    bracket: int
    """Room for brackets: above rows where strips stand side by side, else to the left of all."""
    column_bracket: int
    """Room for brackets above columns."""
    names: Mapping[Place, int]
    """Further room above single rows, for brackets with long names."""
    tree: tuple[int, int]
    """Room for a dendrogram: to the left of all, and above."""
    dataset_images: int
    """Number of small dataset images at the end of each strip, as high as its images."""
    table: bool
    """Whether strips should stand below each other: a table of, say, seeds by steps is read as
    one."""

    @property
    def dataset_image_grid(self) -> tuple[int, int]:
        """Rows and columns of the dataset images of a strip."""
        rows = math.ceil(math.sqrt(self.dataset_images))
        return rows, math.ceil(self.dataset_images / rows) if rows else 0


@dataclass(frozen=True)
class Row:
    """Strips side by side, or a line of one that is broken."""

    section: int
    first: int
    """Number of its first strip."""
    count: int
    start: int
    """Number of the first image of the line within the strip."""
    top: int
    """Top of its images, on its page."""
    above: int = 0
    """Height of the brackets above them."""


@dataclass(frozen=True)
class Heading:
    """Heading where a section begins or continues."""

    section: int
    top: int
    continued: bool


@dataclass(frozen=True)
class Page:
    """Headings and rows of a page, and their height."""

    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    height: int


@dataclass(frozen=True)
class Grid:
    """An arrangement of strips."""

    shapes: Shapes
    measures: Measures
    across: int
    """Strips side by side."""
    per_line: int
    """Images side by side in a strip."""
    tile: int
    """Width of an image."""

    @property
    def tile_height(self) -> int:
        """Height of an image."""
        return max(1, round(self.tile * self.measures.aspect))

    @cached_property
    def broken(self) -> bool:
        """Whether a strip needs several lines."""
        return self.per_line < max(map(max, self.shapes))

    @property
    def columns(self) -> int:
        """Cells side by side: lines of a strip that is broken, else strips."""
        return self.per_line if self.broken else self.across

    @property
    def line(self) -> int:
        """Height of a line of text below an image."""
        least, most = self.measures.line_heights
        return max(least, min(most, round(_LINE * self.tile)))

    @property
    def text_height(self) -> int:
        """Height of the texts below each image."""
        measures = self.measures
        return self.line * (measures.broken_text_lines if self.broken else measures.text_lines)

    @property
    def header(self) -> int:
        """Height of the headings of columns, and of brackets above them."""
        return 0 if self.broken else self.measures.header + self.measures.column_bracket

    @property
    def dataset_image_side(self) -> int:
        """Width and height of a dataset image."""
        rows, _ = self.measures.dataset_image_grid
        return (self.tile_height - (rows - 1) * self.dataset_image_gap) // rows if rows else 0

    @property
    def dataset_image_gap(self) -> int:
        """Distance between dataset images."""
        return max(1, self.measures.gap // 2)

    @cached_property
    def strip_width(self) -> int:
        """Width of a strip with its label and its dataset images."""
        measures, (_, columns) = self.measures, self.measures.dataset_image_grid
        images = self.per_line * (self.tile + measures.gap) - measures.gap
        dataset_images = columns * (self.dataset_image_side + self.dataset_image_gap)
        # The gap before the first dataset image is wider, and there is none after the last.
        between = measures.gap - self.dataset_image_gap if columns else 0
        return measures.side + images + between + dataset_images

    @property
    def before(self) -> int:
        """Width of brackets and dendrogram to the left of all strips."""
        bracket = self.measures.bracket if self.across == 1 else 0
        return bracket + self.measures.tree[0]

    @property
    def used(self) -> int:
        """Width of everything."""
        aisle = self.measures.aisle
        return self.before + self.across * (self.strip_width + aisle) - aisle

    def above(self, place: Place) -> int:
        """Height of the brackets above a row."""
        columns = self.measures.column_bracket if self.broken else 0
        rows = self.measures.bracket if self.across > 1 else 0
        return columns + rows + self.measures.names.get(place, 0)

    @property
    def row_height(self) -> int:
        """Height of a row without the brackets above it."""
        return self.tile_height + self.text_height

    @property
    def intro(self) -> int:
        """Height of the headings above a section, on each of its pages."""
        return self.measures.heading + self.header

    def lines(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield section, first strip, number of strips and first image of each row."""
        for section, sizes in enumerate(self.shapes):
            for first in range(0, len(sizes), self.across):
                some = sizes[first : first + self.across]
                for start in range(0, max(1, *some), self.per_line):
                    yield section, first, len(some), start

    @cached_property
    def pages(self) -> tuple[Page, ...]:
        """All pages; no row is cut, and no heading stands alone."""
        pages: list[Page] = []
        headings: list[Heading] = []
        rows: list[Row] = []
        y, bottom = self.measures.tree[1], 0
        for section, first, count, start in self.lines():
            fresh = not rows or rows[-1].section != section
            y = bottom + self._space(rows[-1], section, start) if rows else y
            intro = self.intro if fresh else 0
            above = self.above((section, first, start))
            if rows and y + intro + above + self.row_height > self.measures.height:
                pages.append(Page(tuple(headings), tuple(rows), bottom))
                headings, rows, y, intro = [], [], 0, self.intro
            if intro:
                headings.append(Heading(section, y, first > 0 or start > 0))
            y += intro + above
            rows.append(Row(section, first, count, start, y, above))
            bottom = y + self.row_height
        return (*pages, Page(tuple(headings), tuple(rows), bottom))

    def _space(self, row: Row, section: int, start: int) -> int:
        """Between a row and the next one, of some section and some image of its strips."""
        if row.section != section:
            return 3 * self.measures.gap
        return self.measures.aisle if self.broken and not start else self.measures.gap

    @property
    def left(self) -> int:
        """Left edge of strips; a grid narrower than the page stands in its middle."""
        return (self.measures.width - self.used) // 2 + self.before

    def strip_left(self, place: int) -> int:
        """Left edge of a strip in its row, its label first."""
        return self.left + place * (self.strip_width + self.measures.aisle)

    def image(self, row: Row, place: int, column: int) -> Box:
        """The box of an image of the strip at this place of a row."""
        first, cell = (self.strip_left(place) + self.measures.side, row.top), self.tile_height
        cells = Cells(first, (self.tile, cell), self.per_line, (self.measures.gap, 0))
        return cells.box(column - row.start)

    def dataset_images(self, row: Row, place: int) -> Iterator[Box]:
        """The boxes of the dataset images of a strip."""
        _, columns = self.measures.dataset_image_grid
        side, gap = self.dataset_image_side, self.dataset_image_gap
        left = self.strip_left(place) + self.strip_width - columns * (side + gap) + gap
        cells = Cells((left, row.top), (side, side), max(1, columns), (gap, gap))
        return map(cells.box, range(self.measures.dataset_images))


_CUT = 0.5
"""Cost of rows of a table that stand side by side."""
_PATIENT = 1 / 3
"""Size of images on several pages, from the smallest (0) to the best (1)."""


def plan_grid(
    shapes: Shapes,
    measures: Measures,
    across: int | None = None,
    tile: int | None = None,
    whole: bool = False,
) -> Grid:
    """Choose the arrangement that looks best.

    Args:
        shapes: number of images of each strip of each section.
        measures: the room that there is.
        across: strips side by side; None: chosen here.
        tile: width of images; None: chosen here.
        whole: neither strips nor pages are broken, so that a dendrogram can stand beside them.
    Raises:
        UserError: there is no room.
    """
    if tile is not None:
        measures = replace(measures, tiles=(tile, tile, tile))
    elif across is not None:
        measures = replace(measures, tiles=(*measures.tiles[:2], measures.width))
    per_line = max(map(max, shapes))
    smallest = Grid(shapes, measures, across or 1, per_line, measures.tiles[0])
    if _fits_width(smallest):
        one = measures.tree[0] > 0 or (measures.table and len(shapes) == 1)
        most = 1 if across or one else max(map(len, shapes))
        counts = list(map(len, shapes))
        grids = [replace(smallest, across=n) for n in ([across] if across else range(1, most + 1))]
    # Strips are broken only where they must be, and then none stand side by side.
    elif smallest.across == 1 and per_line > 1 and not whole:
        counts = [count for sizes in shapes for count in sizes]
        grids = [replace(smallest, per_line=n) for n in range(1, per_line)]
    else:
        grids = []
    candidates = [_enlarged(grid, _fits_width) for grid in grids if _fits_width(grid)]
    if not candidates:
        raise UserError(_no_room(measures, across, tile, whole))
    return _best(counts, candidates, whole)


def refitted(grid: Grid, measures: Measures) -> Grid:
    """Fit an arrangement to other measures; images become smaller where there is less room.

    The result needs no more pages if possible, and is the grid itself if there is no room at all.
    """
    smallest = Grid(grid.shapes, measures, grid.across, grid.per_line, measures.tiles[0])
    if measures == grid.measures or not _fits_width(smallest):
        return grid
    wide = _enlarged(smallest, _fits_width, grid.tile)
    pages = len(grid.pages)
    if len(smallest.pages) > pages:
        return wide
    return _enlarged(smallest, lambda other: len(other.pages) <= pages, wide.tile)


def _best(counts: Sequence[int], candidates: Sequence[Grid], whole: bool) -> Grid:
    """One page if that is possible at all; of those the one that looks best."""
    least, best, _ = candidates[0].measures.tiles
    single = [
        _enlarged(smallest, _fits_page, grid.tile)
        for grid in candidates
        if _fits_page(smallest := replace(grid, tile=least))
    ]
    if whole and not single:
        raise UserError(
            "a dendrogram stands beside all channels, which have no room on one page: choose "
            "fewer, or figure.height=any."
        )
    comfortable = round(least * (best / least) ** _PATIENT)
    grids = {grid.columns: grid for grid in single or candidates}
    size = best if single else comfortable
    return grids[choose_columns(counts, grids, lambda columns: _misfit(grids[columns], size))]


def _misfit(grid: Grid, best: int) -> float:
    """Cost of images of another size than the best, a page left free, and one that is too tall."""
    measures = grid.measures
    size = abs(math.log(grid.tile / best)) + 2 * math.log(measures.width / grid.used)
    tall = math.log(max(grid.pages[0].height / measures.tall, 1.0))
    cut = _CUT if measures.table and grid.across > 1 else 0.0
    return size + tall + cut


def _enlarged(grid: Grid, fits: Callable[[Grid], bool], most: int | None = None) -> Grid:
    """The arrangement with the largest images with which it fits, up to a size."""
    low, high = grid.tile, max(grid.tile, grid.measures.tiles[2] if most is None else most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(replace(grid, tile=middle)) else (low, middle - 1)
    return replace(grid, tile=low)


def _fits_width(grid: Grid) -> bool:
    return grid.used <= grid.measures.width


def _fits_page(grid: Grid) -> bool:
    return len(grid.pages) == 1 and grid.pages[0].height <= grid.measures.height


def _no_room(measures: Measures, across: int | None, tile: int | None, whole: bool) -> str:
    remedy = "take a wider figure.width"
    if across is not None:
        return f"there is no room for figure.across={across}: take fewer, or {remedy}."
    if tile is not None:
        return f"there is no room for images of that figure.tile: make it smaller, or {remedy}."
    if whole:
        return f"a dendrogram stands above one line, which has no room: choose fewer, or {remedy}."
    return f"there is no room for an image beside its label and photographs: {remedy}."

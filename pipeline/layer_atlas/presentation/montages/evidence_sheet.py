"""Evidence sheets: what targets' images show, beside dataset images that excite their channels.

A row per target, after the appendix of Olah et al., "Feature Visualization" (Distill, 2017): at the
left the optimized images with a caption below; then the dataset images that excite the channel
most, each with its saliency below it (or, without saliency, in two lines); then those that excite
it least. All tiles are of one size, so that the scale of what they show can be compared. A sheet is
planned first, as boxes that do not overlap, and then painted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layer_atlas.config.datasets import MOST_PHOTOGRAPHS
from layer_atlas.presentation.layout.grid import Cells, choose_columns, fewest_rows
from layer_atlas.presentation.layout.page import (
    ALARM,
    FAINT,
    INK,
    LARGEST_SIDE,
    RULE,
    Align,
    Box,
    Lines,
    Page,
    Text,
    Tile,
    paint,
)
from layer_atlas.presentation.layout.pillow import FONT, SMALLEST, PillowCanvas

MOST_IMAGES = 3
"""Seeds shown of a target."""
_LABEL_SIZE, _WIDEST_LABEL = 16, 200
"""Size of letters at which labels are cut, and the pixels that are left of them."""
_NARROWEST = 400
"""Pixels of a sheet's width; title and legend need some."""


@dataclass(frozen=True)
class EvidenceRow:
    """A row of a sheet: a target with its k strongest and b weakest dataset images (S x S)."""

    target: int
    images: tuple[NDArray[np.uint8] | None, ...]
    """One image per seed, (H, W, 3); None where none was made."""
    fates: tuple[str, ...]
    """One fate per seed: `dead`, `diverged`, `failed`, `missing`; empty where all went well."""
    strongest: NDArray[np.uint8]
    """Dataset images (k, S, S, 3) in falling order of response."""
    overlays: NDArray[np.uint8] | None
    """Saliency (s, S, S, 3) of the first s of the strongest; None: not made."""
    weakest: NDArray[np.uint8]
    """Dataset images (b, S, S, 3) in rising order of response."""
    boxes: NDArray[np.integer]
    """Receptive fields (k, 4) of the largest responses: left, top, right, bottom in pixels of the
    strongest, right and bottom outside. Framed where they are less than the whole."""
    facts: Mapping[str, str]
    """Short names and values for the caption, in order."""
    label: str = ""
    """The target's label for readers, if it has one."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.images) <= MOST_IMAGES or len(self.fates) != len(self.images):
            raise ValueError(f"a row takes 1 to {MOST_IMAGES} images and a fate for each.")
        if max(len(self.strongest), len(self.weakest)) > MOST_PHOTOGRAPHS:
            raise ValueError(f"a row takes at most {MOST_PHOTOGRAPHS} dataset images of a kind.")
        if len(self.saliency) > len(self.strongest):
            raise ValueError("a row takes no more overlays than strongest dataset images.")
        if self.boxes.shape != (len(self.strongest), 4):
            raise ValueError(f"boxes must be (k, 4) of k dataset images, not {self.boxes.shape}.")

    @property
    def saliency(self) -> Sequence[NDArray[np.uint8]]:
        """The overlays; empty if none were made."""
        return () if self.overlays is None else tuple(self.overlays)

    @property
    def frames(self) -> list[Box | None]:
        """The part of each strongest dataset image to be framed; None where it is the whole."""
        side = self.strongest.shape[1] if len(self.strongest) else 0
        clipped = [tuple(box) for box in self.boxes.clip(0, side).tolist()]
        return [box if box != (0, 0, side, side) else None for box in clipped]


@dataclass(frozen=True)
class Scale:
    """Lengths that follow from the side of a tile, in pixels."""

    tile: int

    @property
    def gap(self) -> int:
        """Pixels between tiles of a kind."""
        return max(3, round(self.tile / 32))

    @property
    def space(self) -> int:
        """Pixels between kinds, between rows, and around everything."""
        return 12 + 3 * self.gap

    @property
    def text(self) -> int:
        """Size of letters."""
        return min(18, max(12, round(self.tile * 0.1)))

    @property
    def line(self) -> int:
        """Height of a line of text."""
        return round(self.text * 1.35)

    @property
    def title(self) -> int:
        """Size of the title's letters."""
        return round(self.text * 1.6)

    @property
    def number(self) -> int:
        """Size of the letters of a target's number."""
        return round(self.text * 1.25)

    @property
    def heading(self) -> int:
        """Height of a caption's first line."""
        return round(self.number * 1.6)

    def caption(self, facts: int) -> int:
        """Height of a target's number and so many facts."""
        return self.heading + facts * self.line

    def length(self, tiles: int) -> int:
        """Length of so many tiles in a line."""
        return max(0, tiles * (self.tile + self.gap) - self.gap)


@dataclass(frozen=True)
class Column:
    """Tiles of one kind: at the same place in every row."""

    head: str
    left: int
    width: int
    """Width of the tiles, or of their caption if that is wider."""
    tiles: int
    """Tiles per line."""

    @property
    def right(self) -> int:
        """Right edge of the column."""
        return self.left + self.width

    def box(self, scale: Scale, top: int, position: int) -> Box:
        """The box of a tile, by its place in reading order, in a row of the sheet from `top`."""
        cell = scale.tile, scale.tile
        return Cells((self.left, top), cell, self.tiles, (scale.gap, scale.gap)).box(position)


@dataclass(frozen=True)
class Needs:
    """The most that any row of a sheet has to show."""

    images: int
    strongest: int
    weakest: int
    facts: int
    saliency: bool
    """Whether the strongest have their saliency below them."""
    fates: bool
    """Whether fates stand below images."""
    caption: float
    """Width of the widest caption."""


@dataclass(frozen=True)
class Grid:
    """Columns and rows of a sheet. A row is two lines of tiles high, more if captions need it."""

    scale: Scale
    needs: Needs
    images: Column
    strongest: Column
    weakest: Column

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that hold tiles."""
        return tuple(c for c in (self.images, self.strongest, self.weakest) if c.tiles)

    @property
    def right(self) -> int:
        """Right edge of the last column."""
        return self.columns[-1].right

    @property
    def caption_width(self) -> int:
        """Width of captions, which are no narrower than an image."""
        return _caption_room(self.scale, self.needs)

    def caption_corner(self, top: int) -> tuple[int, int]:
        """Left and top of the caption in a row from `top`: below the images or beside them."""
        if beside(self.scale, self.needs.facts):
            return self.images.right - self.caption_width, top
        below = self.scale.tile + self.scale.gap + self.needs.fates * self.scale.line
        return self.images.left, top + below

    @property
    def row_height(self) -> int:
        """Height of a row, without the space after it."""
        return row_height(self.scale, self.needs.facts, self.needs.fates)


def row_height(scale: Scale, facts: int, fates: bool) -> int:
    """Height of a row: two lines of tiles, more if captions of so many facts need it."""
    caption = scale.caption(facts)
    below = scale.tile + scale.gap + fates * scale.line
    return max(scale.length(2), below, caption + (0 if beside(scale, facts) else below))


def beside(scale: Scale, facts: int) -> bool:
    """Whether captions stand beside the images: they are too high for the line below."""
    return scale.caption(facts) > 1.2 * scale.tile


def plan_grid(scale: Scale, needs: Needs) -> Grid:
    """Put the columns side by side; a column without tiles takes no room."""
    strongest = needs.strongest if needs.saliency else _two_lines(needs.strongest)
    caption = _caption_room(scale, needs)
    if beside(scale, needs.facts):
        caption += scale.length(needs.images) + scale.space // 2
    first = _column("optimized", needs.images, scale.space, scale, caption)
    second = _column("strongest photographs", strongest, _next(first, scale), scale)
    weakest = _two_lines(needs.weakest)
    third = _column("weakest photographs", weakest, _next(second, scale), scale)
    return Grid(scale, needs, first, second, third)


def _two_lines(tiles: int) -> int:
    """Tiles per line where they stand in two."""
    return choose_columns([tiles], fewest_rows(tiles, math.ceil(tiles / 2))) if tiles else 0


def _caption_room(scale: Scale, needs: Needs) -> int:
    return max(scale.tile, math.ceil(needs.caption))


def _column(head: str, tiles: int, left: int, scale: Scale, least: int = 0) -> Column:
    words = math.ceil(FONT.width(head, scale.text))
    return Column(head, left, max(scale.length(tiles), words, least) if tiles else 0, tiles)


def _next(column: Column, scale: Scale) -> int:
    return column.right + scale.space if column.tiles else column.left


def draw_sheet(
    title: str,
    subtitle: str,
    rows: Sequence[EvidenceRow],
    tile: int,
    notes: Sequence[str] = (),
) -> PillowCanvas:
    """Plan and paint a sheet.

    Args:
        title: what is shown, such as model and layer.
        subtitle: how it was made.
        rows: at least one and at most `rows_per_page`.
        tile: largest side of images and dataset images in pixels; smaller ones keep their size.
        notes: sentences that end the legend, such as the meaning of the facts.
    Raises:
        ValueError: no rows.
    """
    page = plan_sheet(title, subtitle, rows, tile, notes)
    canvas = PillowCanvas(page.size)
    paint(canvas, page)
    return canvas


def pages(n_targets: int, per_page: int) -> list[range]:
    """Cut targets, by their positions, into the fewest pages, of about the same length."""
    n = math.ceil(n_targets / per_page)
    return [range(n_targets * i // n, n_targets * (i + 1) // n) for i in range(n)]


def rows_per_page(tile: int, facts: int) -> int:
    """Number of rows with so many facts on a sheet that viewers still open."""
    scale = Scale(tile)
    title_and_legend = 20 * scale.line
    row = row_height(scale, facts, fates=True) + scale.space
    return max(1, (LARGEST_SIDE - title_and_legend) // row)


def plan_sheet(
    title: str, subtitle: str, rows: Sequence[EvidenceRow], tile: int, notes: Sequence[str] = ()
) -> Page:
    """Place everything that `draw_sheet` draws. Raises ValueError: no rows."""
    scale = Scale(_largest_tile(rows, tile))
    grid = plan_grid(scale, _needs(rows, scale))
    width = max(_NARROWEST, grid.right + scale.space)
    left, right = scale.space, width - scale.space
    texts = list(_titles(title, subtitle, scale, left, right))
    texts += _heads(grid, _bottom(texts) + scale.line)
    tiles: list[Tile] = []
    top = _bottom(texts) + scale.gap
    rules = [[(left, top), (right - 1, top)]]
    for row in rows:
        top += scale.space // 2
        tiles += _tiles(row, grid, top)
        texts += [*_fates(row, grid, top), *_caption(row, grid, top)]
        top += grid.row_height + scale.space // 2
        rules.append([(left, top), (right - 1, top)])
    texts += _legend(rows, notes, scale, left, right, top + scale.line // 2)
    size = width, _bottom(texts) + scale.space
    return Page(size, tuple(tiles), tuple(texts), (Lines(rules, RULE),))


def _bottom(texts: Sequence[Text]) -> int:
    return max(round(text.box[3]) for text in texts)


def _largest_tile(rows: Sequence[EvidenceRow], tile: int) -> int:
    """Side of tiles: no larger than the largest image, and no sheet is too wide to open."""
    if not rows:
        raise ValueError("a sheet takes at least one row.")
    sides = [max(image.shape[:2]) for row in rows for image in row.images if image is not None]
    sides += [p.shape[1] for row in rows for p in (row.strongest, row.weakest) if len(p)]
    # Captions and spaces take no more than two tiles.
    across = max(len(row.images) + len(row.strongest) + len(row.weakest) for row in rows)
    return max(16, min(tile, LARGEST_SIDE // (across + 2), max(sides, default=tile)))


def _needs(rows: Sequence[EvidenceRow], scale: Scale) -> Needs:
    return Needs(
        images=max(len(row.images) for row in rows),
        strongest=max(len(row.strongest) for row in rows),
        weakest=max(len(row.weakest) for row in rows),
        facts=max(len(row.facts) for row in rows),
        saliency=any(row.saliency for row in rows),
        fates=any(_fates_below(row) for row in rows),
        caption=min(_caption_width(rows, scale), 15 * scale.text),
    )


def _fates_below(row: EvidenceRow) -> dict[int, str]:
    """Fates of images that were made, by seed; an empty box has its fate written in it."""
    pairs = zip(row.images, row.fates, strict=True)
    return {i: fate for i, (image, fate) in enumerate(pairs) if fate and image is not None}


def _caption_width(rows: Sequence[EvidenceRow], scale: Scale) -> float:
    widths = [FONT.width(_number(row), scale.number) for row in rows]
    widths += [
        FONT.width(name, scale.text) + scale.text + FONT.width(value, scale.text)
        for row in rows
        for name, value in row.facts.items()
    ]
    return max(widths)


def _number(row: EvidenceRow) -> str:
    return f"channel {row.target} {FONT.shortened(row.label, _LABEL_SIZE, _WIDEST_LABEL)}".rstrip()


def _text(box: Box, words: str, size: int, colour: str = INK, align: Align = "left") -> Text:
    return Text(box, words, size, SMALLEST, colour, align)


def _titles(title: str, subtitle: str, scale: Scale, left: int, right: int) -> Iterator[Text]:
    middle = scale.space + round(scale.title * 1.4)
    yield _text((left, scale.space, right, middle), title, scale.title)
    yield _text((left, middle, right, middle + scale.line), subtitle, scale.text, FAINT)


def _heads(grid: Grid, top: int) -> Iterator[Text]:
    scale = grid.scale
    for column in grid.columns:
        box = (column.left, top, column.right, top + scale.line)
        yield _text(box, column.head, scale.text)
    if grid.needs.saliency:
        left, right = grid.strongest.left, grid.strongest.right
        below = (left, top + scale.line, right, top + 2 * scale.line)
        yield _text(below, "their saliency below", scale.text, FAINT)


def _tiles(row: EvidenceRow, grid: Grid, top: int) -> Iterator[Tile]:
    scale = grid.scale
    for i, (image, fate) in enumerate(zip(row.images, row.fates, strict=True)):
        yield Tile(grid.images.box(scale, top, i), image, word=fate)
    for i, (pixels, frame) in enumerate(zip(row.strongest, row.frames, strict=True)):
        yield Tile(grid.strongest.box(scale, top, i), pixels, frame)
    for i, overlay in enumerate(row.saliency):
        yield Tile(grid.strongest.box(scale, top, grid.strongest.tiles + i), overlay)
    for i, pixels in enumerate(row.weakest):
        yield Tile(grid.weakest.box(scale, top, i), pixels)


def _fates(row: EvidenceRow, grid: Grid, top: int) -> Iterator[Text]:
    for i, fate in _fates_below(row).items():
        left, _, right, bottom = grid.images.box(grid.scale, top, i)
        below = bottom + grid.scale.gap
        box = (left, below, right, below + grid.scale.line)
        yield _text(box, fate, grid.scale.text, ALARM)


def _caption(row: EvidenceRow, grid: Grid, top: int) -> Iterator[Text]:
    """The target's number, and its facts in two columns."""
    scale = grid.scale
    left, top = grid.caption_corner(top)
    right = left + grid.caption_width
    below = top + scale.heading
    yield _text((left, top, right, below), _number(row), scale.number)
    for name, value in row.facts.items():
        widest = min(FONT.width(value, scale.text), 0.6 * grid.caption_width)
        middle = right - math.ceil(widest)
        yield _text((left, below, middle - scale.gap, below + scale.line), name, scale.text, FAINT)
        yield _text((middle, below, right, below + scale.line), value, scale.text, align="right")
        below += scale.line


def _legend(
    rows: Sequence[EvidenceRow],
    notes: Sequence[str],
    scale: Scale,
    left: int,
    right: int,
    top: int,
) -> Iterator[Text]:
    for line in FONT.wrapped(" ".join([*_explanations(rows), *notes]), scale.text, right - left):
        yield _text((left, top, right, top + scale.line), line, scale.text, FAINT)
        top += scale.line


def _explanations(rows: Sequence[EvidenceRow]) -> Iterator[str]:
    if any(len(row.strongest) + len(row.weakest) for row in rows):
        yield "Photographs from left to right, the most extreme first."
    if any(frame for row in rows for frame in row.frames):
        yield "Frames: the part of the photograph that the largest response is computed from."
    if any(row.saliency for row in rows):
        yield "Saliency: what drives the channel in the photograph above."

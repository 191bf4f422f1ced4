"""The grid of a sheet of evidence: lengths that follow from the tile, and columns of tiles."""

import math
from dataclasses import dataclass

from layer_atlas.atlas.drawing import Box, font


@dataclass(frozen=True)
class Scale:
    """Lengths that follow from the side of a tile, in pixels."""

    tile: int

    @property
    def gap(self) -> int:
        """Between tiles of a kind."""
        return max(3, round(self.tile / 32))

    @property
    def space(self) -> int:
        """Between kinds, between rows, and around everything."""
        return 12 + 3 * self.gap

    @property
    def text(self) -> int:
        """Size of letters."""
        return min(18, max(12, round(self.tile * 0.1)))

    @property
    def line(self) -> int:
        """Height of a line of them."""
        return round(self.text * 1.35)

    @property
    def title(self) -> int:
        """Size of the title's letters."""
        return round(self.text * 1.6)

    @property
    def number(self) -> int:
        """Size of the letters of a channel's number."""
        return round(self.text * 1.25)

    @property
    def heading(self) -> int:
        """Height of a caption's first line."""
        return round(self.number * 1.6)

    def caption(self, facts: int) -> int:
        """Height of a channel's number and so many facts."""
        return self.heading + facts * self.line

    def length(self, tiles: int) -> int:
        """Of so many tiles in a line."""
        return tiles * self.tile + max(0, tiles - 1) * self.gap


@dataclass(frozen=True)
class Column:
    """Tiles of one kind: at the same place in every row."""

    head: str
    left: int
    width: int
    """Of the tiles, or of what is written there if that is wider."""
    tiles: int
    """Per line."""

    @property
    def right(self) -> int:
        """Where it ends."""
        return self.left + self.width

    def box(self, scale: Scale, top: int, place: int) -> Box:
        """Where a tile lies, by its place in reading order, in a row of the sheet from `top`."""
        line, across = divmod(place, self.tiles)
        x = self.left + across * (scale.tile + scale.gap)
        y = top + line * (scale.tile + scale.gap)
        return x, y, x + scale.tile, y + scale.tile


@dataclass(frozen=True)
class Needs:
    """The most that any row of a sheet has to show."""

    images: int
    strongest: int
    weakest: int
    facts: int
    saliency: bool
    """Whether the strongest have their saliency below them."""
    words: bool
    """Whether words stand below images."""
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
        """Those that hold anything."""
        return tuple(c for c in (self.images, self.strongest, self.weakest) if c.tiles)

    @property
    def right(self) -> int:
        """Where the last column ends."""
        return self.columns[-1].right

    @property
    def caption_width(self) -> int:
        """Of captions, which are no narrower than an image."""
        return _caption_width(self.scale, self.needs)

    def caption_corner(self, top: int) -> tuple[int, int]:
        """Left and top of the caption in a row from `top`: below the images or beside them."""
        if beside(self.scale, self.needs.facts):
            return self.images.right - self.caption_width, top
        below = self.scale.tile + self.scale.gap + self.needs.words * self.scale.line
        return self.images.left, top + below

    @property
    def row_height(self) -> int:
        """Of a row, without the space after it."""
        return row_height(self.scale, self.needs.facts, self.needs.words)


def row_height(scale: Scale, facts: int, words: bool) -> int:
    """Two lines of tiles, more if captions of so many facts need it."""
    caption = scale.caption(facts)
    below = scale.tile + scale.gap + words * scale.line
    return max(scale.length(2), below, caption + (0 if beside(scale, facts) else below))


def beside(scale: Scale, facts: int) -> bool:
    """Whether captions stand beside the images: they are too high for the line below."""
    return scale.caption(facts) > 1.2 * scale.tile


def plan_grid(scale: Scale, needs: Needs) -> Grid:
    """Put the columns side by side; a column without tiles takes no room."""
    strongest = needs.strongest if needs.saliency else math.ceil(needs.strongest / 2)
    caption = _caption_width(scale, needs)
    if beside(scale, needs.facts):
        caption += scale.length(needs.images) + scale.space // 2
    first = _column("optimised", needs.images, scale.space, scale, caption)
    second = _column("strongest photographs", strongest, _next(first, scale), scale)
    third = _column(
        "weakest photographs", math.ceil(needs.weakest / 2), _next(second, scale), scale
    )
    return Grid(scale, needs, first, second, third)


def _caption_width(scale: Scale, needs: Needs) -> int:
    return max(scale.tile, math.ceil(needs.caption))


def _column(head: str, tiles: int, left: int, scale: Scale, least: int = 0) -> Column:
    words = math.ceil(font(scale.text).getlength(head))
    return Column(head, left, max(scale.length(tiles), words, least) if tiles else 0, tiles)


def _next(column: Column, scale: Scale) -> int:
    return column.right + scale.space if column.tiles else column.left

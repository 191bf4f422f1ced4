"""Where everything of a grid of images is, in pixels: of a montage, or of a strip of animation."""

import math
from dataclasses import dataclass

from layer_atlas.atlas.drawing import LARGEST_SIDE
from layer_atlas.config.config import CollateSettings

_NARROWEST = 480
"""Pixels; a title needs some width."""

_LARGEST_SCALE = 160.0
"""Letters that go with images of this side, in pixels, are large enough for any image."""


@dataclass(frozen=True)
class Layout:
    """A title, then one or several grids; a cell has blocks, and a block its images side by side.

    Mostly a cell is one image over its number. With several seeds it has a block for each, unless
    they have grids of their own, and a block has an image for each variant.
    """

    tile: tuple[int, int]
    """Width and height of an image."""
    columns: int
    rows: int
    blocks: int
    """Of a cell, side by side."""
    variants: int
    """Images of a block, side by side."""
    grids: int
    gap: int

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
        """Height of the title."""
        return 2 * self.gap + max(34, round(self.scale * 0.42))

    @property
    def block(self) -> int:
        """Width of a block."""
        return self.variants * self.tile[0] + (self.variants - 1) * (self.gap // 2)

    @property
    def room(self) -> int:
        """Width of a cell."""
        return self.blocks * self.block + (self.blocks - 1) * self.gap

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
        """Width and height of a cell, with the gap after it; several images need a wider one."""
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
        width = 2 * self.gap + self.columns * self.cell[0]
        return max(width, _NARROWEST), self.header + self.grids * self.grid_height + 2 * self.gap

    def tile_corner(self, position: int, seed_index: int = 0, variant: int = 0) -> tuple[int, int]:
        """Top left of the image of a cell (by its place in the grid), seed and variant."""
        row, column = divmod(position, self.columns)
        grid, block = (seed_index, 0) if self.grids > 1 else (0, seed_index)
        x = 2 * self.gap + column * self.cell[0] + block * (self.block + self.gap)
        y = self.header + grid * self.grid_height + self.subtitle + row * self.cell[1]
        return x + variant * (self.tile[0] + self.gap // 2), y

    def line_corner(self, number: int, position: int, *image: int) -> tuple[int, int]:
        """Top left of a line of text below an image; negative numbers count from the last line."""
        x, y = self.tile_corner(position, *image)
        return x, y + self.tile[1] + 2 + number % self.lines * self.line


def plan_layout(
    n: int, seeds: int, image_size: tuple[int, int], settings: CollateSettings, variants: int = 1
) -> Layout:
    """Choose columns and tile size for n cells: about a square, and never too large to open.

    Args:
        n: how many cells.
        seeds: images of each, or grids.
        image_size: height and width.
        settings: how it is to look.
        variants: images of each seed.
    """
    blocks, grids = (1, seeds) if settings.seeds == "grid" else (seeds, 1)
    largest = max(16, min(max(image_size), settings.tile))
    for side in range(largest, 15, -1):
        tile = _tile(image_size, side)
        columns = settings.columns or _columns(n, tile, blocks * variants, grids, settings.gap)
        columns = min(n, columns)
        rows = math.ceil(n / columns)
        layout = Layout(tile, columns, rows, blocks, variants, grids, settings.gap)
        if max(layout.size) <= LARGEST_SIDE:
            break
    return layout


def _tile(image_size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height of an image whose longer side is so long."""
    height, width = (max(1, round(side * length / max(image_size))) for length in image_size)
    return width, height


def _columns(n: int, tile: tuple[int, int], across: int, grids: int, gap: int) -> int:
    """Columns that leave the fewest cells of the last row empty, from a square to twice as wide.

    Few images stand in few rows instead, as far as the title is wide anyway.
    """
    square = math.sqrt(n * grids * tile[1] / (tile[0] * across))
    below_title = _NARROWEST // (across * (tile[0] + gap))
    if below_title > square:
        return math.ceil(n / math.ceil(n / below_title))
    candidates = range(math.ceil(square), max(math.ceil(square), round(2 * square)) + 1)
    return min(candidates, key=lambda columns: (-n % columns, columns))

"""Which grid looks best: sizes of images and numbers side by side are tried, and judged."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.images.grid import Grid, Measures, Shapes

_RAGGED = 3.0
"""How much an empty place in a last row is worse than images of another size."""
_CUT = 0.5
"""How bad it is that the rows of a table stand side by side."""
_PATIENT = 1 / 3
"""Where pages are turned anyway, images are so far on the way from the smallest to the best."""


def plan_grid(
    shapes: Shapes,
    measures: Measures,
    across: int | None = None,
    tile: int | None = None,
    whole: bool = False,
) -> Grid:
    """The arrangement that looks best.

    Args:
        shapes: how many images each strip of each section has.
        measures: what there is room for.
        across: strips side by side, if it is not to be chosen.
        tile: width of images, likewise.
        whole: strips are not broken into lines, and neither are pages, so that a tree can stand
            beside all of them.
    Raises:
        UserError: there is no room.
    """
    if tile is not None:
        measures = replace(measures, tiles=(tile, tile, tile))
    elif across is not None:
        measures = replace(measures, tiles=(*measures.tiles[:2], measures.width))
    least, _, most = measures.tiles
    columns = max(map(max, shapes))
    strips = max(map(len, shapes))
    found: list[Grid] = []
    one = measures.tree[0] > 0 or (measures.table and len(shapes) == 1)
    for count in [across or 1] if across or one else range(1, strips + 1):
        grids = [Grid(shapes, measures, count, columns, least)]
        if count == 1 and columns > 1 and not whole:
            grids += [Grid(shapes, measures, 1, c, least) for c in range(1, columns)]
        fitting = [_enlarged(grid, most, _fits_width) for grid in grids if _fits_width(grid)]
        if not fitting:
            break
        # Lines are broken only where they must be.
        found += fitting[:1] if fitting[0].per_line == columns else fitting
    if not found:
        raise UserError(_no_room(measures, across, tile, whole))
    return _best(found, whole)


def refitted(grid: Grid, measures: Measures) -> Grid:
    """The same arrangement with other measures; images become smaller where there is less room.

    It needs no more pages, if that is possible, and is as it was if there is no room at all.
    """
    smallest = Grid(grid.shapes, measures, grid.across, grid.per_line, measures.tiles[0])
    if measures == grid.measures or not _fits_width(smallest):
        return grid
    wide = _enlarged(smallest, grid.tile, _fits_width)
    pages = len(grid.pages)
    if len(smallest.pages) > pages:
        return wide
    return _enlarged(smallest, wide.tile, lambda other: len(other.pages) <= pages)


def _best(found: Sequence[Grid], whole: bool) -> Grid:
    """One page if that is possible at all; of those the one that looks best."""
    least, best, _ = found[0].measures.tiles
    single = [
        _enlarged(smallest, grid.tile, _fits_page)
        for grid in found
        if _fits_page(smallest := _resized(grid, least))
    ]
    if single:
        return min(single, key=lambda grid: _cost(grid, best))
    if whole:
        raise UserError(
            "a dendrogram stands beside all channels, which have no room on one page: choose "
            "fewer, or figure.height=any."
        )
    comfortable = round(least * (best / least) ** _PATIENT)
    return min(found, key=lambda grid: _misfit(grid, comfortable))


def _cost(grid: Grid, best: int) -> float:
    """What is wrong with an arrangement on one page."""
    tall = math.log(max(grid.pages[0].height / grid.measures.tall, 1.0))
    cut = _CUT if grid.measures.table and grid.across > 1 else 0.0
    return _misfit(grid, best) + _RAGGED * _empty(grid) + tall + cut


def _misfit(grid: Grid, best: int) -> float:
    """How far images are from the best size, and the width from the page's."""
    return abs(math.log(grid.tile / best)) + 2 * math.log(grid.measures.width / grid.used)


def _empty(grid: Grid) -> float:
    """Share of the places in rows and lines that have no image."""
    lines = list(grid.lines())
    if grid.broken:
        return 1 - sum(map(sum, grid.shapes)) / (len(lines) * grid.per_line)
    return 1 - sum(count for *_, count, _ in lines) / (len(lines) * grid.across)


def _resized(grid: Grid, tile: int) -> Grid:
    return Grid(grid.shapes, grid.measures, grid.across, grid.per_line, tile)


def _enlarged(grid: Grid, most: int, fits: Callable[[Grid], bool]) -> Grid:
    """The same with the largest images with which it fits."""
    low, high = grid.tile, max(grid.tile, most)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(_resized(grid, middle)) else (low, middle - 1)
    return _resized(grid, low)


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

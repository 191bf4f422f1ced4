"""Brackets in a figure of images: where they stand, and how much room their names need."""

from collections.abc import Iterator
from dataclasses import replace

from layer_atlas.presentation.figures.images.content import Content
from layer_atlas.presentation.figures.images.grid import Grid, Measures, Page, Place, Row
from layer_atlas.presentation.figures.paper.brackets import (
    Bracket,
    bracket_room,
    lines_needed,
    longest,
    runs,
)
from layer_atlas.presentation.figures.paper.paper import PageSpec


def above_headers(content: Content, grid: Grid, page: Page) -> Iterator[Bracket]:
    """Brackets above the headings of columns."""
    for heading in page.headings if grid.header else ():
        across = min(grid.across, len(content.sections[heading.section].strips))
        room = grid.measures.column_bracket
        top = heading.top + grid.measures.heading + room
        yield from _above_columns(content, grid, Row(heading.section, 0, across, 0, top, room))


def above_row(content: Content, grid: Grid, row: Row) -> Iterator[Bracket]:
    """Brackets above neighbouring strips, or above columns where a strip is broken into lines."""
    if grid.broken:
        yield from _above_columns(content, grid, row)
    strips = content.sections[row.section].strips[row.first : row.first + row.count]
    for group, places in runs(strip.group for strip in strips) if grid.across > 1 else ():
        right = grid.strip_left(places[-1]) + grid.strip_width
        yield Bracket(group, grid.strip_left(places[0]), right, row.top, row.above)


def _above_columns(content: Content, grid: Grid, row: Row) -> Iterator[Bracket]:
    groups = content.sections[row.section].groups[row.start : row.start + grid.per_line]
    for place in range(row.count):
        for group, columns in runs(groups):
            left, _, _, _ = grid.image(row, place, row.start + columns[0])
            _, _, right, _ = grid.image(row, place, row.start + columns[-1])
            yield Bracket(group, left, right, row.top, row.above)


def beside_rows(content: Content, grid: Grid, page: Page) -> Iterator[Bracket]:
    """Brackets to the left of strips that stand below each other."""
    sections = content.sections
    groups = (sections[row.section].strips[row.first].group for row in page.rows)
    for group, places in runs(groups) if grid.across == 1 else ():
        first, last = page.rows[places[0]], page.rows[places[-1]]
        bottom = last.top + grid.tile_height
        yield Bracket(group, first.top, bottom, grid.left, grid.measures.bracket)


def measures_with_names(content: Content, paper: PageSpec, grid: Grid) -> Measures:
    """The measures of a grid with as much room as the names of its brackets need."""

    def needed(brackets: Iterator[Bracket], least: int) -> int:
        return max(least, bracket_room(paper, lines_needed(paper, brackets)))

    measures, pages = grid.measures, grid.pages
    headers = (found for page in pages for found in above_headers(content, grid, page))
    beside = (found for page in pages for found in beside_rows(content, grid, page))
    return replace(
        measures,
        column_bracket=needed(headers, measures.column_bracket),
        bracket=needed(beside, measures.bracket),
        names=_names(content, paper, grid),
    )


def _names(content: Content, paper: PageSpec, grid: Grid) -> dict[Place, int]:
    """What names above single rows need besides the room for a line."""
    line = paper.letters.line(paper.format.small)
    rows: dict[int, dict[Place, list[Bracket]]] = {}
    for row in (row for page in grid.pages for row in page.rows):
        place = row.section, row.first, row.start
        rows.setdefault(row.section, {})[place] = list(above_row(content, grid, row))
    lines = {
        place: lines_needed(paper, brackets)
        for section in rows.values()
        for place, brackets in _where_longest(section).items()
    }
    return {place: (count - 1) * line for place, count in lines.items() if count > 1}


def _where_longest(rows: dict[Place, list[Bracket]]) -> dict[Place, list[Bracket]]:
    """The brackets of a section without shorter ones of a name.

    A group that is broken between rows is named above each: it is enough to read it once.
    """
    best = longest(found for brackets in rows.values() for found in brackets)
    return {
        place: [found for found in brackets if found.length == best[found.name].length]
        for place, brackets in rows.items()
    }

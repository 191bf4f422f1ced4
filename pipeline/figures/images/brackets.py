"""Where brackets stand in a figure of images: along rows or columns of one group."""

from collections.abc import Iterator

from pipeline.figures.images.content import Content
from pipeline.figures.images.grid import Grid, Page, Row
from pipeline.figures.paper.brackets import Bracket, runs


def row_brackets(content: Content, grid: Grid, page: Page) -> Iterator[Bracket]:
    """Those of rows: above them where they stand side by side, else to the left of all."""
    groups = [[strip.group for strip in section.strips] for section in content.sections]
    for row in page.rows if grid.across > 1 else ():
        for group, places in runs(groups[row.section][row.first : row.first + row.count]):
            right = grid.strip_left(places[-1]) + grid.strip_width
            yield Bracket(group, grid.strip_left(places[0]), right, row.top)
    if grid.across == 1:
        for group, places in runs(groups[row.section][row.first] for row in page.rows):
            bottom = page.rows[places[-1]].top + grid.tile_height
            yield Bracket(group, page.rows[places[0]].top, bottom, grid.left)


def column_brackets(content: Content, grid: Grid, page: Page) -> Iterator[Bracket]:
    """Those of columns: above each section, or above each line where strips are broken."""
    for row in page.rows if grid.broken else _headers(content, grid, page):
        groups = content.sections[row.section].groups[row.start : row.start + grid.per_line]
        for place in range(row.count):
            for group, columns in runs(groups):
                left, _, _, _ = grid.image(row, place, row.start + columns[0])
                _, _, right, _ = grid.image(row, place, row.start + columns[-1])
                yield Bracket(group, left, right, row.top)


def _headers(content: Content, grid: Grid, page: Page) -> Iterator[Row]:
    """The headings of columns, as rows that begin there."""
    for heading in page.headings if grid.header else ():
        across = min(grid.across, len(content.sections[heading.section].strips))
        top = heading.top + grid.measures.heading + grid.measures.column_bracket
        yield Row(heading.section, 0, across, 0, top)

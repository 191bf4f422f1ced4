"""One page of a figure of images: everything is put where the grid has it."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

from layer_atlas.atlas.drawing import Box
from layer_atlas.presentation.figures.images.brackets import above_headers, above_row, beside_rows
from layer_atlas.presentation.figures.images.content import Content, ImageRow, Words
from layer_atlas.presentation.figures.images.grid import Grid, Heading, Page, Row
from layer_atlas.presentation.figures.paper.brackets import draw_above, draw_beside
from layer_atlas.presentation.figures.paper.letters import FontMetrics
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import FAINT, HAIR, INK, Sheet
from layer_atlas.presentation.figures.paper.trees import tree_lines


def draw_page(content: Content, paper: PageSpec, grid: Grid, number: int) -> Sheet:
    """Draw the page of a number."""
    page = grid.pages[number]
    sheet = paper.sheet(page.height, number == 0, number == len(grid.pages) - 1)
    _Painter(sheet, content, paper, grid).paint(page)
    return sheet


class _Painter:
    def __init__(self, sheet: Sheet, content: Content, paper: PageSpec, grid: Grid) -> None:
        self.sheet, self.content, self.paper, self.grid = sheet, content, paper, grid
        self.letters, self.format = paper.letters, paper.format
        most = self.letters.points(grid.line)
        self.words_size = self.letters.size(self._all_words(), grid.tile, most, self.format.least)

    def paint(self, page: Page) -> None:
        """Put everything on the sheet."""
        for heading in page.headings:
            self._heading(heading)
        for number, row in enumerate(page.rows):
            for place in range(row.count):
                # The rest of a broken strip is labelled again where a page begins.
                self._strip(row, place, labelled=row.start == 0 or number == 0)
        self._brackets(page)
        if self.content.settings.dendrogram:
            self._tree(page)

    # --- headings --------------------------------------------------------------------------------

    def _heading(self, heading: Heading) -> None:
        """The title of a section above a thin line, and what its columns are."""
        section, top = self.content.sections[heading.section], heading.top
        if section.title:
            words = section.title + (" (continued)" if heading.continued else "")
            words = self.letters.shortened(words, self.format.text, self.paper.width)
            self.sheet.text((0, top), words, self.format.text)
            y = top + self.letters.line(self.format.text)
            self.sheet.lines([[(0, y), (self.paper.width, y)]], HAIR)
        if self.grid.header:
            across = min(self.grid.across, len(section.strips))
            top += self.grid.measures.heading + self.grid.measures.column_bracket
            self._columns(section.headings, top, across)

    def _columns(self, headings: Sequence[str], top: int, across: int) -> None:
        room = self.grid.tile + self.paper.gap // 2
        words = _without_common(headings, self.letters, self.format.least, room)
        size = self._size(words, room)
        for place in range(across):
            for column, word in enumerate(words):
                left, _, right, _ = self.grid.image(Row(0, 0, across, 0, 0), place, column)
                shown = self.letters.shortened(word, size, room)
                self.sheet.text(((left + right) / 2, top), shown, size, "center")

    # --- strips ----------------------------------------------------------------------------------

    def _strip(self, row: Row, place: int, labelled: bool) -> None:
        """A strip, or the line of it that is in this row."""
        strip = self.content.sections[row.section].strips[row.first + place]
        words = self._words_of(strip)
        for column in range(row.start, min(row.start + self.grid.per_line, len(strip.shots))):
            shot, box = strip.shots[column], self.grid.image(row, place, column)
            if shot is not None:
                self.sheet.picture(box, shot.pixels)
                self._words(box, words[column])
        if labelled and strip.label:
            self._label(strip.label, self.grid.strip_left(place), row.top)
        if row.start == 0 and self.grid.measures.dataset_images:
            self._photographs(strip, row, place)

    @cached_property
    def _label_size(self) -> float:
        strips = (strip for section in self.content.sections for strip in section.strips)
        room = self.grid.measures.side - 2 * self.paper.gap
        return self._size({strip.label for strip in strips}, room)

    def _label(self, label: str, left: int, top: int) -> None:
        room, size = self.grid.measures.side - 2 * self.paper.gap, self._label_size
        # Layers differ at the end of their names, classes at the beginning.
        keep: Literal["start", "end"] = (
            "end" if self.content.settings.rows in ("layers", "models") else "start"
        )
        words = self.letters.shortened(label, size, room, keep)
        middle = top + (self.grid.tile_height - self.letters.line(size)) / 2
        self.sheet.text((left + room, middle), words, size, "right")

    def _words(self, box: Box, words: Words) -> None:
        left, _, right, bottom = box
        for number, line in enumerate(words):
            shown = self.letters.shortened(line, self.words_size, right - left)
            top = bottom + number * self.grid.line
            colour = FAINT if number else INK
            self.sheet.text(((left + right) / 2, top), shown, self.words_size, "center", colour)

    def _photographs(self, strip: ImageRow, row: Row, place: int) -> None:
        shot = next((shot for shot in strip.shots if shot), None)
        if shot is None:
            return
        side = self.grid.photograph
        pictures = shot.layer.dataset_images(shot.channel)
        for (left, top), pixels in zip(
            self.grid.dataset_images(row, place), pictures, strict=False
        ):
            self.sheet.picture((left, top, left + side, top + side), pixels)

    # --- groups and trees ------------------------------------------------------------------------

    def _brackets(self, page: Page) -> None:
        """Lines along neighbours of one group, and their names."""
        content, grid, sheet = self.content, self.grid, self.sheet
        rows = (found for row in page.rows for found in above_row(content, grid, row))
        draw_above(sheet, self.paper, [*above_headers(content, grid, page), *rows])
        draw_beside(sheet, self.paper, list(beside_rows(content, grid, page)))

    def _tree(self, page: Page) -> None:
        """The tree of similarity, its leaves at the middles of images."""
        tree = self.content.chosen[0].tree
        if tree is None or len(tree.apart) == 1:
            return
        grid, (beside, above) = self.grid, self.grid.measures.tree
        room = max(beside, above) - 2 * self.paper.gap
        if beside:
            leaves: list[float] = [row.top + grid.tile_height / 2 for row in page.rows]
            end = grid.left - (grid.before - beside) - 2 * self.paper.gap
            lines = tree_lines(tree, leaves, lambda along, deep: (end - deep * room, along))
        else:
            boxes = [grid.image(page.rows[0], 0, leaf) for leaf in range(len(tree.apart))]
            leaves = [(left + right) / 2 for left, _, right, _ in boxes]
            lines = tree_lines(tree, leaves, lambda along, deep: (along, room * (1 - deep)))
        self.sheet.lines(lines)

    # --- words -----------------------------------------------------------------------------------

    def _words_of(self, strip: ImageRow) -> tuple[Words, ...]:
        return strip.broken_words if self.grid.broken else strip.words

    def _all_words(self) -> set[str]:
        strips = (strip for section in self.content.sections for strip in section.strips)
        return {line for strip in strips for words in self._words_of(strip) for line in words}

    def _size(self, words: Iterable[str], room: float) -> float:
        """Of letters with which all words have room, if that is possible."""
        return self.letters.size(words, room, self.format.small, self.format.least)


def _without_common(
    words: Sequence[str], letters: FontMetrics, points: float, room: float
) -> Sequence[str]:
    """Headings without a first word that is common to all, if there is no room for it."""
    first = {word.split(" ")[0] for word in words}
    short = [word.partition(" ")[2] for word in words]
    fits = letters.widest(words, points) <= room
    return words if fits or len(first) > 1 or not all(short) else short

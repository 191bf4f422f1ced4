"""Figures of images: what targets' images look like, in rows and columns."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import ImagesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.brackets import (
    Bracket,
    bracket_room,
    draw_above,
    draw_beside,
    lines_needed,
    longest,
    runs,
    tree_lines,
)
from layer_atlas.presentation.figures.captions import (
    bracket_methods,
    bracketed_caption,
    bracketed_notes,
)
from layer_atlas.presentation.figures.image_content import (
    MARKS,
    Content,
    ImageRow,
    Texts,
    dataset_images_of,
)
from layer_atlas.presentation.figures.selection import (
    LayerData,
    RenderedFigure,
    choose_bracketed,
    chosen_layers,
)
from layer_atlas.presentation.layout.figure import HAIR, FigureCanvas, PagePart, PageSpec
from layer_atlas.presentation.layout.page import FAINT, INK, Box, Lines, Tile
from layer_atlas.presentation.layout.strips import (
    Grid,
    Heading,
    Measures,
    Page,
    Place,
    Row,
    plan_grid,
    refitted,
)

_TREE = 0.45
"""Inches for a dendrogram."""
_TALL = 0.75, 0.5
"""Height, as a fraction of a page's width and of its usual height, below which more rows do no
harm."""
_WIDEST_LABEL = 0.22
"""Largest fraction of the width for labels to the left of strips."""


def draw_images(
    atlas: Atlas, settings: ImagesFigure, part: PagePart | None = None
) -> RenderedFigure:
    """Images in rows and columns.

    Raises:
        UserError: the atlas lacks what the settings name, or there is no room for it.
    """
    seed = settings.seeds[0] if settings.seeds else None
    variant = settings.variants[0] if settings.variants else None
    selections = tuple(
        choose_bracketed(LayerData(layer, seed, variant), settings)
        for layer in chosen_layers(atlas, settings)
    )
    content = Content(selections, settings)
    caption = caption_of(content)
    spec = PageSpec(settings, caption, part)
    pages = _pages(content, spec, grid_of(content, spec))
    return RenderedFigure(pages, caption, methods_of(content), selections)


def _pages(content: Content, spec: PageSpec, grid: Grid) -> Iterator[FigureCanvas]:
    for number in range(len(grid.pages)):
        yield draw_page(content, spec, grid, number)


def grid_of(content: Content, spec: PageSpec) -> Grid:
    """Plan the grid. Raises UserError if there is no room."""
    settings = content.settings
    grid = plan_grid(
        [[len(strip.images) for strip in section.strips] for section in content.sections],
        measures_of(content, spec),
        across=settings.across,
        tile=None if settings.tile is None else spec.dots(settings.tile),
        whole=settings.dendrogram,
    )
    # The lines that names of brackets need depend on the lengths of the brackets.
    return refitted(grid, measures_with_names(content, spec, grid))


def measures_of(content: Content, spec: PageSpec) -> Measures:
    """Measure the room that everything takes."""
    sections, dataset_images = content.sections, content.dataset_images
    strips = [strip for section in sections for strip in section.strips]
    line, gap = spec.font.line(spec.format.small), spec.gap
    plain = content.settings.columns is None and not dataset_images
    return Measures(
        width=spec.width,
        height=spec.height,
        tall=round(max(_TALL[0] * spec.width, _TALL[1] * spec.dots(spec.format.page))),
        tiles=_tiles(strips, spec),
        aspect=_aspect(content),
        gap=gap,
        aisle=gap if plain else 4 * gap,
        side=_side(strips, spec),
        text_lines=max(len(texts) for strip in strips for texts in strip.texts),
        broken_text_lines=max(len(texts) for strip in strips for texts in strip.broken_texts),
        line_heights=(spec.font.line(spec.format.least), line),
        heading=spec.font.line(spec.format.text) + 2 * gap if sections[0].title else 0,
        header=line if any(section.headings for section in sections) else 0,
        bracket=bracket_room(spec, int(any(strip.group for strip in strips))),
        column_bracket=bracket_room(spec, int(any(section.groups for section in sections))),
        names={},
        tree=_tree(content, spec),
        dataset_images=dataset_images,
        table=content.settings.columns is not None and content.settings.rows != "channels",
    )


def _tiles(strips: Sequence[ImageRow], spec: PageSpec) -> tuple[int, int, int]:
    """Least, best and largest width of images; the first word below each, a number, is not cut."""
    lines = {line for strip in strips for texts in strip.broken_texts for line in texts}
    first = {line.split(" ")[0] for line in lines}
    needed = math.ceil(spec.font.widest(first, spec.format.least))
    least, best, most = (max(spec.dots(inches), needed) for inches in spec.format.tile)
    # Names need more room than numbers do.
    whole = math.ceil(spec.font.widest(lines, spec.format.least))
    return least, max(best, min(whole, (best + most) // 2)), most


def _side(strips: Sequence[ImageRow], spec: PageSpec) -> int:
    """Room for the labels to the left of strips."""
    widest = spec.font.widest({strip.label for strip in strips}, spec.format.small)
    return round(min(widest, _WIDEST_LABEL * spec.width)) + 2 * spec.gap if widest else 0


def _aspect(content: Content) -> float:
    """Height of images as a fraction of their width; 1 where layers differ."""
    shapes = {selection.layer.dataset("image").shape[-3:-1] for selection in content.selections}
    aspects = {height / width for height, width in shapes}
    return aspects.pop() if len(aspects) == 1 else 1.0


def _tree(content: Content, spec: PageSpec) -> tuple[int, int]:
    """Room for a dendrogram: to the left, and above."""
    if not content.settings.dendrogram:
        return 0, 0
    if len(content.selections) > 1:
        raise UserError("a dendrogram is of one layer: choose it by figure.layers.")
    room = spec.dots(_TREE) + 2 * spec.gap
    return (room, 0) if content.settings.rows == "channels" else (0, room)


def draw_page(content: Content, spec: PageSpec, grid: Grid, number: int) -> FigureCanvas:
    """Draw the page of a number."""
    page = grid.pages[number]
    canvas = spec.canvas(page.height, number == 0, number == len(grid.pages) - 1)
    _Painter(canvas, content, spec, grid).paint(page)
    return canvas


class _Painter:
    def __init__(self, canvas: FigureCanvas, content: Content, spec: PageSpec, grid: Grid) -> None:
        self.canvas, self.content, self.spec, self.grid = canvas, content, spec, grid
        self.font, self.format = spec.font, spec.format
        most = self.font.points(grid.line)
        self.text_size = self.font.size(self._all_texts(), grid.tile, most, self.format.least)

    def paint(self, page: Page) -> None:
        """Paint everything."""
        for heading in page.headings:
            self._heading(heading)
        for number, row in enumerate(page.rows):
            for position in range(row.count):
                # The rest of a broken strip is labelled again where a page begins.
                self._strip(row, position, labelled=row.start == 0 or number == 0)
        self._brackets(page)
        if self.content.settings.dendrogram:
            self._tree(page)

    # --- headings --------------------------------------------------------------------------------

    def _heading(self, heading: Heading) -> None:
        """Write the title of a section above a thin line, and the headings of its columns."""
        section, top = self.content.sections[heading.section], heading.top
        if section.title:
            title = section.title + (" (continued)" if heading.continued else "")
            self.canvas.text(self.font.placed((0, top), title, self.format.text, self.spec.width))
            y = top + self.font.line(self.format.text)
            self.canvas.lines(Lines([[(0, y), (self.spec.width, y)]], HAIR))
        if self.grid.header:
            across = min(self.grid.across, len(section.strips))
            top += self.grid.measures.heading + self.grid.measures.column_bracket
            self._columns(section.headings, top, across)

    def _columns(self, headings: Sequence[str], top: int, across: int) -> None:
        room = self.grid.tile + self.spec.gap // 2
        headings = self.font.without_common_word(headings, self.format.least, room)
        size = self._size(headings, room)
        for strip in range(across):
            for column, heading in enumerate(headings):
                left, _, right, _ = self.grid.image(Row(0, 0, across, 0, 0), strip, column)
                self.canvas.text(
                    self.font.placed(((left + right) / 2, top), heading, size, room, "center")
                )

    # --- strips ----------------------------------------------------------------------------------

    def _strip(self, row: Row, position: int, labelled: bool) -> None:
        """Paint a strip, or the line of it that is in this row."""
        strip = self.content.sections[row.section].strips[row.first + position]
        texts = self._texts_of(strip)
        for column in range(row.start, min(row.start + self.grid.per_line, len(strip.images))):
            image, box = strip.images[column], self.grid.image(row, position, column)
            if image is not None:
                self.canvas.tile(Tile(box, image.pixels))
                self._below(box, texts[column])
        if labelled and strip.label:
            self._label(strip.label, self.grid.strip_left(position), row.top)
        if row.start == 0 and self.grid.measures.dataset_images:
            self._dataset_images(strip, row, position)

    @cached_property
    def _label_size(self) -> float:
        strips = (strip for section in self.content.sections for strip in section.strips)
        room = self.grid.measures.side - 2 * self.spec.gap
        return self._size({strip.label for strip in strips}, room)

    def _label(self, label: str, left: int, top: int) -> None:
        room, size = self.grid.measures.side - 2 * self.spec.gap, self._label_size
        # Layers differ at the end of their names, classes at the beginning.
        keep = "end" if self.content.settings.rows in ("layers", "models") else "start"
        middle = top + (self.grid.tile_height - self.font.line(size)) / 2
        self.canvas.text(
            self.font.placed((left + room, middle), label, size, room, "right", keep=keep)
        )

    def _below(self, box: Box, texts: Sequence[str]) -> None:
        """Write the texts below an image, the first in ink, further ones faint."""
        left, _, right, bottom = box
        for number, words in enumerate(texts):
            point = (left + right) / 2, bottom + number * self.grid.line
            colour = FAINT if number else INK
            self.canvas.text(
                self.font.placed(
                    point, words, self.text_size, right - left, "center", colour=colour
                )
            )

    def _dataset_images(self, strip: ImageRow, row: Row, position: int) -> None:
        image = next((image for image in strip.images if image), None)
        if image is None:
            return
        crop = self.content.settings.crop
        dataset_images = dataset_images_of(image.layer, image.channel, crop)
        boxes = self.grid.dataset_images(row, position)
        for box, pixels in zip(boxes, dataset_images, strict=False):
            self.canvas.tile(Tile(box, pixels))

    # --- groups and trees ------------------------------------------------------------------------

    def _brackets(self, page: Page) -> None:
        """Draw the brackets of groups."""
        content, grid, canvas = self.content, self.grid, self.canvas
        rows = (bracket for row in page.rows for bracket in above_row(content, grid, row))
        draw_above(canvas, self.spec, [*above_headers(content, grid, page), *rows])
        draw_beside(canvas, self.spec, list(beside_rows(content, grid, page)))

    def _tree(self, page: Page) -> None:
        """Draw the dendrogram, its leaves at the middles of images."""
        tree = self.content.selections[0].tree
        if tree is None or len(tree.apart) == 1:
            return
        grid, (beside, above) = self.grid, self.grid.measures.tree
        room = max(beside, above) - 2 * self.spec.gap
        if beside:
            leaves: list[float] = [row.top + grid.tile_height / 2 for row in page.rows]
            end = grid.left - (grid.before - beside) - 2 * self.spec.gap
            lines = tree_lines(tree, leaves, lambda along, deep: (end - deep * room, along))
        else:
            boxes = [grid.image(page.rows[0], 0, leaf) for leaf in range(len(tree.apart))]
            leaves = [(left + right) / 2 for left, _, right, _ in boxes]
            lines = tree_lines(tree, leaves, lambda along, deep: (along, room * (1 - deep)))
        self.canvas.lines(Lines(lines))

    # --- texts -----------------------------------------------------------------------------------

    def _texts_of(self, strip: ImageRow) -> tuple[Texts, ...]:
        return strip.broken_texts if self.grid.broken else strip.texts

    def _all_texts(self) -> set[str]:
        strips = (strip for section in self.content.sections for strip in section.strips)
        return {line for strip in strips for texts in self._texts_of(strip) for line in texts}

    def _size(self, texts: Iterable[str], room: float) -> float:
        """Size of letters at which all texts have room, if there is any."""
        return self.font.size(texts, room, self.format.small, self.format.least)


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
    for group, positions in runs(strip.group for strip in strips) if grid.across > 1 else ():
        right = grid.strip_left(positions[-1]) + grid.strip_width
        yield Bracket(group, grid.strip_left(positions[0]), right, row.top, row.above)


def _above_columns(content: Content, grid: Grid, row: Row) -> Iterator[Bracket]:
    groups = content.sections[row.section].groups[row.start : row.start + grid.per_line]
    for position in range(row.count):
        for group, columns in runs(groups):
            left, _, _, _ = grid.image(row, position, row.start + columns[0])
            _, _, right, _ = grid.image(row, position, row.start + columns[-1])
            yield Bracket(group, left, right, row.top, row.above)


def beside_rows(content: Content, grid: Grid, page: Page) -> Iterator[Bracket]:
    """Brackets to the left of strips that stand below each other."""
    sections = content.sections
    groups = (sections[row.section].strips[row.first].group for row in page.rows)
    for group, positions in runs(groups) if grid.across == 1 else ():
        first, last = page.rows[positions[0]], page.rows[positions[-1]]
        bottom = last.top + grid.tile_height
        yield Bracket(group, first.top, bottom, grid.left, grid.measures.bracket)


def measures_with_names(content: Content, spec: PageSpec, grid: Grid) -> Measures:
    """The measures of a grid, with the room that the names of its brackets need."""

    def needed(brackets: Iterator[Bracket], least: int) -> int:
        return max(least, bracket_room(spec, lines_needed(spec, brackets)))

    measures, pages = grid.measures, grid.pages
    headers = (bracket for page in pages for bracket in above_headers(content, grid, page))
    beside = (bracket for page in pages for bracket in beside_rows(content, grid, page))
    return replace(
        measures,
        column_bracket=needed(headers, measures.column_bracket),
        bracket=needed(beside, measures.bracket),
        names=_names(content, spec, grid),
    )


def _names(content: Content, spec: PageSpec, grid: Grid) -> dict[Place, int]:
    """Room that names above single rows need besides one line."""
    line = spec.font.line(spec.format.small)
    rows: dict[int, dict[Place, list[Bracket]]] = {}
    for row in (row for page in grid.pages for row in page.rows):
        key = row.section, row.first, row.start
        rows.setdefault(row.section, {})[key] = list(above_row(content, grid, row))
    lines = {
        position: lines_needed(spec, brackets)
        for section in rows.values()
        for position, brackets in _where_longest(section).items()
    }
    return {position: (count - 1) * line for position, count in lines.items() if count > 1}


def _where_longest(rows: dict[Place, list[Bracket]]) -> dict[Place, list[Bracket]]:
    """The brackets of a section without shorter ones of a name.

    A group that is broken between rows is named above each: it is enough to read it once.
    """
    best = longest(bracket for brackets in rows.values() for bracket in brackets)
    return {
        position: [bracket for bracket in brackets if bracket.length == best[bracket.name].length]
        for position, brackets in rows.items()
    }


_AXES = {
    **{axis: axis for axis in ("models", "layers", "channels", "variants")},
    "seeds": "random seeds",
    "steps": "steps of the optimization",
}
_FATES = {
    "dead": "dead channels, which never responded",
    "silent": "silent channels, which respond to dataset images alone",
    "diverged": "optimizations that diverged",
}


def caption_of(content: Content) -> str:
    """A caption in a few sentences."""
    return " ".join(_caption(content))


def _caption(content: Content) -> Iterator[str]:
    settings = content.settings
    yield f"Feature visualizations of {bracketed_caption(content.selections, settings)}."
    if settings.columns is not None:
        yield f"Rows are {_AXES[settings.rows]}, columns are {_AXES[settings.columns]}."
    yield from bracketed_notes(content.selections, settings)
    if settings.dendrogram:
        yield "The dendrogram shows the similarity of channels (average linkage)."
    if content.dataset_images:
        yield _dataset_caption(content)
    if settings.tell is not None:
        yield f"The number below each image is its {settings.tell.replace('_', ' ')}."
    yield from _marks(content)


def _dataset_caption(content: Content) -> str:
    """Describe the dataset images beside each image, and which part of them is shown."""
    count = content.dataset_images
    what = "the dataset image" if count == 1 else f"the {count} dataset images"
    beside = f"Beside each image {'is' if count == 1 else 'are'} {what}"
    shown = f"{beside} with the largest {'response' if count == 1 else 'responses'} of the channel"
    if not content.settings.crop:
        return f"{shown}."
    return (
        f"{shown}, cropped to the receptive field of the largest response, as far as it lies "
        "within the image."
    )


def _marks(content: Content) -> Iterator[str]:
    """Explain the marks of fates that are shown."""
    fates = {image.fate for image in content.images}
    for fate, mark in MARKS.items():
        if fate in fates and content.settings.labels:
            yield f"{mark} marks {_FATES[fate]}."
    if fates & {"failed", "missing"}:
        yield "Crossed-out boxes are images that were not made."


def methods_of(content: Content) -> tuple[str, ...]:
    """Describe how images were chosen and drawn."""
    settings = content.settings
    resampled = f"Images were resampled to {settings.dpi} pixels per inch for display (Lanczos)."
    return (*bracket_methods(content.selections, settings), resampled)

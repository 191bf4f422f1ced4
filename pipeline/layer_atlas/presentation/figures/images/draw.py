"""Figures of images: what channels are excited by, in a grid."""

import math
from collections.abc import Iterator, Sequence

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.figures import ImagesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.base import RenderedFigure
from layer_atlas.presentation.figures.images.arrange import plan_grid, refitted
from layer_atlas.presentation.figures.images.brackets import measures_with_names
from layer_atlas.presentation.figures.images.captions import caption_of, methods_of
from layer_atlas.presentation.figures.images.content import Content, ImageRow
from layer_atlas.presentation.figures.images.grid import Grid, Measures
from layer_atlas.presentation.figures.images.page import draw_page
from layer_atlas.presentation.figures.paper.brackets import bracket_room
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import Sheet
from layer_atlas.presentation.figures.selection.choose import choose_bracketed, chosen_layers
from layer_atlas.presentation.figures.selection.layer_data import LayerData

_TREE = 0.45
"""Inches that a tree takes up."""
_TALL = 0.75, 0.5
"""Up to this share of a page's width or of its usual height nothing speaks against more rows."""
_WIDEST_LABEL = 0.22
"""Labels to the left of strips take no more of the width."""


def draw_images(atlas: Atlas, settings: ImagesFigure) -> RenderedFigure:
    """Images in rows and columns.

    Raises:
        UserError: what is asked for is not in the atlas, or there is no room for it.
    """
    seed = settings.seeds[0] if settings.seeds else None
    variant = settings.variants[0] if settings.variants else None
    chosen = tuple(
        choose_bracketed(LayerData(layer, seed, variant), settings)
        for layer in chosen_layers(atlas, settings)
    )
    content = Content(chosen, settings)
    caption = caption_of(content)
    paper = PageSpec(settings, caption)
    pages = _pages(content, paper, grid_of(content, paper))
    return RenderedFigure(pages, caption, methods_of(content), chosen)


def _pages(content: Content, paper: PageSpec, grid: Grid) -> Iterator[Sheet]:
    for number in range(len(grid.pages)):
        yield draw_page(content, paper, grid, number)


def grid_of(content: Content, paper: PageSpec) -> Grid:
    """Where everything goes. Raises UserError if there is no room."""
    settings = content.settings
    grid = plan_grid(
        [[len(strip.shots) for strip in section.strips] for section in content.sections],
        measures_of(content, paper),
        across=settings.across,
        tile=None if settings.tile is None else paper.dots(settings.tile),
        whole=settings.dendrogram,
    )
    # How many lines the names of brackets need depends on how long brackets have become.
    return refitted(grid, measures_with_names(content, paper, grid))


def measures_of(content: Content, paper: PageSpec) -> Measures:
    """How much room everything takes."""
    sections, dataset_images = content.sections, content.dataset_images
    strips = [strip for section in sections for strip in section.strips]
    line, gap = paper.letters.line(paper.format.small), paper.gap
    plain = content.settings.columns is None and not dataset_images
    return Measures(
        width=paper.width,
        height=paper.height,
        tall=round(max(_TALL[0] * paper.width, _TALL[1] * paper.dots(paper.format.page))),
        tiles=_tiles(strips, paper),
        aspect=_aspect(content),
        gap=gap,
        aisle=gap if plain else 4 * gap,
        side=_side(strips, paper),
        words=max(len(words) for strip in strips for words in strip.words),
        broken_words=max(len(words) for strip in strips for words in strip.broken_words),
        letters=(paper.letters.line(paper.format.least), line),
        heading=paper.letters.line(paper.format.text) + 2 * gap if sections[0].title else 0,
        header=line if any(section.headings for section in sections) else 0,
        bracket=bracket_room(paper, int(any(strip.group for strip in strips))),
        column_bracket=bracket_room(paper, int(any(section.groups for section in sections))),
        names={},
        tree=_tree(content, paper),
        dataset_images=dataset_images,
        table=content.settings.columns is not None and content.settings.rows != "channels",
    )


def _tiles(strips: Sequence[ImageRow], paper: PageSpec) -> tuple[int, int, int]:
    """Least, best and largest width of images. The first word under each, a number, is not cut."""
    words = {line for strip in strips for words in strip.broken_words for line in words}
    first = {line.split(" ")[0] for line in words}
    needed = math.ceil(paper.letters.widest(first, paper.format.least))
    least, best, most = (max(paper.dots(inches), needed) for inches in paper.format.tile)
    # Names need more room than numbers do.
    whole = math.ceil(paper.letters.widest(words, paper.format.least))
    return least, max(best, min(whole, (best + most) // 2)), most


def _side(strips: Sequence[ImageRow], paper: PageSpec) -> int:
    """Room for the labels to the left of strips."""
    widest = paper.letters.widest({strip.label for strip in strips}, paper.format.small)
    return round(min(widest, _WIDEST_LABEL * paper.width)) + 2 * paper.gap if widest else 0


def _aspect(content: Content) -> float:
    """Height of images for their width; of various ones, that of a square."""
    shapes = {chosen.layer.dataset("image").shape[-3:-1] for chosen in content.chosen}
    found = {height / width for height, width in shapes}
    return found.pop() if len(found) == 1 else 1.0


def _tree(content: Content, paper: PageSpec) -> tuple[int, int]:
    """Room for a tree: to the left, and above."""
    if not content.settings.dendrogram:
        return 0, 0
    if len(content.chosen) > 1:
        raise UserError("a dendrogram is of one layer: choose it by figure.layers.")
    room = paper.dots(_TREE) + 2 * paper.gap
    return (room, 0) if content.settings.rows == "channels" else (0, room)

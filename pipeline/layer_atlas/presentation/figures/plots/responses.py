"""What every channel of a layer answers to the image of every other, as a heat map."""

from collections.abc import Iterator, Sequence

import numpy as np

from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.figures import ResponsesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.base import RenderedFigure
from layer_atlas.presentation.figures.captions.brackets import (
    bracket_methods,
    bracket_words,
    order_words,
    ranking_notes,
)
from layer_atlas.presentation.figures.captions.likeness import likeness_words
from layer_atlas.presentation.figures.captions.selection import what_is_shown
from layer_atlas.presentation.figures.paper.brackets import Bracket, draw_beside, runs
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import Sheet
from layer_atlas.presentation.figures.paper.trees import tree_lines
from layer_atlas.presentation.figures.plots.matrix import (
    Frame,
    coloured,
    enlarged,
    frame_of,
    limit_of,
    matrix_of,
)
from layer_atlas.presentation.figures.selection.choose import (
    Selection,
    choose_bracketed,
    chosen_layers,
    titles_of,
)
from layer_atlas.presentation.figures.selection.layer_data import LayerData

_OF_CHANNELS = {"channel", "neuron", "logit", "probability", "diversity", "accentuation"}
"""Objectives whose targets are channels of the layer."""

_HANG = 0.05
"""Share of the tree's depth that lines to leaves take."""

_CAPTION = (
    "Mean response of every channel (columns) to the image of every channel (rows, in the same "
    "order), in standard deviations of the column: red above its mean, blue below."
)


def draw_responses(atlas: Atlas, settings: ResponsesFigure) -> RenderedFigure:
    """A page per layer.

    Raises:
        UserError: what is asked for is not in the atlas, or images are not of single channels.
    """
    layers = chosen_layers(atlas, settings)
    for layer in layers:
        _check(layer)
    chosen = tuple(choose_bracketed(LayerData(layer), settings) for layer in layers)
    caption = " ".join(_caption(settings, chosen))
    methods = [*bracket_methods(chosen, settings)]
    for found in chosen:
        methods += [f"In {found.layer.title} {told}" for told in likeness_words(found)]
    pages = _pages(PageSpec(settings, caption), settings, chosen)
    return RenderedFigure(pages, caption, " ".join(methods), chosen)


def _caption(settings: ResponsesFigure, chosen: Sequence[Selection]) -> Iterator[str]:
    yield _CAPTION
    yield f"Shown: {what_is_shown(chosen, settings.channels, order_words(settings))}."
    yield from ranking_notes(chosen, settings)
    yield from bracket_words(chosen, settings)
    if len(chosen) == 1:
        yield from (f"{told[0].upper()}{told[1:]}" for told in likeness_words(chosen[0]))


def _check(layer: Layer) -> None:
    objective = layer.recipe["objective"]["name"]
    if objective not in _OF_CHANNELS:
        raise UserError(
            f"the images of {layer.title} are made for objective={objective}, not for single "
            "channels that could be set against each other; choose other layers by figure.layers."
        )


def _pages(
    paper: PageSpec, settings: ResponsesFigure, chosen: Sequence[Selection]
) -> Iterator[Sheet]:
    titles = titles_of(chosen)
    for number, (found, title) in enumerate(zip(chosen, titles, strict=True)):
        painter = _Painter(paper, settings, found, title if len(chosen) > 1 else "")
        sheet = paper.sheet(painter.frame.height, number == 0, number == len(chosen) - 1)
        painter.paint(sheet)
        yield sheet


class _Painter:
    """Draws a matrix and what stands around it."""

    def __init__(
        self, paper: PageSpec, settings: ResponsesFigure, chosen: Selection, title: str
    ) -> None:
        self.paper, self.chosen, self.title = paper, chosen, title
        self.letters, self.sizes, self.gap = paper.letters, paper.format, paper.gap
        self.groups = chosen.groups
        self.tree = chosen.tree if settings.dendrogram else None
        self.names = [chosen.layer.labels[chosen.layer.row(c)] for c in chosen.channels]
        has_tree = self.tree is not None
        self.frame: Frame = frame_of(paper, self.names, self.groups, has_tree, bool(title))

    @property
    def _cell(self) -> float:
        return self.frame.side / len(self.names)

    def _middle(self, place: int) -> float:
        """Of a row, from the top of the page."""
        return self.frame.top + (place + 0.5) * self._cell

    def paint(self, sheet: Sheet) -> None:
        """Put everything on the sheet."""
        frame, values = self.frame, matrix_of(self.chosen)
        limit = limit_of(values)
        pixels = enlarged(coloured(values, limit), frame.side)
        sheet.image((frame.matrix, frame.top), pixels)
        self._titles(sheet)
        self._bar(sheet, limit)
        if self.tree is not None:
            self._draw_tree(sheet)
        brackets = [self._bracket(*run) for run in runs(self.groups)]
        draw_beside(sheet, self.paper, brackets)
        for place in range(len(self.names)) if frame.label else ():
            self._label(sheet, place)

    def _titles(self, sheet: Sheet) -> None:
        """What the page, its rows and its columns are called."""
        frame, small = self.frame, self.sizes.small
        size, line = self.sizes.text, self.letters.line(small)
        words = self.letters.shortened(self.title, size, self.paper.width, keep="end")
        sheet.text((frame.left + frame.axis, 0), words, size)
        middle = frame.matrix + frame.side / 2, frame.top + frame.side + self.gap
        sheet.text(middle, "response of channel", small, "center")
        turned = frame.left + line / 2, frame.top + frame.side / 2
        sheet.text(turned, "image of channel", small, turned=True)

    def _bar(self, sheet: Sheet, limit: float) -> None:
        """The bar of colours, with its ends and its middle in numbers."""
        frame, small = self.frame, self.sizes.small
        (wide, high), left = frame.bar, frame.matrix + frame.side + 2 * self.gap
        values = np.linspace(limit, -limit, high)[:, None].repeat(wide, axis=1)
        line = self.letters.line(small)
        top = frame.top + line // 2
        sheet.image((left, top), coloured(values, limit))
        for share, value in ((0.0, limit), (0.5, 0.0), (1.0, -limit)):
            sheet.text(
                (left + wide + self.gap, top + share * high - line / 2),
                f"{value:.1f}".replace("-", "−") if value else "0",
                small,
            )
        sheet.text((left, top + high + line / 2), "s.d.", small)

    def _draw_tree(self, sheet: Sheet) -> None:
        assert self.tree is not None
        end = self.frame.left + self.frame.axis + self.frame.tree - self.gap
        room = self.frame.tree - 2 * self.gap
        leaves = [self._middle(place) for place in range(len(self.tree.apart))]
        # Where rows have no labels to reach, long lines to the leaves would make a black wall.
        hang = 1.0 if self.frame.label else _HANG
        lines = tree_lines(self.tree, leaves, lambda along, deep: (end - deep * room, along), hang)
        # Thinner where there are many, or they would run together.
        sheet.lines(lines, points=min(0.5, 72 * self._cell / self.paper.settings.dpi / 3))

    def _bracket(self, group: str, places: Sequence[int]) -> Bracket:
        high = len(places) * self._cell
        # Neighbouring brackets do not touch, however narrow rows are.
        inset = min(max(self._cell * 0.15, self.gap * 0.4), high / 4)
        top = self._middle(places[0]) - self._cell / 2
        left = self.frame.left + self.frame.axis + self.frame.tree + self.frame.bracket
        return Bracket(group, top + inset, top + high - inset, left, self.frame.bracket)

    def _label(self, sheet: Sheet, place: int) -> None:
        """The name of a row, and its image where that is large enough to show something."""
        frame, _layer = self.frame, self.chosen.layer
        size, right = self.sizes.least, frame.matrix - frame.image - self.gap
        words = self.letters.shortened(self.names[place], size, frame.label - 2 * self.gap)
        middle = self._middle(place)
        sheet.text((right, middle - self.letters.line(size) / 2), words, size, "right")
        if frame.image:
            self._image(sheet, self.chosen.channels[place], middle)

    def _image(self, sheet: Sheet, channel: int, middle: float) -> None:
        """The image of a row, crossed out where it was not made."""
        frame, layer, seed = self.frame, self.chosen.layer, self.chosen.shown.seed_of(channel)
        side = min(round(self._cell * 0.92), frame.image - self.gap)
        left, top = frame.matrix - frame.image, round(middle - side / 2)
        made = layer.fate(channel, seed) not in ("failed", "missing")
        pixels = layer.image(channel, seed) if made else None
        sheet.picture((left, top, left + side, top + side), pixels)

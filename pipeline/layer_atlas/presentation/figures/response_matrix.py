"""The responses of every channel of a layer to the image of every target, as a heat map."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.outputs import ResponsesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.brackets import (
    Bracket,
    bracket_room,
    draw_beside,
    lines_needed,
    runs,
    tree_lines,
)
from layer_atlas.presentation.figures.captions import (
    bracket_methods,
    bracketed_caption,
    bracketed_notes,
    layer_name,
    similarity_caption,
)
from layer_atlas.presentation.figures.selection import (
    LayerData,
    RenderedFigure,
    Selection,
    choose_bracketed,
    chosen_layers,
    titles_of,
)
from layer_atlas.presentation.layout.figure import POINTS_PER_INCH, FigureCanvas, PagePart, PageSpec
from layer_atlas.presentation.layout.page import HAIRLINE, PAPER, Lines, Tile
from layer_atlas.presentation.similarity import standardised_columns

_COLOURS = "RdBu_r"
"""From blue below 0 to red above: distinct with any colour vision."""
_UNKNOWN = 0.87
"""Grey level of entries without a value."""
_FULL = 99.0
"""Percentile of the values beyond which colours grow no stronger."""
_TREE = 0.08
"""Fraction of the width for a dendrogram."""
_BAR = 0.09, 1.0
"""Width and height of the colour bar in inches."""
_LARGEST = 5.4
"""Largest side of a matrix in inches, on slides twice that."""
_SEEN = 0.1, 0.5
"""Smallest and largest width in inches of an image beside its row."""
_WHOLE = 0.8
"""Values have whole dots if they use this fraction of the room then."""
_BLACK = "#000000"
"""Black has a contrast of 4.5 with every colour that white has not; the usual ink is paler."""
_IN_CELL = 0.86
"""Largest width of a number, as a fraction of its cell."""
_WIDEST_LABEL = 0.2
"""Largest fraction of the width for labels."""

Matrix = NDArray[np.float64]


def matrix_of(selection: Selection) -> Matrix:
    """Responses (n, n) of channels (columns) to images of channels (rows).

    In standard deviations of each column; NaN where an image was not made.
    """
    rows = [selection.layer.row(channel) for channel in selection.channels]
    responses = selection.data.responses[rows][:, list(selection.channels)]
    made = np.isfinite(responses).all(axis=1)
    matrix = np.full(responses.shape, np.nan)
    if made.any():
        matrix[made] = standardised_columns(responses[made])
    return matrix


def limit_of(matrix: Matrix) -> float:
    """The value at which colours saturate: the 99th percentile, at least 1."""
    known = np.abs(matrix[np.isfinite(matrix)])
    return max(1.0, float(np.percentile(known, _FULL))) if len(known) else 1.0


def coloured(values: Matrix, limit: float) -> NDArray[np.uint8]:
    """Values as colours (..., 3), full at plus and minus a limit."""
    known = np.isfinite(values)
    positions = np.where(known, values, 0.0) / (2 * limit) + 0.5
    colours = matplotlib.colormaps[_COLOURS](positions.clip(0, 1))[..., :3]
    colours = np.where(known[..., None], colours, _UNKNOWN)
    return np.round(255 * colours).astype(np.uint8)


def value_text(value: float) -> str:
    """A value of the matrix as it is written into its cell.

    >>> value_text(-0.04), value_text(-1.26)
    ('0.0', '−1.3')
    """
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def ink_on(colour: NDArray[np.uint8]) -> str:
    """Black or white, whichever has more contrast (WCAG 2.2) with a colour (3,)."""
    linear = np.asarray(colour) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    # The luminance whose contrasts with black and with white are equal.
    return _BLACK if luminance > 0.179 else PAPER


def enlarged(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A matrix of colours (n, n, 3) of that many dots; several values in a dot are averaged."""
    small = Image.Resampling.BOX if side < len(pixels) else Image.Resampling.BILINEAR
    how = small if side % len(pixels) else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((side, side), how))


@dataclass(frozen=True)
class Frame:
    """Widths of the parts of a page in dots, from left to right, and the size of the matrix."""

    width: int
    """Width of the page."""
    top: int
    """Top of the matrix."""
    axis: int
    """Width of the turned name of rows."""
    tree: int
    bracket: int
    label: int
    """Width of the labels of rows; 0: they have no room."""
    image: int
    """Width of an image beside each row, likewise."""
    side: int
    """Side of the matrix."""
    after: int
    """Width of the colour bar and its numbers."""
    foot: int
    """Height of the name of columns."""
    largest_bar: tuple[int, int]
    """Width and largest height of the colour bar."""

    @property
    def bar(self) -> tuple[int, int]:
        """Width and height of the colour bar, which with its unit is no higher than the matrix."""
        wide, high = self.largest_bar
        return wide, max(self.foot, min(high, self.side - 2 * self.foot))

    @property
    def before(self) -> int:
        """Width of what stands before the matrix."""
        return self.axis + self.tree + self.bracket + self.label + self.image

    @property
    def used(self) -> int:
        """Width of all parts."""
        return self.before + self.side + self.after

    @property
    def left(self) -> int:
        """Left edge of the parts, which stand in the middle of the page."""
        return (self.width - self.used) // 2

    @property
    def matrix(self) -> int:
        """Left edge of the matrix."""
        return self.left + self.before

    @property
    def height(self) -> int:
        """Height of all parts."""
        return self.top + max(self.side + self.foot, self.bar[1] + 2 * self.foot)


def frame_of(
    spec: PageSpec, names: Sequence[str], groups: Sequence[str], tree: bool, titled: bool
) -> Frame:
    """Plan the parts of a page, with the largest matrix that has room.

    Args:
        paper: where it is to be.
        names: names of the channels.
        groups: the group of each channel, written at its bracket; empty: no brackets.
        tree: whether there is a tree beside the channels.
        titled: whether there is a title above.
    """
    font, sizes, gap = spec.font, spec.format, spec.gap
    line, count = font.line(sizes.small), len(names)
    bare = Frame(
        width=spec.width,
        top=font.line(sizes.text) + gap if titled else 0,
        axis=line,
        tree=round(_TREE * spec.width) + 2 * gap if tree else 0,
        bracket=0,
        label=0,
        image=0,
        side=0,
        after=3 * gap + spec.dots(_BAR[0]) + round(font.width("−0.0", sizes.small)),
        foot=line + gap,
        largest_bar=(spec.dots(_BAR[0]), spec.dots(_BAR[1])),
    )
    bare = _bracketed(spec, bare, groups)
    widest = min(font.widest(names, sizes.least), _WIDEST_LABEL * spec.width)
    labelled = replace(bare, label=math.ceil(widest) + 2 * gap)
    if _room(spec, labelled) // count < font.line(sizes.least):
        return _filled(spec, bare, count)
    image = _room(spec, labelled) // (count + 1)
    if image < spec.dots(_SEEN[0]):
        return _filled(spec, labelled, count)
    return _filled(spec, replace(labelled, image=min(image, spec.dots(_SEEN[1])) + gap), count)


def _bracketed(spec: PageSpec, frame: Frame, groups: Sequence[str]) -> Frame:
    """Add room for brackets and their names, if channels are in groups."""
    cell = _room(spec, frame) / max(1, len(groups))
    lines = lines_needed(
        spec, (Bracket(name, 0, len(run) * cell, 0, 0) for name, run in runs(groups))
    )
    return replace(frame, bracket=bracket_room(spec, lines) + spec.gap) if lines else frame


def _filled(spec: PageSpec, frame: Frame, count: int) -> Frame:
    """Set the largest side: whole dots per value, unless that wastes much."""
    room = _room(spec, frame)
    whole = room // count * count
    return replace(frame, side=whole if whole >= _WHOLE * room else room)


def _room(spec: PageSpec, frame: Frame) -> int:
    wide = spec.width - frame.before - frame.after
    high = spec.height - frame.top - frame.foot
    return min(wide, high, spec.dots(_LARGEST * spec.format.small / 7))


_OF_CHANNELS = {"channel", "neuron", "logit", "probability", "diversity", "accentuation"}
"""Objectives whose targets are channels of the layer."""

_HANG = 0.05
"""Fraction of the dendrogram's depth for lines to leaves."""

_CAPTION = (
    "Rows are their feature visualizations, columns are the channels in the same order. Values are "
    "standard deviations from the mean of the column: red above it, blue below."
)


def draw_responses(
    atlas: Atlas, settings: ResponsesFigure, part: PagePart | None = None
) -> RenderedFigure:
    """A page per layer.

    Raises:
        UserError: the atlas lacks what the settings name, or images are not of single channels.
    """
    layers = chosen_layers(atlas, settings)
    for layer in layers:
        _check(layer)
    selections = tuple(choose_bracketed(LayerData(layer), settings) for layer in layers)
    caption = " ".join(_caption(settings, selections))
    methods = [*bracket_methods(selections, settings)]
    several = len({selection.layer.model.name for selection in selections}) > 1
    for selection in selections:
        methods += [
            f"In {layer_name(selection, several)}, {sentence}"
            for sentence in similarity_caption(selection)
        ]
    pages = _pages(PageSpec(settings, caption, part), settings, selections)
    return RenderedFigure(pages, caption, tuple(methods), selections)


def _caption(settings: ResponsesFigure, selections: Sequence[Selection]) -> Iterator[str]:
    yield f"Mean responses of {bracketed_caption(selections, settings)}."
    yield _CAPTION
    yield from bracketed_notes(selections, settings)
    if len(selections) == 1:
        yield from (
            f"{sentence[0].upper()}{sentence[1:]}" for sentence in similarity_caption(selections[0])
        )


def _check(layer: Layer) -> None:
    objective = layer.recipe["objective"]["name"]
    if objective not in _OF_CHANNELS:
        raise UserError(
            f"the images of {layer.title} are made for objective={objective}, not for single "
            "channels that could be set against each other; choose other layers by figure.layers."
        )


def _pages(
    spec: PageSpec, settings: ResponsesFigure, selections: Sequence[Selection]
) -> Iterator[FigureCanvas]:
    titles = titles_of(selections)
    for number, (selection, title) in enumerate(zip(selections, titles, strict=True)):
        painter = _Painter(spec, settings, selection, title if len(selections) > 1 else "")
        canvas = spec.canvas(painter.frame.height, number == 0, number == len(selections) - 1)
        painter.paint(canvas)
        yield canvas


class _Painter:
    """Draws a matrix and what stands around it."""

    def __init__(
        self, spec: PageSpec, settings: ResponsesFigure, selection: Selection, title: str
    ) -> None:
        self.spec, self.selection, self.title = spec, selection, title
        self.font, self.sizes, self.gap = spec.font, spec.format, spec.gap
        self.groups, self.numbers = selection.groups, settings.numbers
        self.tree = selection.tree if settings.dendrogram else None
        self.names = [selection.layer.labels[selection.layer.row(c)] for c in selection.channels]
        has_tree = self.tree is not None
        self.frame: Frame = frame_of(spec, self.names, self.groups, has_tree, bool(title))

    @property
    def _cell(self) -> float:
        return self.frame.side / len(self.names)

    def _middle(self, position: int) -> float:
        """Middle of a row, from the top of the page."""
        return self.frame.top + (position + 0.5) * self._cell

    def paint(self, canvas: FigureCanvas) -> None:
        """Paint everything."""
        frame, values = self.frame, matrix_of(self.selection)
        limit = limit_of(values)
        pixels = enlarged(coloured(values, limit), frame.side)
        canvas.image((frame.matrix, frame.top), pixels)
        if self.numbers:
            self._numbers(canvas, values, coloured(values, limit))
        self._titles(canvas)
        self._bar(canvas, limit)
        if self.tree is not None:
            self._draw_tree(canvas)
        brackets = [self._bracket(*run) for run in runs(self.groups)]
        draw_beside(canvas, self.spec, brackets)
        for position in range(len(self.names)) if frame.label else ():
            self._label(canvas, position)

    def _numbers(self, canvas: FigureCanvas, values: Matrix, colours: NDArray[np.uint8]) -> None:
        """Write the values into their cells, in letters of one size, if all have room."""
        texts = {place: value_text(v) for place, v in np.ndenumerate(values) if np.isfinite(v)}
        room, largest, least = _IN_CELL * self._cell, self.sizes.small, self.sizes.least
        size = self.font.size(set(texts.values()), room, largest, least)
        if self.font.widest(set(texts.values()), size) > room or self.font.line(size) > self._cell:
            return
        for (row, column), words in texts.items():
            middle = self.frame.matrix + (column + 0.5) * self._cell
            corner = middle, self._middle(row) - self.font.line(size) / 2
            colour = ink_on(colours[row, column])
            placed = self.font.placed(corner, words, size, self._cell, "center", colour=colour)
            canvas.text(placed)

    def _titles(self, canvas: FigureCanvas) -> None:
        """Write the title of the page and the names of rows and columns."""
        frame, small = self.frame, self.sizes.small
        size, line = self.sizes.text, self.font.line(small)
        corner, room = (frame.left + frame.axis, 0), self.spec.width
        canvas.text(self.font.placed(corner, self.title, size, room, keep="end"))
        below = frame.matrix + frame.side / 2, frame.top + frame.side + self.gap
        # Names keep within the page, or the part of one, however small the matrix is.
        wide = 2 * min(below[0], self.spec.width - below[0])
        size = self.font.size(["response of channel"], wide, small, self.sizes.least)
        canvas.text(self.font.placed(below, "response of channel", size, wide, "center"))
        beside = frame.left + line / 2, frame.top + frame.side / 2
        size = self.font.size(["image of channel"], frame.side, small, self.sizes.least)
        canvas.text(self.font.turned(beside, "image of channel", size, frame.side))

    def _bar(self, canvas: FigureCanvas, limit: float) -> None:
        """Paint the colour bar, with numbers at its ends and its middle."""
        frame, small = self.frame, self.sizes.small
        (wide, high), left = frame.bar, frame.matrix + frame.side + 2 * self.gap
        values = np.linspace(limit, -limit, high)[:, None].repeat(wide, axis=1)
        line = self.font.line(small)
        top = frame.top + line // 2
        canvas.image((left, top), coloured(values, limit))
        for depth, value in ((0.0, limit), (0.5, 0.0), (1.0, -limit)):
            number = f"{value:.1f}".replace("-", "−") if value else "0"
            corner = left + wide + self.gap, top + depth * high - line / 2
            canvas.text(self.font.placed(corner, number, small, frame.after))
        canvas.text(self.font.placed((left, top + high + line / 2), "s.d.", small, frame.after))

    def _draw_tree(self, canvas: FigureCanvas) -> None:
        assert self.tree is not None
        end = self.frame.left + self.frame.axis + self.frame.tree - self.gap
        room = self.frame.tree - 2 * self.gap
        leaves = [self._middle(position) for position in range(len(self.tree.apart))]
        # Where rows have no labels to reach, long lines to the leaves would make a black wall.
        hang = 1.0 if self.frame.label else _HANG
        lines = tree_lines(self.tree, leaves, lambda along, deep: (end - deep * room, along), hang)
        # Thinner where there are many, or they would run together.
        width = min(HAIRLINE, POINTS_PER_INCH * self._cell / self.spec.settings.dpi / 3)
        canvas.lines(Lines(lines, width=width))

    def _bracket(self, group: str, positions: Sequence[int]) -> Bracket:
        high = len(positions) * self._cell
        # Neighbouring brackets do not touch, however narrow rows are.
        inset = min(max(self._cell * 0.15, self.gap * 0.4), high / 4)
        top = self._middle(positions[0]) - self._cell / 2
        left = self.frame.left + self.frame.axis + self.frame.tree + self.frame.bracket
        return Bracket(group, top + inset, top + high - inset, left, self.frame.bracket)

    def _label(self, canvas: FigureCanvas, position: int) -> None:
        """Write the name of a row, and paint its image where that is large enough to be seen."""
        frame, size, middle = self.frame, self.sizes.least, self._middle(position)
        right = frame.matrix - frame.image - self.gap, middle - self.font.line(size) / 2
        room = frame.label - 2 * self.gap
        canvas.text(self.font.placed(right, self.names[position], size, room, "right"))
        if frame.image:
            self._image(canvas, self.selection.channels[position], middle)

    def _image(self, canvas: FigureCanvas, channel: int, middle: float) -> None:
        """Paint the image of a row, or an empty box."""
        frame, layer, seed = self.frame, self.selection.layer, self.selection.data.seed_of(channel)
        side = min(round(self._cell * 0.92), frame.image - self.gap)
        left, top = frame.matrix - frame.image, round(middle - side / 2)
        made = layer.fate(channel, seed) not in ("failed", "missing")
        pixels = layer.pixels(channel, seed) if made else None
        canvas.tile(Tile((left, top, left + side, top + side), pixels))

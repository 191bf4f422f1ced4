"""Composite figures: several figures as the panels of one page, with letters."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from string import ascii_lowercase

from matplotlib.figure import Figure

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import CompositeFigure, FigureSettings
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.image_figure import draw_images
from layer_atlas.presentation.figures.plots import draw_histograms, draw_traces
from layer_atlas.presentation.figures.profile import draw_profile
from layer_atlas.presentation.figures.response_matrix import draw_responses
from layer_atlas.presentation.figures.selection import RenderedFigure
from layer_atlas.presentation.layout.figure import FigureCanvas, PagePart, PageSpec
from layer_atlas.presentation.layout.page import Box

PANELS: dict[str, Callable[..., RenderedFigure]] = {
    "images": draw_images,
    "traces": draw_traces,
    "histograms": draw_histograms,
    "responses": draw_responses,
    "profile": draw_profile,
}
"""Drawing function of each kind of panel."""

_OF_ONE_SIZE = ("traces", "histograms", "profile")
"""Kinds of panels that do not become smaller where there is less room."""
_BETWEEN = 0.16
"""Inches between panels, in both directions."""
_NARROWEST = 0.8
"""Smallest width of a panel in inches."""
_SMALLEST = 0.75
"""Largest fraction of their height by which panels shrink to make room."""
_TRIES = 6
"""Number of heights that are tried until all panels have room on the page."""


def draw_composite(
    atlas: Atlas, settings: CompositeFigure, part: PagePart | None = None
) -> RenderedFigure:
    """Several figures on one page, each under its letter.

    Raises:
        UserError: the atlas lacks what a panel names, or there is no room for all of them.
    """
    panels = [_inheriting(settings, panel) for panel in settings.panels]
    spec = PageSpec(settings, part=part)
    whole = PagePart(Figure(dpi=settings.dpi), spec.format)
    texts = {letter: _draw(atlas, letter, panel, whole) for letter, panel in _lettered(panels)}
    caption = " ".join(f"({letter}) {text.caption}" for letter, text in texts.items())
    methods = [
        sentence.replace("The figure shows", f"Panel ({letter}) shows", 1)
        for letter, text in texts.items()
        for sentence in text.methods
    ]
    pairs = [(letter, one) for letter, text in texts.items() for one in text.selections]
    return RenderedFigure(
        _pages(atlas, replace(spec, caption=caption), panels),
        caption,
        tuple(dict.fromkeys(methods)),
        tuple(selection for _, selection in pairs),
        tuple(letter for letter, _ in pairs),
    )


def _lettered(panels: Sequence[FigureSettings]) -> Iterator[tuple[str, FigureSettings]]:
    return zip(ascii_lowercase, panels, strict=False)


def _inheriting(settings: CompositeFigure, panel: FigureSettings) -> FigureSettings:
    """A panel with what it shares with the whole figure, and what it does not set itself."""
    return replace(
        panel,
        dpi=settings.dpi,
        font=settings.font,
        models=panel.models or settings.models,
        layers=panel.layers or settings.layers,
        names={**(settings.names or {}), **(panel.names or {})} or None,
    )


def _draw(atlas: Atlas, letter: str, panel: FigureSettings, part: PagePart) -> RenderedFigure:
    """Plan a panel; messages name it by its letter."""
    try:
        return PANELS[panel.name](atlas, panel, part)
    except UserError as error:
        raise UserError(f"panel {letter} of the figure: {error}") from error


@dataclass(frozen=True)
class Slot:
    """The part of the layout that a panel takes; lengths in dots."""

    letter: str
    settings: FigureSettings
    rows: range
    """Rows of the layout."""
    left: int
    """Left edge of the letter, from the place where panels begin."""
    gutter: int
    """Width of the column of the letter, to the left of the panel."""
    width: int
    """Width of the panel."""

    @property
    def shrinks(self) -> bool:
        """Whether the panel becomes smaller where there is less room."""
        return self.settings.name not in _OF_ONE_SIZE


@dataclass
class Placed:
    """A panel as it was drawn, and its place."""

    slot: Slot
    canvas: FigureCanvas
    top: int = 0

    @property
    def height(self) -> int:
        """Height of the panel."""
        return self.canvas.size[1]

    @property
    def box(self) -> Box:
        """The box of the panel, without its letter, from the place where panels begin."""
        left = self.slot.left + self.slot.gutter
        return left, self.top, left + self.canvas.size[0], self.top + self.height


def _pages(
    atlas: Atlas, spec: PageSpec, panels: Sequence[FigureSettings]
) -> Iterator[FigureCanvas]:
    figure, placed = placed_panels(atlas, spec, panels)
    height = max(one.box[3] for one in placed)
    page = replace(spec, part=PagePart(figure, spec.format)).canvas(height)
    left, top = page.origin
    for one in placed:
        corner, letter = (one.slot.left, one.top), one.slot.letter
        page.text(spec.font.placed(corner, letter, *_letter(spec), bold=True))
        one.canvas.move((left + one.box[0], top + one.box[1]), page.size)
    yield page


def _letter(spec: PageSpec) -> tuple[float, int]:
    """Size of a letter, and the width of its column."""
    size = spec.format.text
    return size, round(spec.font.width("m", size, bold=True)) + spec.gap


def placed_panels(
    atlas: Atlas, spec: PageSpec, panels: Sequence[FigureSettings]
) -> tuple[Figure, list[Placed]]:
    """Draw all panels on one page, in heights that leave room for all.

    Raises:
        UserError: a panel has no room on one page, or all together have none.
    """
    figure = Figure(dpi=spec.settings.dpi)
    slots = [_slot(spec, *one) for one in _lettered(panels)]
    placed = [Placed(x, _canvas(atlas, spec, figure, x, spec.height)) for x in slots]
    for _ in range(_TRIES):
        column = _stack(placed, spec.dots(_BETWEEN))
        excess = column[-1].box[3] - spec.height
        if excess <= 0:
            return figure, placed
        # Image grids become smaller with their room; plots keep their size.
        smaller = [one for one in column if one.slot.shrinks]
        spare = sum(one.height for one in smaller)
        if excess >= _SMALLEST * spare:
            break
        for one in smaller:
            limit = math.floor(one.height * (1 - excess / spare))
            one.canvas.remove()
            one.canvas = _canvas(atlas, spec, figure, one.slot, limit)
    raise UserError(
        f"the panels are {excess / spec.settings.dpi:.1f} inches higher than the page: show less, "
        "put panels side by side by figure.layout, or take a larger figure.height."
    )


def _stack(placed: Sequence[Placed], between: int) -> list[Placed]:
    """Set the top of every panel; returns those that make the page as high as it is, downwards."""
    above: dict[str, Placed] = {}
    for one in sorted(placed, key=lambda one: one.slot.rows.start):
        before = [other for other in placed if other.slot.rows.stop <= one.slot.rows.start]
        if before:
            above[one.slot.letter] = lowest = max(before, key=lambda other: other.box[3])
            one.top = lowest.box[3] + between
    column = [max(placed, key=lambda one: one.box[3])]
    while column[0].slot.letter in above:
        column.insert(0, above[column[0].slot.letter])
    return column


def _slot(spec: PageSpec, letter: str, panel: FigureSettings) -> Slot:
    """The part of the layout that a panel takes."""
    assert isinstance(spec.settings, CompositeFigure)
    numbers = [number for number, row in enumerate(spec.settings.rows) if letter in row]
    row, (_, gutter) = spec.settings.rows[numbers[0]], _letter(spec)
    between = spec.dots(_BETWEEN)
    unit = (spec.width + between) / len(row)
    left = round(row.index(letter) * unit)
    width = round((row.rindex(letter) + 1) * unit) - between - left - gutter
    if width < spec.dots(_NARROWEST):
        raise UserError(
            f"panel {letter} of figure.layout is narrower than {_NARROWEST} inches: put fewer side "
            "by side, or take a wider figure.width."
        )
    return Slot(letter, panel, range(numbers[0], numbers[-1] + 1), left, gutter, width)


def _canvas(atlas: Atlas, spec: PageSpec, figure: Figure, slot: Slot, limit: int) -> FigureCanvas:
    """Draw a panel, which has to be on one page, no higher than a limit."""
    wide, high = slot.width / spec.settings.dpi, limit / spec.settings.dpi
    # Panels are wider than high where that is possible: `page` is the height of a usual one.
    size = replace(spec.format, width=wide, height=high, page=wide, margin=0.0)
    rendered = _draw(atlas, slot.letter, slot.settings, PagePart(figure, size))
    pages = list(islice(rendered.pages, 2))
    if len(pages) > 1:
        raise UserError(
            f"panel {slot.letter} of the figure has no room on one page: show less, such as "
            "channels: {top: 8} or one layer, or give it a wider part of figure.layout."
        )
    return pages[0]

"""Composite figures: several figures as the panels of one page, with letters."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from string import ascii_lowercase

from matplotlib.figure import Figure

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.figures import CompositeFigure, FigureSettings
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.files import RenderedFigure
from layer_atlas.presentation.figures.image_figure import draw_images
from layer_atlas.presentation.figures.plots import draw_histograms, draw_traces
from layer_atlas.presentation.figures.profile import draw_profile
from layer_atlas.presentation.figures.response_matrix import draw_responses
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
_TRIES = 3
"""Number of heights that are tried until all rows have room on the page."""


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
class Placed:
    """A panel on the page; lengths in dots, from the place where panels begin."""

    letter: str
    canvas: FigureCanvas
    left: int
    """Left edge of its letter."""
    top: int
    gutter: int
    """Width of the column of the letter, to the left of the panel."""

    @property
    def box(self) -> Box:
        """The box of the panel, without its letter."""
        (width, height), left = self.canvas.size, self.left + self.gutter
        return left, self.top, left + width, self.top + height


def _pages(
    atlas: Atlas, spec: PageSpec, panels: Sequence[FigureSettings]
) -> Iterator[FigureCanvas]:
    figure, placed = placed_panels(atlas, spec, panels)
    height = max(one.box[3] for one in placed)
    page = replace(spec, part=PagePart(figure, spec.format)).canvas(height)
    left, top = page.origin
    for one in placed:
        page.text(spec.font.placed((one.left, one.top), one.letter, *_letter(spec), bold=True))
        one.canvas.move((left + one.box[0], top + one.box[1]), page.size)
    yield page


def _letter(spec: PageSpec) -> tuple[float, int]:
    """Size of a letter, and the width of its column."""
    size = spec.format.text
    return size, round(spec.font.width("m", size, bold=True)) + spec.gap


def placed_panels(
    atlas: Atlas, spec: PageSpec, panels: Sequence[FigureSettings]
) -> tuple[Figure, list[Placed]]:
    """Draw all panels on one page, row by row, in the heights that leave room for all.

    Raises:
        UserError: a panel has no room on one page, or all together have none.
    """
    assert isinstance(spec.settings, CompositeFigure)
    rows, between = spec.settings.rows, spec.dots(_BETWEEN)
    room = spec.height - (len(rows) - 1) * between
    limits = [room] * len(rows)
    for _ in range(_TRIES):
        figure, placed = _attempt(atlas, spec, panels, limits)
        heights = [_height(placed, row) for row in rows]
        excess = sum(heights) - room
        if excess <= 0:
            return figure, placed
        # Image grids become smaller with their room; plots keep their size.
        plots = [one for one in placed if panels[ord(one.letter) - ord("a")].name in _OF_ONE_SIZE]
        spare = [high - _height(plots, row) for high, row in zip(heights, rows, strict=True)]
        if sum(spare) <= excess:
            break
        pairs = zip(heights, spare, strict=True)
        limits = [math.floor(high - excess * some / sum(spare)) for high, some in pairs]
    needed, most = (high / spec.settings.dpi for high in (sum(heights), room))
    raise UserError(
        f"the panels are {needed:.1f} inches high, and the page has room for {most:.1f}: "
        "show less, put panels side by side by figure.layout, or take a larger figure.height."
    )


def _height(placed: Sequence[Placed], row: str) -> int:
    """Height of the highest of some panels that are in a row."""
    return max((one.canvas.size[1] for one in placed if one.letter in row), default=0)


def _attempt(
    atlas: Atlas, spec: PageSpec, panels: Sequence[FigureSettings], limits: Sequence[int]
) -> tuple[Figure, list[Placed]]:
    """Draw all panels, the image grids of each row no higher than its limit."""
    assert isinstance(spec.settings, CompositeFigure)
    figure, by_letter = Figure(dpi=spec.settings.dpi), dict(_lettered(panels))
    between, (_, gutter) = spec.dots(_BETWEEN), _letter(spec)
    placed: list[Placed] = []
    top = 0
    for row, limit in zip(spec.settings.rows, limits, strict=True):
        unit = (spec.width + between) / len(row)
        for letter in dict.fromkeys(row):
            left = round(row.index(letter) * unit)
            right = round((row.rindex(letter) + 1) * unit) - between
            high = spec.height if by_letter[letter].name in _OF_ONE_SIZE else limit
            part = _part(spec, figure, right - left - gutter, high)
            canvas = _canvas(atlas, letter, by_letter[letter], part)
            placed.append(Placed(letter, canvas, left, top, gutter))
        top = max(one.box[3] for one in placed) + between
    return figure, placed


def _part(spec: PageSpec, figure: Figure, width: int, height: int) -> PagePart:
    """A part of the page of a width and height in dots."""
    dpi = spec.settings.dpi
    if width < spec.dots(_NARROWEST):
        raise UserError(
            f"a panel of figure.layout is narrower than {_NARROWEST} inches: put fewer side by "
            "side, or take a wider figure.width."
        )
    # Panels are wider than high where that is possible: `page` is the height of a usual one.
    wide = width / dpi
    return PagePart(
        figure, replace(spec.format, width=wide, height=height / dpi, page=wide, margin=0.0)
    )


_NARROWEST = 0.8
"""Smallest width of a panel in inches."""


def _canvas(atlas: Atlas, letter: str, panel: FigureSettings, part: PagePart) -> FigureCanvas:
    """Draw a panel, which has to be on one page."""
    pages = list(islice(_draw(atlas, letter, panel, part).pages, 2))
    if len(pages) > 1:
        raise UserError(
            f"panel {letter} of the figure has no room on one page: show less, such as "
            "channels: {top: 8} or one layer, or give it a wider part of figure.layout."
        )
    return pages[0]

"""What images do to channels, beside what photographs do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.figures import HistogramsFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.base import RenderedFigure
from layer_atlas.presentation.figures.captions.selection import (
    scale_notes,
    selection_methods,
    what_is_shown,
)
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import COLOURS, FAINT, Sheet
from layer_atlas.presentation.figures.plots.panels import Panels, legend, number_text
from layer_atlas.presentation.figures.selection.choose import (
    Selection,
    choose,
    chosen_layers,
    titles_of,
)
from layer_atlas.presentation.figures.selection.layer_data import LayerData

_NAMES = (("photographs", FAINT), ("strongest", COLOURS[1]), ("images", COLOURS[0]))
_GREY = "#c9c9cf"
_BINS = 60
_TICKS = (0, 10, 100, 1000, 10_000, -10, 5, 50, 500, -5, 2, 20, 200, -2)
"""Those that come first are told first, the others where there is room."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Distributions:
    """Responses in standard deviations from a channel's mean over photographs."""

    levels: Numbers
    """(L,) from 0 to 1."""
    dataset_images: Numbers
    """(C, L) quantiles of all photographs."""
    strongest: Numbers
    """(C,) of each channel's strongest photograph."""
    images: Numbers
    """(C,) of each channel's image."""


def draw_histograms(atlas: Atlas, settings: HistogramsFigure) -> RenderedFigure:
    """A panel per layer: all photographs, each channel's strongest one, and its image.

    Raises:
        UserError: what is asked for is not in the atlas, or there are no photographs in it.
    """
    layers = chosen_layers(atlas, settings)
    known = [layer for layer in layers if "dataset/quantile" in layer]
    if not known:
        raise UserError(
            "histograms show images beside photographs, of which the atlas knows none: run with "
            "dataset=folder dataset.path=photographs, or take figure=traces."
        )
    chosen = tuple(choose(LayerData(layer), settings.channels) for layer in known)
    caption = f"{_CAPTION} Shown: {what_is_shown(chosen, settings.channels)}."
    caption = " ".join([caption, *scale_notes(chosen, [settings.channels])])
    methods = " ".join([*selection_methods(chosen, settings.channels), _METHODS])
    paper = PageSpec(settings, caption)
    panels = Panels(paper, titles_of(chosen), "response (s.d. of photographs)", "share")
    return RenderedFigure(_pages(panels, chosen), caption, methods, chosen)


_CAPTION = (
    "Mean responses of channels, in standard deviations from each channel's mean over the "
    "photographs. Grey: all photographs; orange: the photograph that excites the channel most; "
    "blue: its image. The axis is that of the inverse hyperbolic sine, with bins of equal width "
    "along it; shares are of photographs and channels."
)
_METHODS = (
    "The distribution of responses to photographs was interpolated linearly between each channel's "
    "minimum, quantiles and maximum, and averaged over channels."
)


def _pages(panels: Panels, chosen: Sequence[Selection]) -> Iterator[Sheet]:
    found = [distributions_of(one) for one in chosen]
    edges, rest = _edges(found), iter(found)
    for number, (sheet, all_axes) in enumerate(panels.drawn()):
        for axes in all_axes:
            _draw(axes, next(rest), edges)
            _tell_ticks(axes, edges, panels.paper)
        if number == 0:
            legend(all_axes[0], panels.paper, _NAMES)
        yield sheet


def distributions_of(chosen: Selection) -> Distributions:
    """Responses of the chosen channels that vary over photographs."""
    layer = chosen.layer
    rows = [layer.row(channel) for channel in chosen.channels]
    mean, std, low, high = (
        layer[f"dataset/{name}"][rows] for name in ("mean", "std", "min", "max")
    )
    quantiles = np.column_stack([low, layer["dataset/quantile"][rows], high])
    levels = np.concatenate([[0.0], layer["dataset/level"], [1.0]])
    images = chosen.shown.values("activation")[rows]
    varies = std > 0

    def in_deviations(values: Numbers) -> Numbers:
        found: Numbers = (values.T - mean) / np.where(varies, std, 1)
        return found.T[varies]

    return Distributions(
        levels, in_deviations(quantiles), in_deviations(high), in_deviations(images)
    )


def _edges(found: Sequence[Distributions]) -> Numbers:
    """Edges of bins, the same for all panels, where the axis is straight."""
    parts = [
        part for one in found for part in (one.dataset_images.ravel(), one.images, one.strongest)
    ]
    values = np.concatenate(parts)
    values = np.arcsinh(values[np.isfinite(values)])
    if not len(values):
        return np.linspace(-1, 1, _BINS + 1)
    return np.linspace(values.min() - 0.1, values.max() + 0.1, _BINS + 1)


def _draw(axes: Axes, found: Distributions, edges: Numbers) -> None:
    axes.stairs(pooled(found, edges), edges, fill=True, color=_GREY)
    axes.stairs(_shares(found.images, edges), edges, fill=True, color=COLOURS[0], alpha=0.55)
    axes.stairs(_shares(found.images, edges), edges, color=COLOURS[0], linewidth=0.9)
    axes.stairs(_shares(found.strongest, edges), edges, color=COLOURS[1], linewidth=0.9)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)


def _shares(values: Numbers, edges: Numbers) -> Numbers:
    """Share of the finite values in each bin."""
    values = values[np.isfinite(values)]
    counts: Numbers = np.histogram(np.arcsinh(values), edges)[0] / max(len(values), 1)
    return counts


def pooled(found: Distributions, edges: Numbers) -> Numbers:
    """Share of photographs in each bin, mean over channels, interpolated between quantiles."""
    places = np.sinh(edges)
    below = [np.interp(places, line, found.levels, 0.0, 1.0) for line in found.dataset_images]
    return np.diff(np.mean(below, axis=0)) if below else np.zeros(len(edges) - 1)


def _tell_ticks(axes: Axes, edges: Numbers, paper: PageSpec) -> None:
    """Round numbers along the axis, none of which touches another."""
    ticks: list[int] = []
    scale = axes.get_window_extent().width / (edges[-1] - edges[0])
    widths = {t: paper.letters.width(number_text(t), paper.format.small) for t in _TICKS}

    def free(a: int, b: int) -> bool:
        room = abs(np.arcsinh(a) - np.arcsinh(b)) * scale
        return bool(room > (widths[a] + widths[b]) / 2 + 2 * paper.gap)

    for tick in _TICKS:
        inside = edges[0] <= np.arcsinh(tick) <= edges[-1]
        if inside and all(free(tick, other) for other in ticks):
            ticks.append(tick)
    axes.set_xticks(np.arcsinh(ticks), [number_text(tick) for tick in ticks])

"""Ascent curves: how the objective of every image rose, and their median."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.figures import TracesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.base import RenderedFigure
from layer_atlas.presentation.figures.captions.selection import (
    scale_notes,
    selection_methods,
    what_is_shown,
)
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import COLOURS, Sheet
from layer_atlas.presentation.figures.plots.panels import Panels, legend
from layer_atlas.presentation.figures.selection.choose import (
    Selection,
    choose,
    chosen_layers,
    titles_of,
)
from layer_atlas.presentation.figures.selection.layer_data import LayerData
from layer_atlas.presentation.figures.selection.similarity import divided

_INK = 8.0
"""So many faint lines together are as dark as one."""
_FAINT, _BOLD = 0.35, 1.3
"""Widths of a channel's line and of the median's, in points."""

Curves = NDArray[np.float64]
"""(C, T)."""


def draw_traces(atlas: Atlas, settings: TracesFigure) -> RenderedFigure:
    """A panel per layer, with a faint line per channel and the median of all.

    Raises:
        UserError: what is asked for is not in the atlas.
    """
    layers = chosen_layers(atlas, settings)
    chosen = tuple(choose(LayerData(layer), settings.channels) for layer in layers)
    relative = settings.scale == "relative"
    measured = ", as a share of the largest absolute value of each" if relative else ""
    caption = (
        f"Objective of the images during the ascent{measured}: a thin line per channel; thick: "
        f"median. Shown: {what_is_shown(chosen, settings.channels)}."
    )
    caption = " ".join([caption, *scale_notes(chosen, [settings.channels])])
    methods = " ".join(selection_methods(chosen, settings.channels))
    label = "relative objective" if relative else "objective"
    panels = Panels(PageSpec(settings, caption), titles_of(chosen), "step", label)
    return RenderedFigure(_pages(panels, chosen, relative), caption, methods, chosen)


def _pages(panels: Panels, chosen: Sequence[Selection], relative: bool) -> Iterator[Sheet]:
    rest = iter(chosen)
    for number, (sheet, all_axes) in enumerate(panels.drawn()):
        for axes in all_axes:
            _draw(axes, next(rest), relative)
        if number == 0:
            names = list(zip(chosen[0].layer.variants, COLOURS, strict=False))
            legend(all_axes[0], panels.paper, names)
        yield sheet


def _draw(axes: Axes, chosen: Selection, relative: bool) -> None:
    steps = chosen.layer["trace_step"].astype(np.float64)
    for colour, curves in zip(COLOURS, curves_of(chosen, relative), strict=False):
        lines = [np.column_stack([steps, curve]) for curve in curves]
        dark = max(0.03, min(0.6, _INK / max(len(curves), 1)))
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=_FAINT, alpha=dark))
        if lines:
            axes.plot(steps, np.median(curves, axis=0), color=colour, linewidth=_BOLD)
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.margins(y=0.05)
    axes.autoscale_view(scalex=False)


def curves_of(chosen: Selection, relative: bool) -> list[Curves]:
    """The finite traces of the chosen channels, of each variant by itself."""
    layer = chosen.layer
    if "trace" not in layer:
        raise UserError(f"the atlas has no traces of {layer.title}.")
    places = [
        layer.place(channel, chosen.shown.seed_of(channel))[:2] for channel in chosen.channels
    ]
    traces = layer["trace"].astype(np.float64)[tuple(np.asarray(places).T)]
    traces = np.moveaxis(traces, 1, 0) if layer.variants else traces[None]
    return [_scaled(curves[np.isfinite(curves).all(axis=1)], relative) for curves in traces]


def _scaled(curves: Curves, relative: bool) -> Curves:
    if not relative:
        return curves
    return divided(curves, np.abs(curves).max(axis=1, keepdims=True, initial=0))

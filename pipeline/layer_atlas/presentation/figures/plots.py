"""Plots of the numbers of channels, a panel per layer: traces and histograms."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import HistogramsFigure, TracesFigure
from layer_atlas.config.records import listed
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.captions import (
    ordered_caption,
    scale_notes,
    selection_methods,
)
from layer_atlas.presentation.figures.panels import Panels, legend, number_text
from layer_atlas.presentation.figures.selection import (
    LayerData,
    RenderedFigure,
    Selection,
    choose,
    chosen_layers,
    titles_of,
)
from layer_atlas.presentation.layout.figure import (
    COLOURS,
    FigureCanvas,
    PagePart,
    PageSpec,
)
from layer_atlas.presentation.layout.page import FAINT

_INK = 8.0
"""So many faint lines together are as dark as one."""
_FAINT, _BOLD = 0.35, 1.3
"""Widths of a channel's line and of the median's, in points."""

Curves = NDArray[np.float64]
"""(C, T)."""


def draw_traces(
    atlas: Atlas, settings: TracesFigure, part: PagePart | None = None
) -> RenderedFigure:
    """A panel per layer, with a faint line per channel and the median of all.

    Raises:
        UserError: the atlas lacks what the settings name.
    """
    layers = chosen_layers(atlas, settings)
    chosen = [choose(LayerData(layer), settings.channels) for layer in layers]
    relative = settings.scale == "relative"
    selections, excluded = varying(chosen, lambda one: curves_of(one, relative))
    measured = "; values are relative to each channel's largest absolute value" if relative else ""
    caption = (
        f"Objective during the optimization of {ordered_caption(selections, settings.channels)}. "
        f"Thin lines are channels, the thick line is their median{measured}."
    )
    notes = scale_notes(selections, [settings.channels])
    caption = " ".join([caption, *excluded_caption(excluded, "objective is constant"), *notes])
    methods = tuple(selection_methods(selections, settings.channels))
    label = "relative objective" if relative else "objective"
    panels = Panels(PageSpec(settings, caption, part), titles_of(selections), "step", label)
    return RenderedFigure(_trace_pages(panels, selections, relative), caption, methods, selections)


def varying(
    chosen: Sequence[Selection], values: Callable[[Selection], Sequence[NDArray[np.float64]]]
) -> tuple[tuple[Selection, ...], tuple[Selection, ...]]:
    """Split layers into those with something to plot, and those whose panel would be empty or flat.

    Where none has, all are kept: nothing else was asked for.
    """
    flat = [not any(map(_varies, values(selection))) for selection in chosen]
    if all(flat):
        return tuple(chosen), ()
    pairs = list(zip(chosen, flat, strict=True))
    return tuple(s for s, f in pairs if not f), tuple(s for s, f in pairs if f)


def _varies(rows: NDArray[np.float64]) -> bool:
    """Whether any row has two different values."""
    return rows.size > 0 and bool((np.ptp(rows, axis=1) > 0).any())


def excluded_caption(selections: Sequence[Selection], why: str) -> Iterator[str]:
    """A sentence on the layers without a panel, if there are any."""
    if selections:
        names = listed(titles_of(selections))
        yield f"Not shown: {names}, whose {why}."


def _trace_pages(
    panels: Panels, selections: Sequence[Selection], relative: bool
) -> Iterator[FigureCanvas]:
    rest = iter(selections)
    for number, (canvas, all_axes) in enumerate(panels.drawn()):
        for axes in all_axes:
            _draw_traces(axes, next(rest), relative)
        if number == 0:
            names = list(zip(selections[0].layer.variants, COLOURS, strict=False))
            legend(all_axes[0], panels.spec, names)
        yield canvas


def _draw_traces(axes: Axes, selection: Selection, relative: bool) -> None:
    steps = selection.layer["trace_step"].astype(np.float64)
    for colour, curves in zip(COLOURS, curves_of(selection, relative), strict=False):
        lines = [np.column_stack([steps, curve]) for curve in curves]
        dark = max(0.03, min(0.6, _INK / max(len(curves), 1)))
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=_FAINT, alpha=dark))
        if lines:
            axes.plot(steps, np.median(curves, axis=0), color=colour, linewidth=_BOLD)
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.margins(y=0.05)
    axes.autoscale_view(scalex=False)


def curves_of(selection: Selection, relative: bool) -> list[Curves]:
    """The finite traces of the chosen channels, of each variant by itself."""
    layer = selection.layer
    if "trace" not in layer:
        raise UserError(f"the atlas has no traces of {layer.title}.")
    positions = [
        layer.place(channel, selection.data.seed_of(channel))[:2] for channel in selection.channels
    ]
    traces = layer["trace"].astype(np.float64)[tuple(np.asarray(positions).T)]
    traces = np.moveaxis(traces, 1, 0) if layer.variants else traces[None]
    return [_scaled(curves[np.isfinite(curves).all(axis=1)], relative) for curves in traces]


def _scaled(curves: Curves, relative: bool) -> Curves:
    if not relative:
        return curves
    largest = np.abs(curves).max(axis=1, keepdims=True, initial=0)
    scaled: Curves = np.zeros_like(curves)
    np.divide(curves, largest, out=scaled, where=largest > 0)
    return scaled


_NAMES = (
    ("dataset images", FAINT),
    ("strongest", COLOURS[1]),
    ("visualizations", COLOURS[0]),
)
_GREY = "#c9c9cf"
_BINS = 60
_TICKS = (0, 10, 100, 1000, 10_000, -10, 5, 50, 500, -5, 2, 20, 200, -2)
"""Ticks in the order of their importance; later ones stand where there is room."""

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


def draw_histograms(
    atlas: Atlas, settings: HistogramsFigure, part: PagePart | None = None
) -> RenderedFigure:
    """A panel per layer: all dataset images, each channel's strongest one, and its image.

    Raises:
        UserError: the atlas lacks what the settings name, or there are no dataset images in it.
    """
    layers = chosen_layers(atlas, settings)
    known = [layer for layer in layers if "dataset/quantile" in layer]
    if not known:
        raise UserError(
            "histograms compare images with dataset images, of which the atlas has none: run with "
            "dataset=folder dataset.path=photographs, or take figure=traces."
        )
    chosen = [choose(LayerData(layer), settings.channels) for layer in known]
    selections, excluded = varying(chosen, lambda one: [distributions_of(one).dataset_images])
    caption = f"Mean responses of {ordered_caption(selections, settings.channels)}. "
    caption += _HISTOGRAM_CAPTION
    notes = scale_notes(selections, [settings.channels])
    why = "responses to dataset images are constant"
    caption = " ".join([caption, *excluded_caption(excluded, why), *notes])
    methods = (*selection_methods(selections, settings.channels), _HISTOGRAM_METHODS)
    spec = PageSpec(settings, caption, part)
    panels = Panels(spec, titles_of(selections), "response (s.d. of dataset images)", "fraction")
    return RenderedFigure(_histogram_pages(panels, selections), caption, methods, selections)


_HISTOGRAM_CAPTION = (
    "Responses are in standard deviations from each channel's mean over the dataset images. Grey: "
    "all dataset images; orange: each channel's strongest dataset image; blue: its feature "
    "visualization. The horizontal axis is scaled by the inverse hyperbolic sine, with bins of "
    "equal width; fractions are of dataset images (grey) and of channels (orange, blue)."
)
_HISTOGRAM_METHODS = (
    "The distribution of responses to dataset images was interpolated linearly between each "
    "channel's minimum, quantiles and maximum, and averaged over channels."
)


def _histogram_pages(panels: Panels, selections: Sequence[Selection]) -> Iterator[FigureCanvas]:
    distributions = [distributions_of(one) for one in selections]
    edges, rest = _edges(distributions), iter(distributions)
    for number, (canvas, all_axes) in enumerate(panels.drawn()):
        for axes in all_axes:
            _draw_histogram(axes, next(rest), edges)
            _tell_ticks(axes, edges, panels.spec)
        if number == 0:
            legend(all_axes[0], panels.spec, _NAMES)
        yield canvas


def distributions_of(selection: Selection) -> Distributions:
    """Responses of the chosen channels that vary over photographs."""
    layer = selection.layer
    rows = [layer.row(channel) for channel in selection.channels]
    mean, std, low, high = (
        layer[f"dataset/{name}"][rows] for name in ("mean", "std", "min", "max")
    )
    quantiles = np.column_stack([low, layer["dataset/quantile"][rows], high])
    levels = np.concatenate([[0.0], layer["dataset/level"], [1.0]])
    images = selection.data.values("activation")[rows]
    varies = std > 0

    def in_deviations(values: Numbers) -> Numbers:
        deviations: Numbers = (values.T - mean) / np.where(varies, std, 1)
        return deviations.T[varies]

    return Distributions(
        levels, in_deviations(quantiles), in_deviations(high), in_deviations(images)
    )


def _edges(distributions: Sequence[Distributions]) -> Numbers:
    """Edges of bins, the same for all panels, where the axis is straight."""
    parts = [
        part
        for one in distributions
        for part in (one.dataset_images.ravel(), one.images, one.strongest)
    ]
    values = np.concatenate(parts)
    values = np.arcsinh(values[np.isfinite(values)])
    if not len(values):
        return np.linspace(-1, 1, _BINS + 1)
    return np.linspace(values.min() - 0.1, values.max() + 0.1, _BINS + 1)


def _draw_histogram(axes: Axes, distributions: Distributions, edges: Numbers) -> None:
    axes.stairs(pooled(distributions, edges), edges, fill=True, color=_GREY)
    axes.stairs(
        _shares(distributions.images, edges), edges, fill=True, color=COLOURS[0], alpha=0.55
    )
    axes.stairs(_shares(distributions.images, edges), edges, color=COLOURS[0], linewidth=0.9)
    axes.stairs(_shares(distributions.strongest, edges), edges, color=COLOURS[1], linewidth=0.9)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)


def _shares(values: Numbers, edges: Numbers) -> Numbers:
    """Fraction of the finite values in each bin."""
    values = values[np.isfinite(values)]
    counts: Numbers = np.histogram(np.arcsinh(values), edges)[0] / max(len(values), 1)
    return counts


def pooled(distributions: Distributions, edges: Numbers) -> Numbers:
    """Fraction of dataset images per bin, mean over channels, interpolated between quantiles."""
    positions = np.sinh(edges)
    below = [
        np.interp(positions, line, distributions.levels, 0.0, 1.0)
        for line in distributions.dataset_images
    ]
    return np.diff(np.mean(below, axis=0)) if below else np.zeros(len(edges) - 1)


def _tell_ticks(axes: Axes, edges: Numbers, spec: PageSpec) -> None:
    """Round numbers along the axis, none of which touches another."""
    ticks: list[int] = []
    scale = axes.get_window_extent().width / (edges[-1] - edges[0])
    widths = {t: spec.font.width(number_text(t), spec.format.small) for t in _TICKS}

    def free(a: int, b: int) -> bool:
        room = abs(np.arcsinh(a) - np.arcsinh(b)) * scale
        return bool(room > (widths[a] + widths[b]) / 2 + 2 * spec.gap)

    for tick in _TICKS:
        inside = edges[0] <= np.arcsinh(tick) <= edges[-1]
        if inside and all(free(tick, other) for other in ticks):
            ticks.append(tick)
    axes.set_xticks(np.arcsinh(ticks), [number_text(tick) for tick in ticks])

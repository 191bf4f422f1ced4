"""Plots of the numbers of layers: traces, histograms, and profiles across depth."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from layer_atlas.atlas.layers import is_on_own_scale
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.figures import HistogramsFigure, ProfileFigure, TracesFigure
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.figures.captions import (
    SCALES,
    draw_methods,
    ordered_caption,
    scale_notes,
    selection_methods,
    shown_caption,
)
from layer_atlas.presentation.figures.files import RenderedFigure
from layer_atlas.presentation.figures.panels import Panels, legend, number_text
from layer_atlas.presentation.figures.selection import (
    LayerData,
    Selection,
    choose,
    chosen_layers,
    titles_of,
)
from layer_atlas.presentation.layout.figure import (
    COLOURS,
    POINTS_PER_INCH,
    FigureCanvas,
    PageSpec,
)
from layer_atlas.presentation.layout.page import FAINT

_INK = 8.0
"""So many faint lines together are as dark as one."""
_FAINT, _BOLD = 0.35, 1.3
"""Widths of a channel's line and of the median's, in points."""

Curves = NDArray[np.float64]
"""(C, T)."""


def draw_traces(atlas: Atlas, settings: TracesFigure) -> RenderedFigure:
    """A panel per layer, with a faint line per channel and the median of all.

    Raises:
        UserError: the atlas lacks what the settings name.
    """
    layers = chosen_layers(atlas, settings)
    selections = tuple(choose(LayerData(layer), settings.channels) for layer in layers)
    relative = settings.scale == "relative"
    measured = ", as a fraction of the largest absolute value of each" if relative else ""
    caption = (
        f"Objective of the images during the ascent{measured}: a thin line per channel; thick: "
        f"median. Shown: {ordered_caption(selections, settings.channels)}."
    )
    caption = " ".join([caption, *scale_notes(selections, [settings.channels])])
    methods = " ".join(selection_methods(selections, settings.channels))
    label = "relative objective" if relative else "objective"
    panels = Panels(PageSpec(settings, caption), titles_of(selections), "step", label)
    return RenderedFigure(_trace_pages(panels, selections, relative), caption, methods, selections)


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


_NAMES = (("photographs", FAINT), ("strongest", COLOURS[1]), ("images", COLOURS[0]))
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


def draw_histograms(atlas: Atlas, settings: HistogramsFigure) -> RenderedFigure:
    """A panel per layer: all photographs, each channel's strongest one, and its image.

    Raises:
        UserError: the atlas lacks what the settings name, or there are no photographs in it.
    """
    layers = chosen_layers(atlas, settings)
    known = [layer for layer in layers if "dataset/quantile" in layer]
    if not known:
        raise UserError(
            "histograms show images beside photographs, of which the atlas knows none: run with "
            "dataset=folder dataset.path=photographs, or take figure=traces."
        )
    selections = tuple(choose(LayerData(layer), settings.channels) for layer in known)
    caption = f"{_HISTOGRAM_CAPTION} Shown: {ordered_caption(selections, settings.channels)}."
    caption = " ".join([caption, *scale_notes(selections, [settings.channels])])
    methods = " ".join([*selection_methods(selections, settings.channels), _HISTOGRAM_METHODS])
    spec = PageSpec(settings, caption)
    panels = Panels(spec, titles_of(selections), "response (s.d. of photographs)", "share")
    return RenderedFigure(_histogram_pages(panels, selections), caption, methods, selections)


_HISTOGRAM_CAPTION = (
    "Mean responses of channels, in standard deviations from each channel's mean over the "
    "photographs. Grey: all photographs; orange: the photograph that excites the channel most; "
    "blue: its image. The axis is that of the inverse hyperbolic sine, with bins of equal width "
    "along it; shares are of photographs and channels."
)
_HISTOGRAM_METHODS = (
    "The distribution of responses to photographs was interpolated linearly between each channel's "
    "minimum, quantiles and maximum, and averaged over channels."
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


DEAD = "dead"
"""Fraction of channels whose image does nothing: a statistic of a layer, not of an image."""

_USUAL = ("agreement", "recognisability", "selectivity", "high_frequency", "clipped", DEAD)
_SLOT = 0.24
"""Inches that a layer takes at least, if there is room."""
_LONGEST = 1.1
"""Inches that the name of a layer takes at most."""
_LEVELS = (5, 25, 50, 75, 95)
_PROFILE_CAPTION = (
    "Statistics of the channels of each layer, in the order of the network: median (dot), middle "
    "half (thick) and middle 90 % (thin)."
)

Spreads = NDArray[np.float64]
"""(layers, 5): the 5th, 25th, 50th, 75th and 95th percentile."""


def draw_profile(atlas: Atlas, settings: ProfileFigure) -> RenderedFigure:
    """A panel per statistic and model, and in each all of the model's layers.

    Raises:
        UserError: the atlas lacks what the settings name.
    """
    layers = [LayerData(layer) for layer in chosen_layers(atlas, settings)]
    names = _statistics(layers, settings)
    models: dict[str, list[LayerData]] = {}
    for data in layers:
        models.setdefault(data.layer.model.name, []).append(data)
    selections = tuple(Selection(data, tuple(data.layer.channels)) for data in layers)
    caption = _PROFILE_CAPTION
    if DEAD in names:
        caption += f" {DEAD.capitalize()}: fraction of channels that do not respond to their image."
    caption += f" Shown: {shown_caption(selections)}."
    if any(map(is_on_own_scale, names)):
        caption += f" {SCALES}"
    pages = _profile_pages(PageSpec(settings, caption), names, models)
    methods = " ".join([f"Shown: {shown_caption(selections)}.", *draw_methods(selections)])
    return RenderedFigure(pages, caption, methods, selections)


def _statistics(layers: Sequence[LayerData], settings: ProfileFigure) -> list[str]:
    """The statistics requested, or the usual ones that some layer has."""
    known = {name for data in layers for name in data.statistics} | {DEAD}
    for name in settings.statistics or ():
        if name not in known:
            layers[0].values(name)  # raises, with the statistics that there are
    return list(settings.statistics or (name for name in _USUAL if name in known))


def spread(data: LayerData, name: str) -> Spreads:
    """Percentiles (5,) of a statistic; NaN where there is none. Of a share all five are that."""
    if name == DEAD:
        dead = np.isin(data.status, (STATUS["dead"], STATUS["silent"]))
        return np.full(len(_LEVELS), np.mean(dead))
    values = data.values(name) if name in data.statistics else np.zeros(0)
    values = values[np.isfinite(values)]
    return np.percentile(values, _LEVELS) if len(values) else np.full(len(_LEVELS), np.nan)


def _profile_pages(
    spec: PageSpec, names: Sequence[str], models: dict[str, list[LayerData]]
) -> Iterator[FigureCanvas]:
    most = max(map(len, models.values()))
    titles = [
        f"{name.replace('_', ' ')}  ·  {model}" if len(models) > 1 else name.replace("_", " ")
        for name, model in product(names, models)
    ]
    wanted = spec.dots(most * _SLOT * spec.format.small / 7)
    bare = Panels(spec, titles, wanted=min(wanted, spec.width), together=len(models))
    labels = {model: _labels(spec, bare.size[0], layers) for model, layers in models.items()}
    panels = replace(bare, foot=_foot(spec, labels.values()))
    spreads = {
        (name, model): np.stack([spread(data, name) for data in layers])
        for name, (model, layers) in product(names, models.items())
    }
    rest = iter(spreads.items())
    for canvas, all_axes in panels.drawn():
        for axes, ((name, model), values) in zip(all_axes, rest, strict=False):
            named = not panels.shares or axes is all_axes[-1]
            _draw_profile(axes, values, COLOURS[list(models).index(model) % len(COLOURS)], spec)
            axes.set_ylim(*limits_of(np.concatenate([spreads[name, m] for m in models])))
            _name_layers(axes, labels[model], named)
        yield canvas


Labels = tuple[list[int], list[str], bool]
"""Indices of the layers that are named, their names, and whether these are upright."""


def _labels(spec: PageSpec, width: int, layers: Sequence[LayerData]) -> Labels:
    """Names of layers below a panel of some width: all of them, or of every so many one."""
    font, small = spec.font, spec.format.small
    names, slot = [data.layer.name for data in layers], width / len(layers)
    room = spec.dots(_LONGEST)
    if font.widest(names, small) > room:
        names = distinct_names(names)
    if font.widest(names, small) <= 0.9 * slot:
        return list(range(len(names))), names, False
    step = math.ceil(font.line(small) / slot)
    positions = list(range(0, len(names), step))
    return positions, [font.shortened(names[i], small, room, keep="end") for i in positions], True


def _foot(spec: PageSpec, labels: Iterable[Labels]) -> int:
    """Height of the names of layers."""
    line = spec.font.line(spec.format.small)
    tall = [spec.font.widest(names, spec.format.small) for _, names, up in labels if up]
    return max(line, math.ceil(max(tall, default=0)) + spec.gap)


def _name_layers(axes: Axes, labels: Labels, named: bool) -> None:
    positions, names, upright = labels
    axes.set_xticks(positions, names if named else [""] * len(names), rotation=90 if upright else 0)


def distinct_names(names: Sequence[str]) -> list[str]:
    """Dotted names without the parts that all begin and all end with.

    >>> distinct_names(["features.block1.conv", "features.block2.conv"])
    ['block1', 'block2']
    """
    parts = [name.split(".") for name in names]
    short = min(map(len, parts))
    start = next((i for i in range(short - 1) if len({p[i] for p in parts}) > 1), short - 1)
    left = short - start
    end = next((i for i in range(left - 1) if len({p[-1 - i] for p in parts}) > 1), left - 1)
    return [".".join(part[start : len(part) - end]) for part in parts]


def limits_of(values: Spreads) -> tuple[float, float]:
    """Ends of an axis that has room for all values, and for 0 if that is near."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    if low == high:
        return (-0.05, 1.0) if low == 0 else (low - 0.5 * abs(low), high + 0.5 * abs(high))
    spare = 0.08 * (high - low)
    return (-spare if 0 <= low < high / 2 else low - spare), high + spare


def _draw_profile(axes: Axes, values: Spreads, colour: str, spec: PageSpec) -> None:
    """A dot and two bars per layer, and a faint line through the dots."""
    low, lower, middle, upper, high = values.T
    x = np.arange(len(values))
    slot = axes.get_window_extent().width / len(values) * POINTS_PER_INCH / spec.settings.dpi
    dot = min(3.5, slot / 2)
    axes.plot(x, middle, color=colour, linewidth=0.6, alpha=0.5)
    axes.vlines(x, low, high, color=colour, linewidth=0.6)
    axes.vlines(x, lower, upper, color=colour, linewidth=min(3.0, slot / 3))
    axes.plot(
        x, middle, "o", color="white", markeredgecolor=colour, markersize=dot, markeredgewidth=0.8
    )
    axes.set_xlim(-0.5, len(values) - 0.5)

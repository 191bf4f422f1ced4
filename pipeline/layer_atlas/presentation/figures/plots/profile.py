"""Statistics across depth: how those of a layer's channels lie, layer by layer."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Atlas
from layer_atlas.atlas.reader.ranking import is_on_own_scale
from layer_atlas.config.figures import ProfileFigure
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.figures.base import RenderedFigure
from layer_atlas.presentation.figures.captions.selection import SCALES, draw_methods, shown_words
from layer_atlas.presentation.figures.paper.letters import POINTS_PER_INCH
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import COLOURS, Sheet
from layer_atlas.presentation.figures.plots.panels import Panels
from layer_atlas.presentation.figures.selection.choose import Selection, chosen_layers
from layer_atlas.presentation.figures.selection.layer_data import LayerData

DEAD = "dead"
"""Share of channels whose image does nothing: a statistic of a layer, not of an image."""

_USUAL = ("agreement", "selectivity", "high_frequency", "clipped", DEAD)
_SLOT = 0.24
"""Inches that a layer takes at least, if there is room."""
_LONGEST = 1.1
"""Inches that the name of a layer takes at most."""
_LEVELS = (5, 25, 50, 75, 95)
_CAPTION = (
    "Statistics of the channels of each layer, in the order of the network: median (dot), middle "
    "half (thick) and middle 90 % (thin)."
)

Spreads = NDArray[np.float64]
"""(layers, 5): the 5th, 25th, 50th, 75th and 95th percentile."""


def draw_profile(atlas: Atlas, settings: ProfileFigure) -> RenderedFigure:
    """A panel per statistic and model, and in each all of the model's layers.

    Raises:
        UserError: what is asked for is not in the atlas.
    """
    layers = [LayerData(layer) for layer in chosen_layers(atlas, settings)]
    names = _statistics(layers, settings)
    models: dict[str, list[LayerData]] = {}
    for shown in layers:
        models.setdefault(shown.layer.model.name, []).append(shown)
    chosen = tuple(Selection(shown, tuple(shown.layer.channels)) for shown in layers)
    caption = _CAPTION
    if DEAD in names:
        caption += f" {DEAD.capitalize()}: share of channels that do not respond to their image."
    caption += f" Shown: {shown_words(chosen)}."
    if any(map(is_on_own_scale, names)):
        caption += f" {SCALES}"
    pages = _pages(PageSpec(settings, caption), names, models)
    methods = " ".join([f"Shown: {shown_words(chosen)}.", *draw_methods(chosen)])
    return RenderedFigure(pages, caption, methods, chosen)


def _statistics(layers: Sequence[LayerData], settings: ProfileFigure) -> list[str]:
    """Those that are asked for, or of the usual ones those that some layer has."""
    known = {name for shown in layers for name in shown.statistics} | {DEAD}
    for name in settings.statistics or ():
        if name not in known:
            layers[0].values(name)  # says which there are
    return list(settings.statistics or (name for name in _USUAL if name in known))


def spread(shown: LayerData, name: str) -> Spreads:
    """Percentiles (5,) of a statistic; NaN where there is none. Of a share all five are that."""
    if name == DEAD:
        dead = np.isin(shown.status, (STATUS["dead"], STATUS["silent"]))
        return np.full(len(_LEVELS), np.mean(dead))
    values = shown.values(name) if name in shown.statistics else np.zeros(0)
    values = values[np.isfinite(values)]
    return np.percentile(values, _LEVELS) if len(values) else np.full(len(_LEVELS), np.nan)


def _pages(
    paper: PageSpec, names: Sequence[str], models: dict[str, list[LayerData]]
) -> Iterator[Sheet]:
    most = max(map(len, models.values()))
    titles = [
        f"{name.replace('_', ' ')}  ·  {model}" if len(models) > 1 else name.replace("_", " ")
        for name, model in product(names, models)
    ]
    wanted = paper.dots(most * _SLOT * paper.format.small / 7)
    bare = Panels(paper, titles, wanted=min(wanted, paper.width), together=len(models))
    labels = {model: _labels(paper, bare.size[0], layers) for model, layers in models.items()}
    panels = replace(bare, foot=_foot(paper, labels.values()))
    spreads = {
        (name, model): np.stack([spread(shown, name) for shown in layers])
        for name, (model, layers) in product(names, models.items())
    }
    rest = iter(spreads.items())
    for sheet, all_axes in panels.drawn():
        for axes, ((name, model), values) in zip(all_axes, rest, strict=False):
            named = not panels.shares or axes is all_axes[-1]
            _draw(axes, values, COLOURS[list(models).index(model) % len(COLOURS)], paper)
            axes.set_ylim(*limits_of(np.concatenate([spreads[name, m] for m in models])))
            _name_layers(axes, labels[model], named)
        yield sheet


Labels = tuple[list[int], list[str], bool]
"""Which layers are named, how, and whether upright."""


def _labels(paper: PageSpec, width: int, layers: Sequence[LayerData]) -> Labels:
    """Names of layers below a panel of some width: all of them, or of every so many one."""
    letters, small = paper.letters, paper.format.small
    names, slot = [shown.layer.name for shown in layers], width / len(layers)
    room = paper.dots(_LONGEST)
    if letters.widest(names, small) > room:
        names = told_apart(names)
    if letters.widest(names, small) <= 0.9 * slot:
        return list(range(len(names))), names, False
    step = math.ceil(letters.line(small) / slot)
    places = list(range(0, len(names), step))
    return places, [letters.shortened(names[i], small, room, keep="end") for i in places], True


def _foot(paper: PageSpec, labels: Iterable[Labels]) -> int:
    """Height of the names of layers."""
    line = paper.letters.line(paper.format.small)
    tall = [paper.letters.widest(names, paper.format.small) for _, names, up in labels if up]
    return max(line, math.ceil(max(tall, default=0)) + paper.gap)


def _name_layers(axes: Axes, labels: Labels, named: bool) -> None:
    places, names, upright = labels
    axes.set_xticks(places, names if named else [""] * len(names), rotation=90 if upright else 0)


def told_apart(names: Sequence[str]) -> list[str]:
    """Dotted names without the parts that all begin and all end with.

    >>> told_apart(["features.block1.conv", "features.block2.conv"])
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


def _draw(axes: Axes, values: Spreads, colour: str, paper: PageSpec) -> None:
    """A dot and two bars per layer, and a faint line through the dots."""
    low, lower, middle, upper, high = values.T
    x = np.arange(len(values))
    slot = axes.get_window_extent().width / len(values) * POINTS_PER_INCH / paper.settings.dpi
    dot = min(3.5, slot / 2)
    axes.plot(x, middle, color=colour, linewidth=0.6, alpha=0.5)
    axes.vlines(x, low, high, color=colour, linewidth=0.6)
    axes.vlines(x, lower, upper, color=colour, linewidth=min(3.0, slot / 3))
    axes.plot(
        x, middle, "o", color="white", markeredgecolor=colour, markersize=dot, markeredgewidth=0.8
    )
    axes.set_xlim(-0.5, len(values) - 0.5)

"""Profiles across depth: a panel per statistic, with the layers of all models side by side."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from layer_atlas.atlas.layers import is_on_own_scale
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import ProfileFigure
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.figures.captions import SCALES, draw_methods, shown_caption
from layer_atlas.presentation.figures.panels import Panels, legend, number_text
from layer_atlas.presentation.figures.selection import (
    LayerData,
    RenderedFigure,
    Selection,
    chosen_layers,
)
from layer_atlas.presentation.layout.figure import (
    COLOURS,
    POINTS_PER_INCH,
    FigureCanvas,
    PagePart,
    PageSpec,
)

DEAD = "dead"
"""Fraction of channels whose image does nothing: a statistic of a layer, not of an image."""

_USUAL = ("agreement", "recognisability", "selectivity", "high_frequency", "clipped", DEAD)
_SLOT = 0.24
"""Inches that a layer takes at least, if there is room."""
_LONGEST = 1.1
"""Inches that the name of a layer takes at most."""
_LEVELS = (5, 25, 50, 75, 95)
_MARKERS = "os^Dv"
"""Markers of models, beside their colours."""
_DODGE = 0.66
"""Fraction of a layer's slot over which the models that have it are spread."""
_PROFILE_CAPTION = (
    "Markers are medians, thick lines are the middle half and thin lines the middle 90 % of the "
    "channels of a layer; layers are in the order of the network."
)

Spreads = NDArray[np.float64]
"""(layers, 5): the 5th, 25th, 50th, 75th and 95th percentile."""


@dataclass(frozen=True)
class Profile:
    """The layers of several models along one axis; layers of one name share their place."""

    models: dict[str, list[LayerData]]

    @cached_property
    def names(self) -> list[str]:
        """Names along the axis: the layers of the first model, then those that others add."""
        layers = (data.layer.reader_name for some in self.models.values() for data in some)
        return list(dict.fromkeys(layers))

    def places(self, model: str) -> NDArray[np.float64]:
        """Places (layers,) of a model's layers along the axis, beside those of other models."""
        return np.asarray([self._place(model, d.layer.reader_name) for d in self.models[model]])

    def _place(self, model: str, name: str) -> float:
        sharing = [other for other, names in self._names.items() if name in names]
        step = _DODGE / len(sharing)
        return self.names.index(name) + (sharing.index(model) - (len(sharing) - 1) / 2) * step

    @cached_property
    def _names(self) -> dict[str, set[str]]:
        return {m: {data.layer.reader_name for data in some} for m, some in self.models.items()}

    @property
    def crowd(self) -> int:
        """The largest number of models that share a layer."""
        return max(sum(name in some for some in self._names.values()) for name in self.names)


def draw_profile(
    atlas: Atlas, settings: ProfileFigure, part: PagePart | None = None
) -> RenderedFigure:
    """A panel per statistic, with all layers of all models.

    Raises:
        UserError: the atlas lacks what the settings name.
    """
    layers = [LayerData(layer) for layer in chosen_layers(atlas, settings)]
    models: dict[str, list[LayerData]] = {}
    for data in layers:
        models.setdefault(data.layer.model.name, []).append(data)
    spreads = {
        name: {
            model: np.stack([spread(data, name) for data in some]) for model, some in models.items()
        }
        for name in _statistics(layers, settings)
    }
    constant = {n: v for n, each in spreads.items() if (v := constant_value(each)) is not None}
    # A figure of constants alone still shows them: nothing else was asked for.
    constant = constant if len(constant) < len(spreads) else {}
    shown = {name: values for name, values in spreads.items() if name not in constant}
    selections = tuple(Selection(data, tuple(data.layer.channels)) for data in layers)
    caption = " ".join(_profile_caption(list(shown), constant, selections))
    pages = _profile_pages(PageSpec(settings, caption, part), shown, Profile(models))
    methods = (f"The figure shows {shown_caption(selections)}.", *draw_methods(selections))
    return RenderedFigure(pages, caption, methods, selections)


def _profile_caption(
    names: Sequence[str], constant: Mapping[str, float], selections: Sequence[Selection]
) -> Iterator[str]:
    yield f"Statistics of {shown_caption(selections)}."
    yield _PROFILE_CAPTION
    if DEAD in names:
        yield "Dead: fraction of channels that do not respond to their image."
    if len({selection.layer.model.name for selection in selections}) > 1:
        yield "Colours and markers distinguish the networks."
    if constant:
        values = (f"{n.replace('_', ' ')} ({number_text(v)})" for n, v in constant.items())
        yield f"Not shown, because every channel has the same value: {', '.join(values)}."
    if any(map(is_on_own_scale, names)):
        yield SCALES


def constant_value(spreads: Mapping[str, Spreads]) -> float | None:
    """The only value that a statistic has in all layers of all models; None if it varies."""
    values = np.concatenate([each.ravel() for each in spreads.values()])
    values = values[np.isfinite(values)]
    return float(values[0]) if len(values) and np.ptp(values) == 0 else None


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
    spec: PageSpec, spreads: Mapping[str, Mapping[str, Spreads]], profile: Profile
) -> Iterator[FigureCanvas]:
    titles = [name.replace("_", " ") for name in spreads]
    # Models that share layers stand side by side, which takes more room.
    slots = len(profile.names) * (1 + (profile.crowd - 1) / 2)
    wanted = spec.dots(slots * _SLOT * spec.format.small / 7)
    bare = Panels(spec, titles, wanted=min(wanted, spec.width))
    labels = _labels(spec, bare.size[0], profile.names)
    panels = replace(bare, foot=_foot(spec, labels))
    rest = iter(spreads.values())
    for page, (canvas, all_axes) in enumerate(panels.drawn()):
        for axes, values in zip(all_axes, rest, strict=False):
            axes.set_xlim(-0.5, len(profile.names) - 0.5)
            for number, (model, of_model) in enumerate(values.items()):
                _draw_profile(axes, profile, model, of_model, _look(number), spec)
            axes.set_ylim(*limits_of(np.concatenate(list(values.values()))))
            _name_layers(axes, labels, not panels.shares or axes is all_axes[-1])
        if page == 0 and len(profile.models) > 1:
            names = [(name, *_look(number)) for number, name in enumerate(profile.models)]
            legend(all_axes[0], spec, names)
        yield canvas


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of the model of a number; the markers tell more models apart."""
    return COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)]


Labels = tuple[list[int], list[str], bool]
"""Indices of the layers that are named, their names, and whether these are upright."""


def _labels(spec: PageSpec, width: int, names: Sequence[str]) -> Labels:
    """Names of layers below a panel of some width: all of them, or of every so many one."""
    font, small = spec.font, spec.format.small
    slot, room = width / len(names), spec.dots(_LONGEST)
    if font.widest(names, small) > room:
        names = distinct_names(names)
    if font.widest(names, small) <= 0.9 * slot:
        return list(range(len(names))), list(names), False
    step = math.ceil(font.line(small) / slot)
    positions = list(range(0, len(names), step))
    return positions, [font.shortened(names[i], small, room, keep="end") for i in positions], True


def _foot(spec: PageSpec, labels: Labels) -> int:
    """Height of the names of layers."""
    (_, names, upright), line = labels, spec.font.line(spec.format.small)
    tall = spec.font.widest(names, spec.format.small) if upright else 0
    return max(line, math.ceil(tall) + spec.gap)


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


def _draw_profile(
    axes: Axes,
    profile: Profile,
    model: str,
    values: Spreads,
    look: tuple[str, str],
    spec: PageSpec,
) -> None:
    """A marker and two bars per layer of a model, and a faint line through the markers."""
    (colour, marker), (low, lower, middle, upper, high) = look, values.T
    x = profile.places(model)
    slot = axes.get_window_extent().width / len(profile.names) / profile.crowd
    slot *= POINTS_PER_INCH / spec.settings.dpi
    dot = min(3.5, slot / 2)
    axes.plot(x, middle, color=colour, linewidth=0.6, alpha=0.5)
    axes.vlines(x, low, high, color=colour, linewidth=0.6)
    axes.vlines(x, lower, upper, color=colour, linewidth=min(3.0, slot / 3))
    axes.plot(
        x,
        middle,
        marker,
        color="white",
        markeredgecolor=colour,
        markersize=dot,
        markeredgewidth=0.8,
        linestyle="none",
    )

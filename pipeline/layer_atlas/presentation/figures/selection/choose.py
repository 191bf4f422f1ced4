"""Which layers and channels of an atlas a figure shows, in which order, under which brackets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.figures import BracketedFigure, FigureSettings, Group
from layer_atlas.errors import UserError, unknown
from layer_atlas.presentation.figures.selection.layer_data import LayerData
from layer_atlas.presentation.figures.selection.select import ranked, select
from layer_atlas.presentation.figures.selection.similarity import Tree, distances


def chosen_layers(atlas: Atlas, settings: FigureSettings) -> list[Layer]:
    """The layers, in the order of the atlas. Raises UserError for what is not in it."""
    for model in settings.models or ():
        if model not in atlas.models:
            raise unknown("model of the atlas", model, atlas.models)
    layers = [
        x for x in atlas.values() if settings.models is None or x.model.name in settings.models
    ]
    for pattern in settings.layers or ():
        if not any(_matches(layer, pattern) for layer in layers):
            raise unknown("layer of the atlas", pattern, [layer.name for layer in layers])
    patterns = settings.layers or ("*",)
    return [layer for layer in layers if any(_matches(layer, p) for p in patterns)]


def _matches(layer: Layer, pattern: str) -> bool:
    name, _, kind = pattern.partition("@")
    found = fnmatchcase(layer.name, name) or fnmatchcase(layer.title, name)
    return found and fnmatchcase(layer.facts["module_type"], kind or "*")


@dataclass(frozen=True)
class Selection:
    """Channels of a layer, in order."""

    shown: LayerData
    channels: tuple[int, ...]
    tree: Tree | None = None
    """How alike the first of them are, where that is their order; others follow them."""
    groups: tuple[str, ...] = ()
    """What the bracket of each channel says, nothing of those in no group; empty: no brackets."""

    @property
    def layer(self) -> Layer:
        """The layer."""
        return self.shown.layer

    @cached_property
    def members(self) -> dict[str, list[int]]:
        """The channels of each group, in order."""
        found: dict[str, list[int]] = {}
        for channel, group in zip(self.channels, self.groups, strict=False):
            if group:
                found.setdefault(group, []).append(channel)
        return found

    def clustered(self, count: int) -> "Selection":
        """The same in so many groups of similar channels; those beyond the tree are in none."""
        clusters = self.tree.clusters(count) if self.tree else []
        names = [str(number) for number, members in enumerate(clusters, 1) for _ in members]
        names += [""] * (len(self.channels) - len(names))
        return replace(self, groups=tuple(names))


def titles_of(chosen: Sequence[Selection]) -> list[str]:
    """What layers are called: model and layer, or the layer alone if all are of one model."""
    several = len({found.layer.model.name for found in chosen}) > 1
    return [
        f"{found.layer.model.name}  ·  {found.layer.name}" if several else found.layer.name
        for found in chosen
    ]


def choose_bracketed(shown: LayerData, settings: BracketedFigure) -> Selection:
    """The channels of a layer that a figure shows, under the brackets that it asks for.

    Raises:
        UserError: as `choose`, or a channel that is in two groups.
    """
    if settings.groups is not None:
        return _grouped(shown, settings.groups, settings.order)
    found = choose(shown, settings.channels, settings.order)
    return found if settings.clusters is None else found.clustered(settings.clusters)


def _grouped(shown: LayerData, groups: Sequence[Group], order: str) -> Selection:
    """Groups one after the other, each in its order."""
    group_of: dict[int, str] = {}
    for group in groups:
        where = f"figure.groups.{group.name}"
        for channel in choose(shown, group.channels, order, where).channels:
            other = group_of.setdefault(channel, group.name)
            if other != group.name:
                raise _in_two(shown.layer, channel, other, group.name)
    return Selection(shown, tuple(group_of), groups=tuple(group_of.values()))


def _in_two(layer: Layer, channel: int, first: str, second: str) -> UserError:
    label = layer.labels[layer.row(channel)]
    return UserError(
        f"channel {label} of {layer.title} is in two of figure.groups, {first!r} and {second!r}: "
        "choose other channels for one of them."
    )


def choose(
    shown: LayerData, selection: Any, order: str = "chosen", where: str = "figure.channels"
) -> Selection:
    """The channels that a selection names.

    Args:
        shown: their layer.
        selection: as `figure.channels`.
        order: as `figure.order`.
        where: the setting that holds the selection, for messages.
    Raises:
        UserError: a selection that is not understood, a channel or statistic that is not there.
    """
    channels = select(shown, selection, where)
    if order == "similarity":
        return _by_similarity(shown, channels)
    if order == "index":
        channels = sorted(channels)
    elif order != "chosen":
        wanted = set(channels)
        channels = [channel for channel in ranked(shown, order) if channel in wanted]
    return Selection(shown, tuple(channels))


def _by_similarity(shown: LayerData, channels: Sequence[int]) -> Selection:
    rows = [shown.layer.row(channel) for channel in channels]
    live = [row for row in rows if shown.live[row]]
    if not live:
        return Selection(shown, tuple(channels))
    known = Tree(distances(shown.responses[live]))
    ordered = [live[leaf] for leaf in known.order]
    # Those without a response are like no other.
    ordered += [row for row in rows if not shown.live[row]]
    return Selection(shown, tuple(shown.layer.channels[row] for row in ordered), known)

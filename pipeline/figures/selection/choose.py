"""Which layers and channels of an atlas a figure shows, and in which order."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pipeline.errors import UserError, unknown
from pipeline.figures.selection.shown import Shown
from pipeline.figures.selection.similarity import Tree, distances, farthest, medoid
from pipeline.reader import Atlas, Layer
from pipeline.settings.figures import FigureSettings
from pipeline.targets import Targets, select_targets

_FORMS = (
    "give all, a range such as '0:64', a list such as [3,17], {random: 32}, "
    "{top: 16, by: activation}, {bottom: 16, by: agreement}, {diverse: 16} or {representatives: 16}"
)


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
class Chosen:
    """Channels of a layer, in order."""

    shown: Shown
    channels: tuple[int, ...]
    tree: Tree | None = None
    """How alike the first of them are, where that is their order; others follow them."""

    @property
    def layer(self) -> Layer:
        """The layer."""
        return self.shown.layer

    def clusters(self, count: int | None) -> list[str]:
        """The group of each channel, if so many were asked for; those beyond the tree have none."""
        groups = self.tree.clusters(count) if self.tree and count else []
        names = [str(number) for number, members in enumerate(groups, 1) for _ in members]
        return names + [""] * (len(self.channels) - len(names))


def titles_of(chosen: Sequence[Chosen]) -> list[str]:
    """What layers are called: model and layer, or the layer alone if all are of one model."""
    several = len({found.layer.model.name for found in chosen}) > 1
    return [
        f"{found.layer.model.name}  ·  {found.layer.name}" if several else found.layer.name
        for found in chosen
    ]


def choose(shown: Shown, selection: Any, order: str) -> Chosen:
    """The channels that a selection names.

    Args:
        shown: their layer.
        selection: as `figure.channels`.
        order: as `figure.order`.
    Raises:
        UserError: a selection that is not understood, a channel or statistic that is not there.
    """
    channels = _select(shown, selection)
    if order == "similarity":
        return _by_similarity(shown, channels)
    if order == "index":
        channels = sorted(channels)
    elif order != "chosen":
        wanted = set(channels)
        channels = [channel for channel in _ranked(shown, order) if channel in wanted]
    return Chosen(shown, tuple(channels))


def _by_similarity(shown: Shown, channels: Sequence[int]) -> Chosen:
    rows = [shown.layer.row(channel) for channel in channels]
    live = [row for row in rows if shown.live[row]]
    if not live:
        return Chosen(shown, tuple(channels))
    known = Tree(distances(shown.responses[live]))
    ordered = [live[leaf] for leaf in known.order]
    # Those without a response are like no other.
    ordered += [row for row in rows if not shown.live[row]]
    return Chosen(shown, tuple(shown.layer.channels[row] for row in ordered), known)


def _select(shown: Shown, selection: Any) -> list[int]:
    known = shown.layer.channels
    if selection == "all":
        return list(known)
    if isinstance(selection, Mapping):
        return _select_by(shown, dict(selection))
    if isinstance(selection, list | tuple) and any(isinstance(x, list | tuple) for x in selection):
        return _combinations(shown.layer, selection)
    if isinstance(selection, str) and ":" in selection:
        wanted = set(select_targets(selection, Targets((max(known) + 1,)), shown.layer.title))
        return _some([channel for channel in known if channel in wanted], selection, shown.layer)
    return [_channel(shown.layer, item) for item in _listed(selection)]


def _listed(selection: Any) -> Sequence[Any]:
    items = selection if isinstance(selection, list | tuple) else [selection]
    if not items or not all(type(item) in (int, str) for item in items):
        raise UserError(f"figure.channels={selection!r} is not understood; {_FORMS}.")
    return items


def _some(channels: list[int], selection: Any, layer: Layer) -> list[int]:
    if not channels:
        raise UserError(f"figure.channels={selection!r} selects no channel of {layer.title}.")
    return channels


def _channel(layer: Layer, item: int | str) -> int:
    """A channel by its number, or a class by its name, however that is capitalised."""
    names = [name.lower() for name in layer.channel_names]
    if isinstance(item, str):
        if item.lower() not in names:
            known = layer.channel_names
            raise unknown(f"figure.channels of {layer.title}", item, known, f"Or {_FORMS}.")
        return layer.channels[names.index(item.lower())]
    return layer.channels[layer.row(item)]


def _combinations(layer: Layer, selection: Sequence[Any]) -> list[int]:
    """Combinations of channels by those that they consist of."""
    if "part_channel" not in layer:
        raise UserError(f"{layer.title} shows single channels, not combinations {selection!r}.")
    known = dict(zip(map(tuple, layer["part_channel"].tolist()), layer.channels, strict=True))
    for parts in selection:
        if not isinstance(parts, list | tuple) or tuple(parts) not in known:
            raise unknown("combination of channels", parts, ["+".join(map(str, k)) for k in known])
    return [known[tuple(parts)] for parts in selection]


def _select_by(shown: Shown, selection: dict[str, Any]) -> list[int]:
    """A number of channels by what is known of them."""
    ways = {
        "random": lambda n: _random(shown, n, selection.get("seed", 0)),
        "top": lambda n: _ranked(shown, selection.get("by", "activation"))[:n],
        "bottom": lambda n: _ranked(shown, selection.get("by", "activation"), lowest=True)[:n],
        "diverse": lambda n: _diverse(shown, n),
        "representatives": lambda n: _representatives(shown, n),
    }
    way = way_of(selection)
    if way not in ways or not set(selection) - {way} <= _FURTHER.get(way, set()):
        raise UserError(f"figure.channels={selection!r} is not understood; {_FORMS}.")
    count = selection[way]
    if type(count) is not int or count < 1:
        raise UserError(f"figure.channels={selection!r} needs a whole number of 1 or more.")
    return ways[way](count)


_FURTHER = {"random": {"seed"}, "top": {"by"}, "bottom": {"by"}}
"""What may be told besides a number."""


def way_of(selection: Any) -> str:
    """How a selection chooses a number of channels: `top`, `random`; nothing if it lists them."""
    keys = [str(key) for key in selection] if isinstance(selection, Mapping) else []
    return next((key for key in keys if key not in ("by", "seed")), "")


def _random(shown: Shown, count: int, seed: Any) -> list[int]:
    """The channels whose hashes are smallest, ascending: a larger count only adds to a smaller."""

    def place(channel: int) -> bytes:
        return hashlib.sha256(f"{seed}:{channel}".encode()).digest()

    return sorted(sorted(shown.layer.channels, key=place)[:count])


def _ranked(shown: Shown, by: str, lowest: bool = False) -> list[int]:
    """All channels by a statistic, the largest first; those without one last."""
    values = shown.values(by) * (1 if lowest else -1)
    ranked = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
    return [shown.layer.channels[row] for row in ranked]


def _diverse(shown: Shown, count: int) -> list[int]:
    """Channels that are as unlike each other as can be, beginning with the strongest."""
    rows = _live_rows(shown)
    first = int(np.argmax(shown.values("activation")[rows]))
    found = farthest(distances(shown.responses[rows]), count, first)
    return [shown.layer.channels[rows[place]] for place in found]


def _representatives(shown: Shown, count: int) -> list[int]:
    """Of each of so many groups of similar channels the one in its middle."""
    rows = _live_rows(shown)
    tree = Tree(distances(shown.responses[rows]))
    middles = [medoid(tree.apart, members) for members in tree.clusters(count)]
    return [shown.layer.channels[rows[place]] for place in middles]


def _live_rows(shown: Shown) -> list[int]:
    rows: list[int] = np.flatnonzero(shown.live).tolist()
    if not rows:
        raise UserError(f"no channel of {shown.layer.title} responds to its image.")
    return rows

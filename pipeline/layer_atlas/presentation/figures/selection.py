"""Selection of the layers and channels of a figure, with their order and brackets."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.layers import default_ranking
from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.outputs import BracketedFigure, FigureSettings, Group
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import check_names
from layer_atlas.plan.targets import TargetSpace, select_targets
from layer_atlas.presentation.similarity import Tree, distances, farthest, medoid

if TYPE_CHECKING:
    from layer_atlas.presentation.layout.figure import FigureCanvas

_NO_RANKING = ("start", "best_seed")
"""Numbers of random starts and seeds, of which none is more than another."""

_FORMS = (
    "give all, a range such as '0:64', a list such as [3,17] or [golden retriever], "
    "{label: 'curve*'}, {random: 32}, {top: 16}, {bottom: 16, by: agreement}, {diverse: 16} or "
    "{representatives: 16}"
)


@dataclass(frozen=True)
class LayerData:
    """One image per channel of a layer (C channels, K channels of the layer in all)."""

    layer: Layer
    seed: int | None = None
    """Default: for each channel the seed that agrees most with dataset images, or the first."""
    variant: str | None = None
    """Default: the first variant."""

    @cached_property
    def seeds(self) -> list[int]:
        """The seed of each channel."""
        layer = self.layer
        if self.seed is not None:
            if self.seed not in layer.seeds:
                raise unknown(f"seed of {layer.title}", self.seed, map(str, layer.seeds))
            return [self.seed] * len(layer.channels)
        if "best_seed_index" not in layer:
            return [layer.seeds[0]] * len(layer.channels)
        return [layer.seeds[max(0, index)] for index in layer["best_seed_index"].tolist()]

    def seed_of(self, channel: int) -> int:
        """The seed of a channel."""
        return self.seeds[self.layer.row(channel)]

    @cached_property
    def statistics(self) -> list[str]:
        """Names of the statistics with a number for every channel."""
        return [name for name in self.layer.statistics if name not in _NO_RANKING]

    def values(self, name: str) -> NDArray[np.float64]:
        """A statistic (C,) of the images; raises UserError for one that is not there."""
        if name not in self.statistics:
            raise unknown(f"statistic of {self.layer.title}", name, self.statistics)
        return self._of_images(self.layer[name]).astype(np.float64)

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """Status of each job (C,), by the codes of `STATUS`."""
        status: NDArray[np.uint8] = self.layer.status[self._rows, self._seed_indices]
        return status

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Mask (C,) of the channels that respond to their image."""
        live: NDArray[np.bool_] = self.status == STATUS["ok"]
        return live & np.isfinite(self.responses).all(axis=1)

    @cached_property
    def responses(self) -> NDArray[np.float64]:
        """Responses (C, K) of all channels of the layer to each image."""
        if "response" not in self.layer:
            raise UserError(f"the atlas has no responses of {self.layer.title}.")
        stored = self.layer.dataset("response")
        responses = np.full((len(self.layer.channels), stored.shape[-1]), np.nan)
        # One seed in memory at a time.
        for seed in np.unique(self._seed_indices):
            rows, block = self._seed_indices == seed, stored[:, int(seed)]
            responses[rows] = (block[:, self._variant_index] if self.layer.variants else block)[
                rows
            ]
        return responses

    @property
    def _rows(self) -> NDArray[np.intp]:
        return np.arange(len(self.layer.channels))

    @cached_property
    def _seed_indices(self) -> NDArray[np.intp]:
        index_of = {seed: index for index, seed in enumerate(self.layer.seeds)}
        return np.asarray([index_of[seed] for seed in self.seeds], np.intp)

    @property
    def _variant_index(self) -> int:
        if self.variant is None:
            return 0
        return self.layer.place(self.layer.channels[0], variant=self.variant)[-1]

    def _of_images(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The entries of an array for the images shown."""
        if array.ndim == 1:
            return array
        chosen = array[self._rows, self._seed_indices]
        return chosen[:, self._variant_index] if array.ndim == 3 else chosen


# --- channels -----------------------------------------------------------------------------------


def select(data: LayerData, asked: Any, where: str = "figure.channels") -> list[int]:
    """The channels of a layer that a selection names.

    Args:
        shown: the layer.
        asked: the value of `figure.channels`, or another of its kind.
        where: the setting that holds it, for messages.
    Raises:
        UserError: a selection that is not understood, a channel or statistic that is not there.
    """
    return _Selection(data, asked, where).channels()


def way_of(asked: Any) -> str:
    """Key by which a selection chooses channels, such as `top`; empty if it lists them."""
    keys = [str(key) for key in asked] if isinstance(asked, Mapping) else []
    return next((key for key in keys if key not in ("by", "seed")), "")


def ranked(data: LayerData, by: str, lowest: bool = False) -> list[int]:
    """All channels by a statistic, the largest first; those without one last."""
    values = data.values(by) * (1 if lowest else -1)
    rows = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
    return [data.layer.channels[row] for row in rows]


def ranking_of(data: LayerData, asked: Any) -> str:
    """The statistic that a selection ranks by, by default one that compares channels."""
    by = asked.get("by") if isinstance(asked, Mapping) else None
    return str(by or default_ranking(data.layer))


@dataclass(frozen=True)
class _Selection:
    data: LayerData
    asked: Any
    where: str

    @property
    def layer(self) -> Layer:
        return self.data.layer

    def channels(self) -> list[int]:
        """The channels requested, in whichever form."""
        asked = self.asked
        if asked == "all":
            return list(self.layer.channels)
        if isinstance(asked, Mapping):
            return self._by_what_is_known(dict(asked))
        if isinstance(asked, list | tuple) and any(isinstance(x, list | tuple) for x in asked):
            return self._combinations(asked)
        if isinstance(asked, str) and ":" in asked:
            return self._range(asked)
        return [channel for item in self._listed() for channel in self._called(item)]

    def _not_understood(self) -> UserError:
        return UserError(f"{self.where}={self.asked!r} is not understood; {_FORMS}.")

    def _listed(self) -> Sequence[Any]:
        items = self.asked if isinstance(self.asked, list | tuple) else [self.asked]
        if not items or not all(type(item) in (int, str) for item in items):
            raise self._not_understood()
        return items

    def _range(self, asked: str) -> list[int]:
        """The channels of a range that the atlas has."""
        known, title = self.layer.channels, self.layer.title
        try:
            wanted = set(select_targets(asked, TargetSpace((max(known) + 1,)), title))
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error
        channels = [channel for channel in known if channel in wanted]
        if not channels:
            raise UserError(f"{self.where}={asked!r} selects no channel of {title}.")
        return channels

    def _called(self, item: int | str) -> list[int]:
        """A channel by its number, or those of a class name or label, however capitalised."""
        if isinstance(item, int):
            return [self.layer.channels[self.layer.row(item)]]
        return self._labelled(lambda text: text.lower() == item.lower(), item)

    def _labelled(self, fits: Callable[[str], bool], asked: str) -> list[int]:
        """The channels of which a class name or a label fits, in the order of the atlas."""
        layer, texts = self.layer, [self.layer.given_labels, self.layer.channel_names]
        found = {
            channel
            for column in texts
            for channel, text in zip(layer.channels, column, strict=False)
            if text and fits(text)
        }
        if not found:
            known = dict.fromkeys(text for column in texts for text in column if text)
            raise unknown(f"{self.where} of {layer.title}", asked, known, f"Or {_FORMS}.")
        return [channel for channel in layer.channels if channel in found]

    def _combinations(self, asked: Sequence[Any]) -> list[int]:
        """Combinations of channels by those that they consist of."""
        layer = self.layer
        if "part_channel" not in layer:
            raise UserError(f"{layer.title} shows single channels, not combinations {asked!r}.")
        parts_of = map(tuple, layer["part_channel"].tolist())
        known = dict(zip(parts_of, layer.channels, strict=True))
        for parts in asked:
            if not isinstance(parts, list | tuple) or tuple(parts) not in known:
                choices = ["+".join(map(str, k)) for k in known]
                raise unknown("combination of channels", parts, choices)
        return [known[tuple(parts)] for parts in asked]

    def _by_what_is_known(self, asked: dict[str, Any]) -> list[int]:
        """A number of channels by their statistics or similarity, or those of a label."""
        if set(asked) == {"label"} and isinstance(asked["label"], str):
            pattern = asked["label"].lower()
            return self._labelled(lambda text: fnmatchcase(text.lower(), pattern), asked["label"])
        way, by = way_of(asked), ranking_of(self.data, asked)
        ways: dict[str, Callable[[int], list[int]]] = {
            "random": lambda n: _random(self.layer, n, asked.get("seed", 0)),
            "top": lambda n: ranked(self.data, by)[:n],
            "bottom": lambda n: ranked(self.data, by, lowest=True)[:n],
            "diverse": lambda n: _diverse(self.data, n),
            "representatives": lambda n: _representatives(self.data, n),
        }
        if way not in ways or not set(asked) - {way} <= _FURTHER.get(way, set()):
            raise self._not_understood()
        count = asked[way]
        if type(count) is not int or count < 1:
            raise UserError(f"{self.where}={asked!r} needs a whole number of 1 or more.")
        return ways[way](count)


_FURTHER = {"random": {"seed"}, "top": {"by"}, "bottom": {"by"}}
"""Further keys that a selection may have."""


def _random(layer: Layer, count: int, seed: Any) -> list[int]:
    """The channels whose hashes are smallest, ascending: a larger count only adds to a smaller."""

    def digest(channel: int) -> bytes:
        return hashlib.sha256(f"{seed}:{channel}".encode()).digest()

    return sorted(sorted(layer.channels, key=digest)[:count])


def _diverse(data: LayerData, count: int) -> list[int]:
    """Channels that are as dissimilar as possible, beginning with the one that ranks first."""
    rows = _live_rows(data)
    values = data.values(default_ranking(data.layer))[rows]
    first = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
    members = farthest(distances(data.responses[rows]), count, first)
    return [data.layer.channels[rows[member]] for member in members]


def _representatives(data: LayerData, count: int) -> list[int]:
    """The medoid of each of so many groups of similar channels."""
    rows = _live_rows(data)
    tree = Tree(distances(data.responses[rows]))
    middles = [medoid(tree.apart, members) for members in tree.clusters(count)]
    return [data.layer.channels[rows[middle]] for middle in middles]


def _live_rows(data: LayerData) -> list[int]:
    rows: list[int] = np.flatnonzero(data.live).tolist()
    if not rows:
        raise UserError(f"no channel of {data.layer.title} responds to its image.")
    return rows


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
    chosen = [layer for layer in layers if any(_matches(layer, p) for p in patterns)]
    return [layer.called(settings.names) for layer in _checked(atlas, settings, chosen)]


def _checked(atlas: Atlas, settings: FigureSettings, chosen: list[Layer]) -> list[Layer]:
    """The chosen layers, if no two of a model have one name, and every name is of a layer."""
    check_names(settings.names or (), atlas.target_spaces, lambda _: "figure.names")
    names = [(x.model.name, x.called(settings.names).reader_name) for x in chosen]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"figure.names calls two layers of {twice[0]} {twice[1]!r}.")
    return chosen


def _matches(layer: Layer, pattern: str) -> bool:
    name, _, kind = pattern.partition("@")
    named = fnmatchcase(layer.name, name) or fnmatchcase(layer.title, name)
    return named and fnmatchcase(layer.facts["module_type"], kind or "*")


@dataclass(frozen=True)
class Selection:
    """Channels of a layer, in order."""

    data: LayerData
    channels: tuple[int, ...]
    tree: Tree | None = None
    """Clustering of the first channels, where similarity is their order; others follow."""
    groups: tuple[str, ...] = ()
    """Name of each channel's bracket, empty without a group; no names: no brackets."""

    @property
    def layer(self) -> Layer:
        """The layer."""
        return self.data.layer

    @cached_property
    def members(self) -> dict[str, list[int]]:
        """The channels of each group, in order."""
        members: dict[str, list[int]] = {}
        for channel, group in zip(self.channels, self.groups, strict=False):
            if group:
                members.setdefault(group, []).append(channel)
        return members

    def clustered(self, count: int) -> "Selection":
        """Group the channels into so many clusters; those beyond the tree are in none."""
        clusters = self.tree.clusters(count) if self.tree else []
        names = [str(number) for number, members in enumerate(clusters, 1) for _ in members]
        names += [""] * (len(self.channels) - len(names))
        return replace(self, groups=tuple(names))


@dataclass(frozen=True)
class RenderedFigure:
    """A figure whose pages are drawn one by one, as they are read."""

    pages: "Iterator[FigureCanvas]"
    caption: str
    """Caption in a few sentences."""
    methods: tuple[str, ...]
    """Sentences on how targets were chosen and ordered and numbers computed."""
    selections: tuple[Selection, ...]
    """The layers and their channels."""
    letters: tuple[str, ...] = ()
    """Letter of the panel of each selection; none: the figure has no panels."""


def titles_of(selections: Sequence[Selection]) -> list[str]:
    """Titles of layers: model and layer, or the layer alone if all are of one model."""
    several = len({one.layer.model.name for one in selections}) > 1
    return [
        f"{one.layer.model.name}  ·  {one.layer.reader_name}" if several else one.layer.reader_name
        for one in selections
    ]


def choose_bracketed(data: LayerData, settings: BracketedFigure) -> Selection:
    """The channels of a layer that a figure shows, under the brackets that it asks for.

    Raises:
        UserError: as `choose`, or a channel that is in two groups.
    """
    if settings.groups is not None:
        return _grouped(data, settings.groups, settings.order)
    selection = choose(data, settings.channels, settings.order)
    if settings.clusters is None:
        return selection
    return selection.clustered(settings.clusters)


def _grouped(data: LayerData, groups: Sequence[Group], order: str) -> Selection:
    """Select groups one after the other, each in its order."""
    group_of: dict[int, str] = {}
    for group in groups:
        where = f"figure.groups.{group.name}"
        for channel in choose(data, group.channels, order, where).channels:
            other = group_of.setdefault(channel, group.name)
            if other != group.name:
                raise _in_two(data.layer, channel, other, group.name)
    return Selection(data, tuple(group_of), groups=tuple(group_of.values()))


def _in_two(layer: Layer, channel: int, first: str, second: str) -> UserError:
    label = layer.labels[layer.row(channel)]
    return UserError(
        f"channel {label} of {layer.title} is in two of figure.groups, {first!r} and {second!r}: "
        "choose other channels for one of them."
    )


def choose(
    data: LayerData, selection: Any, order: str = "chosen", where: str = "figure.channels"
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
    channels = select(data, selection, where)
    if order == "similarity":
        return _by_similarity(data, channels)
    if order == "index":
        channels = sorted(channels)
    elif order != "chosen":
        wanted = set(channels)
        channels = [channel for channel in ranked(data, order) if channel in wanted]
    return Selection(data, tuple(channels))


def _by_similarity(data: LayerData, channels: Sequence[int]) -> Selection:
    rows = [data.layer.row(channel) for channel in channels]
    live = [row for row in rows if data.live[row]]
    if not live:
        return Selection(data, tuple(channels))
    known = Tree(distances(data.responses[live]))
    ordered = [live[leaf] for leaf in known.order]
    # Channels without a response are similar to none.
    ordered += [row for row in rows if not data.live[row]]
    return Selection(data, tuple(data.layer.channels[row] for row in ordered), known)

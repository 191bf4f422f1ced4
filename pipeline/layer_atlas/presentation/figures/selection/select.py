"""Which channels of a layer a selection names: by number, by class, or by what is known of them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layer_atlas.atlas.reader import Layer
from layer_atlas.atlas.reader.ranking import default_ranking
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.targets import TargetSpace, select_targets
from layer_atlas.presentation.figures.selection.layer_data import LayerData
from layer_atlas.presentation.figures.selection.similarity import Tree, distances, farthest, medoid

_FORMS = (
    "give all, a range such as '0:64', a list such as [3,17], {random: 32}, "
    "{top: 16}, {bottom: 16, by: agreement}, {diverse: 16} or {representatives: 16}"
)


def select(shown: LayerData, asked: Any, where: str = "figure.channels") -> list[int]:
    """The channels of a layer that a selection names.

    Args:
        shown: the layer.
        asked: the value of `figure.channels`, or another of its kind.
        where: the setting that holds it, for messages.
    Raises:
        UserError: a selection that is not understood, a channel or statistic that is not there.
    """
    return _Selection(shown, asked, where).channels()


def way_of(asked: Any) -> str:
    """How a selection chooses a number of channels: `top`, `random`; nothing if it lists them."""
    keys = [str(key) for key in asked] if isinstance(asked, Mapping) else []
    return next((key for key in keys if key not in ("by", "seed")), "")


def ranked(shown: LayerData, by: str, lowest: bool = False) -> list[int]:
    """All channels by a statistic, the largest first; those without one last."""
    values = shown.values(by) * (1 if lowest else -1)
    places = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
    return [shown.layer.channels[row] for row in places]


def ranking_of(shown: LayerData, asked: Any) -> str:
    """The statistic that a selection ranks by: the one asked for, or one that compares channels."""
    by = asked.get("by") if isinstance(asked, Mapping) else None
    return str(by or default_ranking(shown.statistics))


@dataclass(frozen=True)
class _Selection:
    shown: LayerData
    asked: Any
    where: str

    @property
    def layer(self) -> Layer:
        return self.shown.layer

    def channels(self) -> list[int]:
        """What is asked for, in whichever form."""
        asked = self.asked
        if asked == "all":
            return list(self.layer.channels)
        if isinstance(asked, Mapping):
            return self._by_what_is_known(dict(asked))
        if isinstance(asked, list | tuple) and any(isinstance(x, list | tuple) for x in asked):
            return self._combinations(asked)
        if isinstance(asked, str) and ":" in asked:
            return self._range(asked)
        return [self._channel(item) for item in self._listed()]

    def _not_understood(self) -> UserError:
        return UserError(f"{self.where}={self.asked!r} is not understood; {_FORMS}.")

    def _listed(self) -> Sequence[Any]:
        items = self.asked if isinstance(self.asked, list | tuple) else [self.asked]
        if not items or not all(type(item) in (int, str) for item in items):
            raise self._not_understood()
        return items

    def _range(self, asked: str) -> list[int]:
        """Those channels of a range that there are."""
        known, title = self.layer.channels, self.layer.title
        try:
            wanted = set(select_targets(asked, TargetSpace((max(known) + 1,)), title))
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error
        found = [channel for channel in known if channel in wanted]
        if not found:
            raise UserError(f"{self.where}={asked!r} selects no channel of {title}.")
        return found

    def _channel(self, item: int | str) -> int:
        """A channel by its number, or a class by its name, however that is capitalised."""
        layer, names = self.layer, [name.lower() for name in self.layer.channel_names]
        if isinstance(item, str):
            if item.lower() not in names:
                known = layer.channel_names
                raise unknown(f"{self.where} of {layer.title}", item, known, f"Or {_FORMS}.")
            return layer.channels[names.index(item.lower())]
        return layer.channels[layer.row(item)]

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
        """A number of channels by what is known of them."""
        way, by = way_of(asked), ranking_of(self.shown, asked)
        ways: dict[str, Callable[[int], list[int]]] = {
            "random": lambda n: _random(self.layer, n, asked.get("seed", 0)),
            "top": lambda n: ranked(self.shown, by)[:n],
            "bottom": lambda n: ranked(self.shown, by, lowest=True)[:n],
            "diverse": lambda n: _diverse(self.shown, n),
            "representatives": lambda n: _representatives(self.shown, n),
        }
        if way not in ways or not set(asked) - {way} <= _FURTHER.get(way, set()):
            raise self._not_understood()
        count = asked[way]
        if type(count) is not int or count < 1:
            raise UserError(f"{self.where}={asked!r} needs a whole number of 1 or more.")
        return ways[way](count)


_FURTHER = {"random": {"seed"}, "top": {"by"}, "bottom": {"by"}}
"""What may be told besides a number."""


def _random(layer: Layer, count: int, seed: Any) -> list[int]:
    """The channels whose hashes are smallest, ascending: a larger count only adds to a smaller."""

    def place(channel: int) -> bytes:
        return hashlib.sha256(f"{seed}:{channel}".encode()).digest()

    return sorted(sorted(layer.channels, key=place)[:count])


def _diverse(shown: LayerData, count: int) -> list[int]:
    """Channels that are as unlike each other as can be, beginning with the one that ranks first."""
    rows = _live_rows(shown)
    values = shown.values(default_ranking(shown.statistics))[rows]
    first = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
    found = farthest(distances(shown.responses[rows]), count, first)
    return [shown.layer.channels[rows[place]] for place in found]


def _representatives(shown: LayerData, count: int) -> list[int]:
    """Of each of so many groups of similar channels the one in its middle."""
    rows = _live_rows(shown)
    tree = Tree(distances(shown.responses[rows]))
    middles = [medoid(tree.apart, members) for members in tree.clusters(count)]
    return [shown.layer.channels[rows[place]] for place in middles]


def _live_rows(shown: LayerData) -> list[int]:
    rows: list[int] = np.flatnonzero(shown.live).tolist()
    if not rows:
        raise UserError(f"no channel of {shown.layer.title} responds to its image.")
    return rows

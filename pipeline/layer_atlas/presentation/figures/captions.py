"""Captions of figures: what is shown, and how it was chosen and ordered.

The atlas and the settings decide every sentence.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from layer_atlas.atlas.layers import is_on_own_scale
from layer_atlas.atlas.reader import Model
from layer_atlas.config.outputs import BracketedFigure, Group
from layer_atlas.config.records import listed
from layer_atlas.plan.jobs import UNTRAINED
from layer_atlas.plan.targets import DRAW, counted, joint_words, plural
from layer_atlas.presentation.figures.selection import Selection, ranking_of, way_of
from layer_atlas.presentation.figures.works import architecture_title
from layer_atlas.presentation.similarity import closest, distances, loneliest

SIMILARITY = (
    "The similarity of two channels is the cosine between the responses of the whole layer to "
    "their images, each channel's responses standardized."
)
SCALES = "Activations of different channels are on different scales."
BY_SIMILARITY = {"diverse", "representatives"}
"""Selections that compare channels with each other."""

_MOST_LAYERS = 6
"""Layers that are named one by one."""
_NAMED = 3
"""Pairs and channels that are named."""
_FEWEST = 4
"""Channels from which on the most and the least similar are named."""


def network_name(model: Model) -> str:
    """Name a network for readers: by its architecture, as far as it is known, and its label.

    Random weights are always mentioned, which no picture may conceal.
    """
    source = str(model.facts.get("source", ""))
    title = architecture_title(source) if source.startswith("torchvision/") else model.name
    label = "" if model.name in (title, source.rpartition("/")[2]) else model.name
    notes = [label, "random weights" if model.weights == UNTRAINED else ""]
    described = ", ".join(filter(None, notes))
    return f"{title} ({described})" if described else title


def layer_name(selection: Selection, several: bool = False) -> str:
    """Name a layer for readers, with the label of its network where there are several."""
    layer = selection.layer
    # A name that a user gave may be `layer six`: it stands by itself.
    name = layer.given_name or f"layer {layer.name}"
    return f"{name} of {layer.model.name}" if several else name


def shown_caption(selections: Sequence[Selection], asked: Any = "all") -> str:
    """Describe what is shown, and how the sweep chose the channels to choose from.

    `the 16 channels with the largest agreement among 24 of 512 channels of layer conv1 of demo
    drawn at random`, `all 144 channels of 6 layers of demo`.
    """
    if len(selections) == 1:
        return _of_one_layer(selections[0], asked)
    way, channels = way_caption(selections, asked), _channels_of_layers(selections)
    sampling = sampling_caption(selections)
    if way:
        return f"{channels}, {way} in each layer, out of {sampling}"
    if not all(_is_whole(selection) for selection in selections):
        return f"{channels}, out of {sampling}"
    # Layers that are shown as a whole need no second sentence on what they were chosen from.
    return f"all {channels}" if sampling.startswith("all ") else f"{channels}: {sampling}"


def _of_one_layer(selection: Selection, asked: Any) -> str:
    layer = selection.layer
    place = f"{layer_name(selection)} of {network_name(layer.model)}"
    if layer.sampling.noun == "whole layer":
        return f"{place} as a whole"
    sampled = layer.sampling.words(place)
    if not way_of(asked) and _is_whole(selection):
        return sampled
    noun, n = layer.sampling.noun, len(selection.channels)
    some = counted(n, noun)
    the = f"the {some}" if n > 1 else f"the {noun}"
    words = {
        "label": f"{the} labelled {_label(asked)!r} among",
        "random": f"{some} drawn at random (seed {_seed(asked)}) from",
        "top": f"{the} with the largest {_by([selection], asked)} among",
        "bottom": f"{the} with the smallest {_by([selection], asked)} among",
        "diverse": f"the {n} most dissimilar {plural(noun)} among",
        "representatives": f"{some}, each the medoid of a cluster of similar {plural(noun)}, from",
        "": f"{some} in groups from" if asked == "all" else f"{some} chosen by hand from",
    }
    return f"{words[way_of(asked)]} {sampled}"


def _is_whole(selection: Selection) -> bool:
    """Whether all targets that the atlas has of a layer are shown."""
    return set(selection.channels) == set(selection.layer.channels)


def noun_of(selections: Sequence[Selection]) -> str:
    """The noun for targets of all the layers."""
    nouns = {selection.layer.sampling.noun for selection in selections}
    return nouns.pop() if len(nouns) == 1 else "target"


def _channels_of_layers(selections: Sequence[Selection]) -> str:
    """Count channels by layer: `24 channels of demo (12 of layer conv1, 12 of layer conv2)`."""
    noun = noun_of(selections)
    channels = counted(sum(len(selection.channels) for selection in selections), noun)
    models = {s.layer.model.name: network_name(s.layer.model) for s in selections}
    networks = listed(models.values())
    of_models = f"{channels} of {networks}"
    names = list(dict.fromkeys(selection.layer.reader_name for selection in selections))
    counts = {len(selection.channels) for selection in selections}
    if len(names) > _MOST_LAYERS:
        return f"{channels} of {len(selections)} layers of {networks}"
    if len(counts) == 1 and len(selections) == len(names) * len(models):
        where = (
            f"each of the layers {listed(names)}" if len(names) > 1 else layer_name(selections[0])
        )
        each = " in each network" if len(models) > 1 else ""
        return f"{of_models} ({counts.pop()} of {where}{each})"
    several = len(models) > 1
    parts = [f"{len(c.channels)} of {layer_name(c, several)}" for c in selections]
    return f"{of_models} ({', '.join(parts)})"


def sampling_caption(selections: Sequence[Selection]) -> str:
    """Describe how the sweep chose the targets of several layers, alike in all networks or not."""
    of_name: dict[str, set[str]] = {}
    for selection in selections:
        layer = selection.layer
        of_name.setdefault(layer.reader_name, set()).add(layer.sampling.words())
    differ = any(len(words) > 1 for words in of_name.values())
    places = {}
    for selection in selections:
        layer = selection.layer
        place = f"{layer.reader_name} of {layer.model.name}" if differ else layer.reader_name
        places[place] = layer.sampling
    return joint_words([(sampling, place) for place, sampling in places.items()])


def ordered_caption(selections: Sequence[Selection], asked: Any, ordered: str = "") -> str:
    """Describe what is shown, in which order."""
    return ", ".join(filter(None, (shown_caption(selections, asked), ordered)))


def way_caption(selections: Sequence[Selection], asked: Any) -> str:
    """Describe how channels were chosen; empty where they were listed or all are shown."""
    way = way_of(asked)
    if not way:
        return ""
    words = {
        "label": f"those labelled {_label(asked)!r}",
        "random": f"drawn at random (seed {_seed(asked)})",
        "top": f"those with the largest {_by(selections, asked)}",
        "bottom": f"those with the smallest {_by(selections, asked)}",
        "diverse": "the most dissimilar ones",
        "representatives": "each the medoid of a cluster of similar channels",
    }
    return words[way]


def _seed(asked: Any) -> Any:
    return asked.get("seed", 0) if isinstance(asked, Mapping) else 0


def _label(asked: Any) -> str:
    return str(asked["label"]) if way_of(asked) == "label" else ""


def _by(selections: Sequence[Selection], asked: Any) -> str:
    """Name the statistics by which channels are ranked, which may differ between layers."""
    names = dict.fromkeys(ranking_of(selection.data, asked) for selection in selections)
    return " or ".join(name.replace("_", " ") for name in names)


def scale_notes(
    selections: Sequence[Selection], all_asked: Iterable[Any], order: str = ""
) -> Iterator[str]:
    """A sentence on scales, where channels are ranked by a statistic that is on their own."""
    ranked = {order}
    for asked in all_asked:
        if way_of(asked) in ("top", "bottom", "diverse"):
            ranked |= {ranking_of(selection.data, asked) for selection in selections}
    if any(map(is_on_own_scale, ranked)):
        yield SCALES


def selection_methods(selections: Sequence[Selection], asked: Any) -> Iterator[str]:
    """Yield sentences for a methods section on how channels were chosen."""
    yield from chosen_methods(selections, asked)
    if way_of(asked) in BY_SIMILARITY:
        yield SIMILARITY


def chosen_methods(selections: Sequence[Selection], asked: Any) -> Iterator[str]:
    """Yield the same sentences without the definition of similarity."""
    yield f"The figure shows {shown_caption(selections, asked)}."
    yield from draw_methods(selections)
    yield from way_methods(selections, {way_of(asked)})
    yield from scale_notes(selections, [asked])


def draw_methods(selections: Sequence[Selection]) -> Iterator[str]:
    """Describe how to repeat a random draw of the sweep, if there was one."""
    if any(selection.layer.sampling.is_random for selection in selections):
        yield DRAW


def way_methods(selections: Sequence[Selection], ways: Collection[str]) -> Iterator[str]:
    """Yield sentences on the algorithms that chose channels."""
    if "diverse" in ways:
        yield (
            f"The first is the one with the largest {_by(selections, {})}; each further one is the "
            "one farthest from all before it (Gonzalez 1985)."
        )
    if "representatives" in ways:
        yield "Channels were clustered by average linkage; the medoid of each cluster is shown."


def order_caption(settings: BracketedFigure) -> str:
    """Describe the order of channels; empty for that of the selection or the index."""
    within = "in each group " if settings.groups else ""
    if settings.order in ("chosen", "index"):
        return ""
    if settings.order == "similarity":
        return f"{within}ordered by the similarity of the layer's responses"
    return f"{within}in descending order of {settings.order.replace('_', ' ')}"


def bracketed_caption(selections: Sequence[Selection], settings: BracketedFigure) -> str:
    """Describe what is shown, in which order."""
    return ordered_caption(selections, settings.channels, order_caption(settings))


def bracketed_notes(selections: Sequence[Selection], settings: BracketedFigure) -> Iterator[str]:
    """Sentences on the scales of statistics that channels were ranked by, and on brackets."""
    groups = (group.channels for group in settings.groups or ())
    yield from scale_notes(selections, [settings.channels, *groups], settings.order)
    yield from bracket_caption(selections, settings)


def bracket_caption(selections: Sequence[Selection], settings: BracketedFigure) -> Iterator[str]:
    """A sentence on the groups of the brackets, if there are any."""
    if settings.clusters:
        yield f"Brackets mark {counted(settings.clusters, 'cluster')} of similar channels."
    if settings.groups:
        groups = "; ".join(_group_caption(selections, group) for group in settings.groups)
        yield f"Brackets mark {groups}."


def _group_caption(selections: Sequence[Selection], group: Group) -> str:
    """The name of a group, with how its channels were chosen, or their numbers."""
    which = way_caption(selections, group.channels) or _members(selections, group.name)
    return f"{group.name} ({which})"


def _members(selections: Sequence[Selection], group: str) -> str:
    """The channels of a group in all layers together."""
    names: dict[int, str] = {}
    for selection in selections:
        layer = selection.layer
        names |= {channel: layer.labels[layer.row(channel)] for channel in selection.members[group]}
    plain = all(name == str(channel) for channel, name in names.items())
    return number_ranges(sorted(names)) if plain else ", ".join(names.values())


def number_ranges(numbers: Sequence[int]) -> str:
    """Join ascending numbers, three or more neighbours as a range.

    >>> number_ranges([1, 3, 4, 5, 8, 9])
    '1, 3–5, 8, 9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(
        f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs
    )


def bracket_methods(selections: Sequence[Selection], settings: BracketedFigure) -> Iterator[str]:
    """Yield sentences on how channels were chosen, ordered and bracketed."""
    groups = settings.groups or ()
    ways = {way_of(asked) for asked in (settings.channels, *(g.channels for g in groups))}
    if groups:
        yield from bracket_caption(selections, settings)
        yield f"The figure shows {shown_caption(selections)}."
        yield from draw_methods(selections)
        yield from way_methods(selections, ways)
    else:
        yield from chosen_methods(selections, settings.channels)
    similar = settings.order == "similarity"
    if similar:
        yield (
            f"Channels {'of each group ' if groups else ''}were clustered by average linkage, and "
            "the leaves of the tree were ordered to make neighbours as similar as possible "
            "(Bar-Joseph et al. 2001); beyond 1,000 channels, their order is that of the "
            "clustering."
        )
    if settings.clusters:
        yield f"The tree was cut into {counted(settings.clusters, 'cluster')}."
    if similar or ways & BY_SIMILARITY:
        yield SIMILARITY


def similarity_caption(selection: Selection) -> Iterator[str]:
    """Yield sentences on the most similar pairs, and on the channels least similar to any.

    They begin in lower case, behind the name of a layer.
    """
    data, layer = selection.data, selection.layer
    rows = [layer.row(channel) for channel in selection.channels]
    live = [row for row in rows if data.live[row]]
    if len(live) < _FEWEST:
        return
    names = [layer.labels[row] for row in live]
    apart = distances(data.responses[live])
    pairs = [
        f"{names[a]} and {names[b]} ({1 - apart[a, b]:.2f})" for a, b in closest(apart, _NAMED)
    ]
    yield f"the most similar pairs are {', '.join(pairs)}."
    near = 1 - np.where(np.eye(len(live), dtype=bool), np.inf, apart).min(axis=1)
    alone = [f"{names[k]} ({near[k]:.2f})" for k in loneliest(apart, _NAMED)]
    yield f"the channels least similar to any other are {', '.join(alone)}."

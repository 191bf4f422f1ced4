"""Captions of figures, and a paragraph for a methods section with the works that it cites.

The atlas and the recipe of each layer decide every sentence.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.layers import is_on_own_scale
from layer_atlas.atlas.reader import Atlas, Layer, Model
from layer_atlas.config.figures import BracketedFigure, Group
from layer_atlas.config.recipe import Octaves, Recipe
from layer_atlas.config.records import FAMILIES, Reference, build
from layer_atlas.datasets.evidence import STRONGEST
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import mixture
from layer_atlas.plan.targets import DRAW, counted, joint_words
from layer_atlas.presentation.figures.files import RenderedFigure
from layer_atlas.presentation.figures.selection import Selection, ranking_of, titles_of, way_of
from layer_atlas.presentation.similarity import closest, distances, loneliest

SIMILARITY = (
    "The similarity of two channels is the cosine between the responses of the whole layer to "
    "their images, each channel's responses standardised."
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


def shown_caption(selections: Sequence[Selection], asked: Any = "all") -> str:
    """Describe what is shown, and how the sweep chose the channels to choose from.

    `the 16 of largest agreement among 24 of 512 channels of conv1 (demo) drawn at random`,
    `144 channels of 6 layers of demo, which are all channels`.
    """
    if len(selections) == 1:
        return _of_one_layer(selections[0], asked)
    way = way_caption(selections, asked)
    parts = [_channels_of_layers(selections), f"{way} in each layer" if way else ""]
    everything = not way and all(_is_whole(selection) for selection in selections)
    parts.append(f"{'which are' if everything else 'among'} {sampling_caption(selections)}")
    return ", ".join(filter(None, parts))


def _of_one_layer(selection: Selection, asked: Any) -> str:
    sampled = selection.layer.sampling.words(
        f"{selection.layer.name} ({selection.layer.model.title})"
    )
    if not way_of(asked) and _is_whole(selection):
        return sampled
    n = len(selection.channels)
    the = f"the {n}" if n > 1 else "the one"
    words = {
        "random": f"{n} drawn at random (seed {_seed(asked)})",
        "top": f"{the} of largest {_by([selection], asked)}",
        "bottom": f"{the} of smallest {_by([selection], asked)}",
        "diverse": f"{the} most unlike each other",
        "representatives": f"{n}, each in the middle of a group of similar channels,",
        "": f"{n} in groups" if asked == "all" else f"{n} chosen by hand",
    }
    return f"{words[way_of(asked)]} among {sampled}"


def _is_whole(selection: Selection) -> bool:
    """Whether all targets that the atlas has of a layer are shown."""
    return set(selection.channels) == set(selection.layer.channels)


def noun_of(selections: Sequence[Selection]) -> str:
    """The noun for targets of all the layers."""
    nouns = {selection.layer.sampling.noun for selection in selections}
    return nouns.pop() if len(nouns) == 1 else "target"


def _channels_of_layers(selections: Sequence[Selection]) -> str:
    """Count channels by layer: `24 channels of demo (12 of conv1, 12 of conv2)`."""
    channels = counted(
        sum(len(selection.channels) for selection in selections), noun_of(selections)
    )
    models = "; ".join(dict.fromkeys(selection.layer.model.title for selection in selections))
    if len(selections) > _MOST_LAYERS:
        return f"{channels} of {len(selections)} layers of {models}"
    titles = titles_of(selections)
    each = ", ".join(f"{len(c.channels)} of {t}" for c, t in zip(selections, titles, strict=True))
    return f"{channels} of {models} ({each})"


def sampling_caption(selections: Sequence[Selection]) -> str:
    """Describe how the sweep chose the targets of several layers."""
    titles = titles_of(selections)
    return joint_words(
        [(selection.layer.sampling, t) for selection, t in zip(selections, titles, strict=True)]
    )


def ordered_caption(selections: Sequence[Selection], asked: Any, ordered: str = "") -> str:
    """Describe what is shown, in which order."""
    return ", ".join(filter(None, (shown_caption(selections, asked), ordered)))


def way_caption(selections: Sequence[Selection], asked: Any) -> str:
    """Describe how channels were chosen; empty where they were listed or all are shown."""
    way = way_of(asked)
    if not way:
        return ""
    words = {
        "random": f"drawn at random (seed {_seed(asked)})",
        "top": f"those of largest {_by(selections, asked)}",
        "bottom": f"those of smallest {_by(selections, asked)}",
        "diverse": "those most unlike each other",
        "representatives": "each in the middle of a group of similar channels",
    }
    return words[way]


def _seed(asked: Any) -> Any:
    return asked.get("seed", 0) if isinstance(asked, Mapping) else 0


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
    yield f"Shown: {shown_caption(selections, asked)}."
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
            f"Beginning with that of largest {_by(selections, {})}, each further one is that "
            "farthest from all before it (Gonzalez 1985)."
        )
    if "representatives" in ways:
        yield "Similar channels were grouped by average linkage; of each group its medoid is shown."


def order_caption(settings: BracketedFigure) -> str:
    """Describe the order of channels; empty for that of the selection or the index."""
    within = "in each group " if settings.groups else ""
    if settings.order in ("chosen", "index"):
        return ""
    if settings.order == "similarity":
        return f"{within}ordered by similarity of the layer's responses"
    return f"{within}ordered by {settings.order.replace('_', ' ')}, largest first"


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
        yield f"Brackets: {counted(settings.clusters, 'group')} of similar channels."
    if settings.groups:
        groups = "; ".join(_group_caption(selections, group) for group in settings.groups)
        yield f"Brackets: {groups}."


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
        yield f"They are {shown_caption(selections)}."
        yield from draw_methods(selections)
        yield from way_methods(selections, ways)
    else:
        yield from chosen_methods(selections, settings.channels)
    similar = settings.order == "similarity"
    if similar:
        yield (
            f"Channels {'of each group ' if groups else ''}were clustered by average linkage, and "
            "leaves ordered such that neighbours are alike (Bar-Joseph et al. 2001; beyond 1,000 "
            "channels as clustering had them)."
        )
    if settings.clusters:
        yield f"The tree was cut into {counted(settings.clusters, 'group')}."
    if similar or ways & BY_SIMILARITY:
        yield SIMILARITY


def similarity_caption(selection: Selection) -> Iterator[str]:
    """Yield sentences on the most similar pairs, and on the channels least similar to any."""
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
    yield f"most alike are the images of {', '.join(pairs)}."
    near = 1 - np.where(np.eye(len(live), dtype=bool), np.inf, apart).min(axis=1)
    alone = [f"{names[k]} ({near[k]:.2f})" for k in loneliest(apart, _NAMED)]
    yield f"least like any other are those of {', '.join(alone)}."


_MADE_WITH = ("layer-atlas", "torch")
"""Packages whose versions stand in a caption."""
_TOLD = (*_MADE_WITH, "torchvision", "timm", "numpy")
"""Packages whose versions stand in the methods."""
_DIGITS = 12
"""Digits of a digest for readers."""


_OF_FIGURES = (
    Reference(
        "Bar-Joseph et al. 2001",
        "Fast optimal leaf ordering for hierarchical clustering. Bioinformatics 17 (suppl. 1), "
        "S22-S29.",
    ),
    Reference(
        "Gonzalez 1985",
        "Clustering to minimize the maximum intercluster distance. Theoretical Computer Science "
        "38, 293-306.",
    ),
)
"""The works that figures themselves follow; records own all others."""


def known_references() -> list[Reference]:
    """List every work that a text may cite, in order."""
    records = [record for family in FAMILIES.values() for record in family.choices.values()]
    works = {work for record in (*records, Octaves) for work in record.references}
    return sorted({*works, *_OF_FIGURES}, key=lambda work: work.cite)


def cited(text: str) -> list[str]:
    """List the works that a text cites by author and year, in full."""
    return [f"{work.cite}. {work.entry}" for work in known_references() if work.cite in text]


def methods_text(atlas: Atlas, rendered: RenderedFigure) -> str:
    """The paragraph, and the works that it cites, as Markdown."""
    sentences = [sentence for part in _parts(atlas, rendered) for sentence in part]
    paragraph = " ".join(filter(None, sentences))
    works = "\n".join(f"- {work}" for work in cited(paragraph))
    return f"{paragraph}\n\n{works}\n" if works else f"{paragraph}\n"


def _parts(atlas: Atlas, rendered: RenderedFigure) -> Iterator[Sequence[str]]:
    """Yield groups of sentences, networks of one recipe together."""
    recipes: dict[str, list[Selection]] = {}
    for selection in rendered.selections:
        text = json.dumps(selection.layer.recipe, sort_keys=True)
        recipes.setdefault(text, []).append(selection)
    for alike in recipes.values():
        yield [_networks(alike), recipe_of(alike[0].layer).describe()]
    yield [
        _seeds(rendered.selections),
        _fates(rendered.selections),
        _photographs(rendered.selections),
        _judge(rendered.selections),
    ]
    yield [rendered.methods, _made_with(atlas), _environments(rendered.selections)]


def recipe_of(layer: Layer) -> Recipe:
    """The recipe of a layer's images. Raises UserError for a recipe of another version."""
    return build(Recipe, layer.recipe, f"recipe of {layer.title}")


def _networks(alike: Sequence[Selection]) -> str:
    """Describe networks and layers, and that their weights are frozen."""
    models = {selection.layer.model.name: selection.layer.model for selection in alike}
    parts = []
    for name, model in models.items():
        layers = [selection.layer for selection in alike if selection.layer.model.name == name]
        types = [f"{layer.name} ({layer.facts['module_type']})" for layer in layers]
        word = "layer" if len(types) == 1 else "layers"
        parts.append(f"{word} {', '.join(types)} of {network_caption(model)}")
    inputs = [
        f" Preprocessing of {model.title}: {model.preprocessing}."
        for model in models.values()
        if model.preprocessing
    ]
    images = f"Images are for {'; '.join(parts)}, in evaluation mode with frozen weights."
    return images + "".join(inputs)


def network_caption(model: Model) -> str:
    """Name a network and its weights."""
    digest = str(model.facts["weights_sha256"])[:_DIGITS]
    weights = f", {model.weights}" if model.weights else ""
    return f"{model.facts['source']}{weights} (SHA-256 of the weights {digest})"


def _seeds(selections: Sequence[Selection]) -> str:
    layer = selections[0].layer
    if len(layer.seeds) == 1:
        return f"The random seed was {layer.seeds[0]}."
    if (seed := selections[0].data.seed) is not None:
        return f"The random seeds were {', '.join(map(str, layer.seeds))}; shown is seed {seed}."
    best = (
        " Where one image of several seeds is shown, it is the one that agrees most with the "
        "channel's photographs."
        if "best_seed_index" in layer
        else " Where one image of several seeds is shown, it is that of the first."
    )
    return f"The random seeds were {', '.join(map(str, layer.seeds))}." + best


def _fates(selections: Sequence[Selection]) -> str:
    """Count the images, and those that came to nothing."""
    codes = np.concatenate(
        [
            selection.data.status[[selection.layer.row(c) for c in selection.channels]]
            for selection in selections
        ]
    )
    counts = {word: int((codes == code).sum()) for word, code in STATUS.items() if word != "ok"}
    parts = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "none failed"
    return f"Of the images of {counted(len(codes), noun_of(selections))} {parts}."


def _photographs(selections: Sequence[Selection]) -> str:
    """Describe the photographs that images were compared with, and their agreement."""
    layer = next(
        (selection.layer for selection in selections if "agreement" in selection.layer), None
    )
    if layer is None:
        return ""
    values = np.concatenate(
        [
            _values(selection, "agreement")
            for selection in selections
            if "agreement" in selection.layer
        ]
    )
    count = int(layer.group["dataset"].attrs["photographs"])
    used = recipe_of(layer).dataset_images_used
    made_from = f"; images were made from the {used} strongest" if used else ""
    return (
        f"Layers were shown {counted(count, 'photograph')}; the median agreement of the images, "
        "the cosine between the layer's standardised responses to an image and to the channel's "
        f"nine strongest photographs without the channel itself, is {np.nanmedian(values):.2f}"
        f"{made_from}."
    )


def _judge(selections: Sequence[Selection]) -> str:
    """Describe the network that judged the images, and how much it recognised in them."""
    judged = [s for s in selections if "recognisability" in s.layer]
    if not judged:
        return ""
    images, photographs = (
        np.nanmean(np.concatenate([_values(selection, name) for selection in judged]))
        for name in ("recognisability", "dataset/recognisability")
    )
    judge = judged[0].layer.dataset("recognisability").attrs["judge"]
    return (
        f"Given an image, another network ({judge}) told photographs that excite its target most "
        f"from photographs that excite it least in {100 * images:.0f} % of pairs, and in "
        f"{100 * photographs:.0f} % given {STRONGEST} photographs of the target instead."
    )


def _values(selection: Selection, name: str) -> NDArray[np.float64]:
    rows = [selection.layer.row(channel) for channel in selection.channels]
    return selection.data.values(name)[rows].ravel()


def _made_with(atlas: Atlas) -> str:
    known = atlas.versions
    under = f", under Python {known['python']}" if "python" in known else ""
    return f"Made with {', '.join(_versions(atlas, _TOLD))}{under}."


def _environments(selections: Sequence[Selection]) -> str:
    """Name the environments that made the images, if there are several."""
    models: dict[str, Counter[Environment | None]] = {}
    for selection in selections:
        made = selection.layer.made_with(selection.channels)
        models.setdefault(selection.layer.model.name, Counter()).update(made)
    parts = mixture(models.values())
    return f"Images were {parts}." if parts else ""


def _versions(atlas: Atlas, names: Sequence[str]) -> list[str]:
    return [f"{name} {atlas.versions[name]}" for name in names if name in atlas.versions]


# --- LaTeX ---------------------------------------------------------------------------------------

_TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "·": r"\textperiodcentered{}",
}


def tex(text: str) -> str:
    """Escape a text for LaTeX.

    >>> tex("layer_1 & 50 %")
    'layer\\\\_1 \\\\& 50 \\\\%'
    """
    return "".join(_TEX.get(sign, sign) for sign in text)


def caption_tex(atlas: Atlas, rendered: RenderedFigure) -> str:
    """The caption for LaTeX, with networks, recipe, seeds and versions in a last sentence."""
    parts = []
    models = {selection.layer.model.name: selection.layer for selection in rendered.selections}
    for layer in models.values():
        recipe = recipe_of(layer).summary()
        parts.append(f"{network_caption(layer.model)}; {recipe}")
    seeds = rendered.selections[0].layer.seeds
    word = "seed" if len(seeds) == 1 else "seeds"
    parts.append(f"{word} {', '.join(map(str, seeds))}")
    parts.append(", ".join(_versions(atlas, _MADE_WITH)))
    return f"\\caption{{{tex(rendered.caption)} {tex('; '.join(parts))}.}}\n"

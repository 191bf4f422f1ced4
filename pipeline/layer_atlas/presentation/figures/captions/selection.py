"""Which channels are shown and how they were chosen, by the sweep and by the figure, in words."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from layer_atlas.atlas.reader.ranking import is_on_own_scale
from layer_atlas.plan.targets import DRAW, counted, joint_words
from layer_atlas.presentation.figures.selection.choose import Selection, titles_of
from layer_atlas.presentation.figures.selection.select import ranking_of, way_of

ALIKE = (
    "Likeness of two channels is the cosine between the responses of the whole layer to their "
    "images, each channel's responses standardised."
)
SCALES = "Activations of different channels are on different scales."
BY_LIKENESS = {"diverse", "representatives"}
"""Ways to choose channels that compare them."""

_MOST_LAYERS = 6
"""Named one by one."""


def shown_words(chosen: Sequence[Selection], selection: Any = "all") -> str:
    """What is shown, and how the sweep chose the channels that it was chosen from.

    `the 16 of largest agreement among 24 of 512 channels of conv1 (demo) drawn at random`,
    `144 channels of 6 layers of demo, which are all channels`.
    """
    if len(chosen) == 1:
        return _of_one_layer(chosen[0], selection)
    way = selection_words(chosen, selection)
    parts = [_channels_of_layers(chosen), f"{way} in each layer" if way else ""]
    everything = not way and all(_is_whole(found) for found in chosen)
    parts.append(f"{'which are' if everything else 'among'} {sampling_words(chosen)}")
    return ", ".join(filter(None, parts))


def _of_one_layer(found: Selection, selection: Any) -> str:
    sampled = found.layer.sampling.words(f"{found.layer.name} ({found.layer.model.title})")
    if not way_of(selection) and _is_whole(found):
        return sampled
    n = len(found.channels)
    the = f"the {n}" if n > 1 else "the one"
    words = {
        "random": f"{n} drawn at random (seed {_seed(selection)})",
        "top": f"{the} of largest {_by([found], selection)}",
        "bottom": f"{the} of smallest {_by([found], selection)}",
        "diverse": f"{the} most unlike each other",
        "representatives": f"{n}, each in the middle of a group of similar channels,",
        "": f"{n} in groups" if selection == "all" else f"{n} chosen by hand",
    }
    return f"{words[way_of(selection)]} among {sampled}"


def _is_whole(found: Selection) -> bool:
    """Whether all that the atlas has of a layer is shown."""
    return set(found.channels) == set(found.layer.channels)


def noun_of(chosen: Sequence[Selection]) -> str:
    """What a target is in all of the layers."""
    nouns = {found.layer.sampling.noun for found in chosen}
    return nouns.pop() if len(nouns) == 1 else "target"


def _channels_of_layers(chosen: Sequence[Selection]) -> str:
    """`24 channels of demo (12 of conv1, 12 of conv2)`."""
    channels = counted(sum(len(found.channels) for found in chosen), noun_of(chosen))
    models = "; ".join(dict.fromkeys(found.layer.model.title for found in chosen))
    if len(chosen) > _MOST_LAYERS:
        return f"{channels} of {len(chosen)} layers of {models}"
    titles = titles_of(chosen)
    each = ", ".join(f"{len(c.channels)} of {t}" for c, t in zip(chosen, titles, strict=True))
    return f"{channels} of {models} ({each})"


def sampling_words(chosen: Sequence[Selection]) -> str:
    """How the sweep chose the targets of several layers."""
    titles = titles_of(chosen)
    return joint_words([(found.layer.sampling, t) for found, t in zip(chosen, titles, strict=True)])


def what_is_shown(chosen: Sequence[Selection], selection: Any, ordered: str = "") -> str:
    """The same with the words for their order."""
    return ", ".join(filter(None, (shown_words(chosen, selection), ordered)))


def selection_words(chosen: Sequence[Selection], selection: Any) -> str:
    """How channels were chosen; nothing of those that were listed, or where all are shown."""
    way = way_of(selection)
    if not way:
        return ""
    words = {
        "random": f"drawn at random (seed {_seed(selection)})",
        "top": f"those of largest {_by(chosen, selection)}",
        "bottom": f"those of smallest {_by(chosen, selection)}",
        "diverse": "those most unlike each other",
        "representatives": "each in the middle of a group of similar channels",
    }
    return words[way]


def _seed(selection: Any) -> Any:
    return selection.get("seed", 0) if isinstance(selection, Mapping) else 0


def _by(chosen: Sequence[Selection], selection: Any) -> str:
    """The statistic that a selection ranks by; of layers that differ in it, each."""
    names = dict.fromkeys(ranking_of(found.shown, selection) for found in chosen)
    return " or ".join(name.replace("_", " ") for name in names)


def scale_notes(
    chosen: Sequence[Selection], selections: Iterable[Any], order: str = ""
) -> Iterator[str]:
    """A sentence on what a ranking cannot tell, where channels are ranked by such a statistic."""
    ranked = {order}
    for selection in selections:
        if way_of(selection) in ("top", "bottom", "diverse"):
            ranked |= {ranking_of(found.shown, selection) for found in chosen}
    if any(map(is_on_own_scale, ranked)):
        yield SCALES


def selection_methods(chosen: Sequence[Selection], selection: Any) -> Iterator[str]:
    """The same for a methods section, sentence by sentence."""
    yield from chosen_methods(chosen, selection)
    if way_of(selection) in BY_LIKENESS:
        yield ALIKE


def chosen_methods(chosen: Sequence[Selection], selection: Any) -> Iterator[str]:
    """The same, but for what likeness is."""
    yield f"Shown: {shown_words(chosen, selection)}."
    yield from draw_methods(chosen)
    yield from way_methods(chosen, {way_of(selection)})
    yield from scale_notes(chosen, [selection])


def draw_methods(chosen: Sequence[Selection]) -> Iterator[str]:
    """How a random draw of the sweep is made again, if there was one."""
    if any(found.layer.sampling.is_random for found in chosen):
        yield DRAW


def way_methods(chosen: Sequence[Selection], ways: Collection[str]) -> Iterator[str]:
    """What there is to know about ways to choose channels."""
    if "diverse" in ways:
        yield (
            f"Beginning with that of largest {_by(chosen, {})}, each further one is that farthest "
            "from all before it (Gonzalez 1985)."
        )
    if "representatives" in ways:
        yield "Similar channels were grouped by average linkage; of each group its medoid is shown."

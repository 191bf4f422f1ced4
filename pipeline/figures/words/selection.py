"""Which channels are shown and how they were chosen, in words."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pipeline.figures.selection.choose import Chosen, titles_of
from pipeline.figures.selection.select import way_of
from pipeline.wording import counted

ALIKE = (
    "Likeness of two channels is the cosine between the responses of the whole layer to their "
    "images, each channel's responses standardised."
)
BY_LIKENESS = {"diverse", "representatives"}
"""Ways to choose channels that compare them."""

_MOST_LAYERS = 6
"""Named one by one."""


def shown_words(chosen: Sequence[Chosen]) -> str:
    """What is shown: `24 channels of conv1 (demo)`, `144 channels of 6 layers of demo`."""
    channels = counted(sum(len(found.channels) for found in chosen), "channel")
    models = ", ".join(dict.fromkeys(found.layer.model.name for found in chosen))
    if len(chosen) > _MOST_LAYERS:
        return f"{channels} of {len(chosen)} layers of {models}"
    if len(chosen) == 1:
        return f"{channels} of {chosen[0].layer.name} ({models})"
    titles = titles_of(chosen)
    each = ", ".join(f"{len(c.channels)} of {t}" for c, t in zip(chosen, titles, strict=True))
    return f"{channels} of {models} ({each})"


def what_is_shown(chosen: Sequence[Chosen], selection: Any, ordered: str = "") -> str:
    """The same with how channels were chosen, and with the words for their order."""
    return ", ".join(filter(None, (shown_words(chosen), selection_words(selection), ordered)))


def selection_words(selection: Any) -> str:
    """How channels were chosen; nothing of those that were listed, or where all are shown."""
    way = way_of(selection)
    if not way:
        return ""
    by = str(selection.get("by", "activation")).replace("_", " ")
    words = {
        "random": f"chosen at random (seed {selection.get('seed', 0)})",
        "top": f"those of largest {by}",
        "bottom": f"those of smallest {by}",
        "diverse": "those most unlike each other",
        "representatives": "each in the middle of a group of similar channels",
    }
    return words[way]


def selection_methods(selection: Any) -> Iterator[str]:
    """The same for a methods section, sentence by sentence."""
    yield from chosen_methods(selection)
    if way_of(selection) in BY_LIKENESS:
        yield ALIKE


def chosen_methods(selection: Any) -> Iterator[str]:
    """The same, but for what likeness is."""
    if selection_words(selection):
        yield f"Channels shown are {selection_words(selection)}."
    yield from way_methods({way_of(selection)})


def way_methods(ways: Collection[str]) -> Iterator[str]:
    """What there is to know about ways to choose channels."""
    if "diverse" in ways:
        yield (
            "Beginning with the strongest, each further one is that farthest from all before it "
            "(Gonzalez 1985)."
        )
    if "representatives" in ways:
        yield "Similar channels were grouped by average linkage; of each group its medoid is shown."

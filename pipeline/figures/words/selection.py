"""Which channels are shown and in which order, in words."""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.figures.selection.choose import Chosen, titles_of, way_of
from pipeline.wording import counted

_MOST_LAYERS = 6
"""Named one by one."""
_ALIKE = (
    "Likeness of two channels is the cosine between the responses of the whole layer to their "
    "images, each channel's responses standardised."
)


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


def what_is_shown(chosen: Sequence[Chosen], selection: Any, order: str) -> str:
    """The same with how channels were chosen and ordered."""
    parts = shown_words(chosen), selection_words(selection), order_words(order)
    return ", ".join(filter(None, parts))


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


def order_words(order: str) -> str:
    """How channels are ordered; nothing if that goes without saying."""
    if order in ("chosen", "index"):
        return ""
    if order == "similarity":
        return "ordered by similarity of the layer's responses"
    return f"ordered by {order.replace('_', ' ')}, largest first"


def selection_methods(selection: Any, order: str, clusters: int | None) -> Iterator[str]:
    """The same for a methods section, sentence by sentence."""
    way = way_of(selection)
    if selection_words(selection):
        yield f"Channels shown are {selection_words(selection)}."
    if way == "diverse":
        yield (
            "Beginning with the strongest, each further one is that farthest from all before it "
            "(Gonzalez 1985)."
        )
    if way == "representatives":
        yield "Groups are those of average linkage; of each its medoid is shown."
    if order == "similarity":
        yield (
            "Channels were clustered by average linkage, and leaves ordered such that neighbours "
            "are alike (Bar-Joseph et al. 2001; beyond 1,000 channels as clustering had them)."
        )
    if clusters:
        yield f"The tree was cut into {counted(clusters, 'group')}."
    if order == "similarity" or way in ("diverse", "representatives"):
        yield _ALIKE

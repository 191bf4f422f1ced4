"""In which order channels stand and what brackets hold together, in words."""

from collections.abc import Iterator, Sequence

from layer_atlas.config.figures import BracketedFigure, Group
from layer_atlas.plan.labels import counted
from layer_atlas.presentation.figures.captions.selection import (
    ALIKE,
    BY_LIKENESS,
    chosen_methods,
    draw_methods,
    scale_notes,
    selection_words,
    shown_words,
    way_methods,
)
from layer_atlas.presentation.figures.selection.choose import Selection
from layer_atlas.presentation.figures.selection.select import way_of


def order_words(settings: BracketedFigure) -> str:
    """How channels are ordered; nothing if that goes without saying."""
    within = "in each group " if settings.groups else ""
    if settings.order in ("chosen", "index"):
        return ""
    if settings.order == "similarity":
        return f"{within}ordered by similarity of the layer's responses"
    return f"{within}ordered by {settings.order.replace('_', ' ')}, largest first"


def ranking_notes(chosen: Sequence[Selection], settings: BracketedFigure) -> Iterator[str]:
    """What the ways to choose and to order channels cannot tell, in a sentence."""
    groups = (group.channels for group in settings.groups or ())
    yield from scale_notes(chosen, [settings.channels, *groups], settings.order)


def bracket_words(chosen: Sequence[Selection], settings: BracketedFigure) -> Iterator[str]:
    """What brackets hold together, in a sentence; none where there are none."""
    if settings.clusters:
        yield f"Brackets: {counted(settings.clusters, 'group')} of similar channels."
    if settings.groups:
        yield f"Brackets: {'; '.join(_group_words(chosen, group) for group in settings.groups)}."


def _group_words(chosen: Sequence[Selection], group: Group) -> str:
    """A group by its name, with how its channels were chosen, or which they are."""
    which = selection_words(chosen, group.channels) or _members(chosen, group.name)
    return f"{group.name} ({which})"


def _members(chosen: Sequence[Selection], group: str) -> str:
    """The channels of a group, those of all layers together."""
    names: dict[int, str] = {}
    for found in chosen:
        layer = found.layer
        names |= {channel: layer.labels[layer.row(channel)] for channel in found.members[group]}
    plain = all(name == str(channel) for channel, name in names.items())
    return number_words(sorted(names)) if plain else ", ".join(names.values())


def number_words(numbers: Sequence[int]) -> str:
    """Ascending numbers, three or more neighbours as a range.

    >>> number_words([1, 3, 4, 5, 8, 9])
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


def bracket_methods(chosen: Sequence[Selection], settings: BracketedFigure) -> Iterator[str]:
    """How channels were chosen, ordered and bracketed, for a methods section, by sentences."""
    groups = settings.groups or ()
    ways = {way_of(selection) for selection in (settings.channels, *(g.channels for g in groups))}
    if groups:
        yield from bracket_words(chosen, settings)
        yield f"They are {shown_words(chosen)}."
        yield from draw_methods(chosen)
        yield from way_methods(chosen, ways)
    else:
        yield from chosen_methods(chosen, settings.channels)
    similar = settings.order == "similarity"
    if similar:
        yield (
            f"Channels {'of each group ' if groups else ''}were clustered by average linkage, and "
            "leaves ordered such that neighbours are alike (Bar-Joseph et al. 2001; beyond 1,000 "
            "channels as clustering had them)."
        )
    if settings.clusters:
        yield f"The tree was cut into {counted(settings.clusters, 'group')}."
    if similar or ways & BY_LIKENESS:
        yield ALIKE

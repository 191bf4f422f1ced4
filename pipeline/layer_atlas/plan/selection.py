"""How a sweep chose its targets, in words: the one owner of that sentence. Pure.

`24 of 512 channels drawn at random`, `channels 0 to 63 of 512`, `3 of 512 channels chosen by hand`,
`all 512 channels`. Montages, figures, the site, `atlas plan` and the summary of a run all say it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PLURALS = {"class": "classes"}

DRAW = (
    "Targets drawn at random are those whose numbers have the smallest SHA-256 digests, so layers "
    "of one width have the same."
)
"""How the draw is made again; it has no seed."""


def plural(word: str) -> str:
    """Return the plural of a target's noun, which may be several words: `neurons at the centre`."""
    noun, space, rest = word.partition(" at ")
    if not space:
        return _PLURALS.get(word, f"{word}s")
    return f"{plural(noun)}{space}{rest}"


@dataclass(frozen=True)
class Sampling:
    """What a sweep wanted of a layer, and of how many targets."""

    asked: Any
    """The value of `channels` in the config; None where it is not known."""
    targets: Sequence[int]
    """The numbers of the targets, ascending."""
    count: int
    """How many targets the layer has."""
    noun: str = "channel"
    """What a target is: `channel`, `neuron at the centre`, `class`, `direction`, `combination`,
    `whole layer`."""

    @property
    def is_random(self) -> bool:
        """Whether the targets, or parts of them, were drawn at random."""
        return len(self.targets) < self.count and "random" in _keys(self.asked)

    def words(self, place: str = "") -> str:
        """Name the targets and how they were chosen.

        Args:
            place: layer and model, put where they belong in the sentence.
        """
        of, n = f" of {place}" if place else "", len(self.targets)
        if self.noun == "whole layer":
            return f"{self.noun}{of}"
        if self.noun == "combination":
            return f"{n} {_combinations(n)}{of}{_paired(self.asked)}"
        if n == self.count:
            return f"{_all(n, self.noun)}{of}"
        if _is_range(self.asked, self.targets):
            within = f" in {place}" if place else ""
            return f"{_range(self.targets, self.noun)} of {self.count}{within}"
        return f"{n} of {counted(self.count, self.noun)}{of}{_manner(self.asked)}"


def _keys(asked: Any, depth: int = 3) -> set[str]:
    """Every key of a selection, which is at most so deep."""
    if not depth or not isinstance(asked, Mapping | list | tuple):
        return set()
    inner = asked.values() if isinstance(asked, Mapping) else asked
    keys = {str(key) for key in asked} if isinstance(asked, Mapping) else set()
    return keys.union(*(_keys(item, depth - 1) for item in inner))


def counted(n: int, noun: str) -> str:
    """Return a number of things.

    >>> counted(2, "class")
    '2 classes'
    """
    return f"{n} {noun if n == 1 else plural(noun)}"


def _all(n: int, noun: str) -> str:
    return f"the only {noun}" if n == 1 else f"all {n} {plural(noun)}"


def _combinations(n: int) -> str:
    return "combination of channels" if n == 1 else "combinations of channels"


def _paired(asked: Any) -> str:
    if isinstance(asked, Mapping):
        way = "every pairing of those chosen" if "product" in asked else "paired in order"
        return f", {way}{', some drawn at random' if 'random' in _keys(asked) else ''}"
    return " chosen by hand" if asked is not None else ""


def _manner(asked: Any) -> str:
    if asked is None:
        return ""
    return " drawn at random" if "random" in _keys(asked) else " chosen by hand"


def _is_range(asked: Any, targets: Sequence[int]) -> bool:
    """Whether targets were asked for as a range; a class may be called `a:b`, but it is one."""
    return isinstance(asked, str) and ":" in asked and len(targets) > 1


def _range(targets: Sequence[int], noun: str) -> str:
    first, last = targets[0], targets[-1]
    step = targets[1] - first
    every = "" if step == 1 else f" in steps of {step}"
    return f"{plural(noun)} {first} to {last}{every}"


def joint_words(samplings: Sequence[tuple[Sampling, str]]) -> str:
    """How the targets of several layers were chosen, layers of the same words together.

    Args:
        samplings: of each layer, with its title.
    """
    all_of_all = all(len(sampling.targets) == sampling.count for sampling, _ in samplings)
    nouns = {sampling.noun for sampling, _ in samplings}
    noun = nouns.pop() if len(nouns) == 1 else "target"
    if all_of_all:
        return f"all {plural(noun)}"
    layers: dict[str, list[tuple[Sampling, str]]] = {}
    for sampling, title in samplings:
        layers.setdefault(sampling.words(), []).append((sampling, title))
    if len(layers) > _MOST_SENTENCES:
        n = sum(len(sampling.targets) for sampling, _ in samplings)
        count = sum(sampling.count for sampling, _ in samplings)
        manner = _manner(samplings[0][0].asked)
        return f"{n} of {counted(count, noun)} of {len(samplings)} layers{manner}"
    return "; ".join(_of_layers(some) for some in layers.values())


def _of_layers(some: Sequence[tuple[Sampling, str]]) -> str:
    titles = ", ".join(title for _, title in some)
    return some[0][0].words(titles if len(some) == 1 else f"each of {titles}")


_MOST_SENTENCES = 6

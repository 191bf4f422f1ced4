"""Targets: what single images are for, as numbers, and how a user chooses among them.

Mostly a target is a channel. It can also be a class, which has a name, or a channel for each of
several layers, say a pair: then targets are numbered as the elements of an array are, the last
channel running fastest. So every target is one whole number, whatever it stands for.

`Sampling` words how a sweep chose its targets, and is the one owner of that sentence: `24 of 512
channels drawn at random`, `channels 0 to 63 of 512`, `3 of 512 channels chosen by hand`, `all 512
channels`. Montages, figures, the site, `atlas plan` and the summary of a run all use it.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

from layer_atlas.errors import UserError, nearest


@dataclass(frozen=True)
class TargetSpace:
    """All targets of a layer."""

    sizes: tuple[int, ...]
    """Number of channels; for combinations, one number per part."""
    names: tuple[str, ...] = ()
    """Names of the classes, if targets are classes whose names are known."""

    @property
    def count(self) -> int:
        """Number of targets."""
        return math.prod(self.sizes)

    def parts(self, target: int) -> tuple[int, ...]:
        """Return the channels that a target consists of.

        >>> TargetSpace((8, 10)).parts(37)
        (3, 7)
        """
        parts: list[int] = []
        for size in reversed(self.sizes):
            target, part = divmod(target, size)
            parts.append(part)
        return tuple(reversed(parts))

    def number(self, parts: Sequence[int]) -> int:
        """Return the number of the target with these channels."""
        number = 0
        for size, part in zip(self.sizes, parts, strict=True):
            number = number * size + part
        return number

    def label(self, target: int, given: str = "") -> str:
        """Return the label of a target in pictures; a given one replaces the name of a class.

        >>> TargetSpace((8, 10)).label(37), TargetSpace((8, 10)).label(37, "dog and ball")
        ('3+7', '3+7 dog and ball')
        """
        name = given or (self.names[target] if self.names else "")
        return f"{self.numbers(target)} {name}".rstrip()

    def numbers(self, target: int) -> str:
        """Return the name of a target in file names: its channels alone."""
        return "+".join(map(str, self.parts(target)))

    def has(self, numbers: str) -> bool:
        """Whether there is a target of these numbers, as `numbers` writes them."""
        parts = numbers.split("+")
        if len(parts) != len(self.sizes) or not all(p.isascii() and p.isdigit() for p in parts):
            return False
        sized = zip(parts, self.sizes, strict=True)
        return all(int(part) < size and part == str(int(part)) for part, size in sized)


def select_targets(selection: Any, targets: TargetSpace, where: str) -> tuple[int, ...]:
    """Return the numbers of the targets that a selection names, ascending.

    Args:
        selection: `all`, a range "start:stop[:step]", a list of numbers or of class names, or
            {random: n}; of combinations a list such as [[3, 17], [5, 9]], or {zip: [...]} or
            {product: [...]} of a selection for each part.
        targets: all targets of the layer.
        where: model and layer, for messages.
    Raises:
        UserError: an empty selection, a number out of range, or something else altogether.

    >>> select_targets("0:8:3", TargetSpace((512,)), "net/layer")
    (0, 3, 6)
    """
    if len(targets.sizes) > 1:
        return _select_combinations(selection, targets, where)
    n = targets.count
    chosen = _chosen(selection, n, targets.names)
    wrong = [target for target in chosen if not 0 <= target < n]
    if wrong:
        raise UserError(f"channel {wrong[0]} is out of range: {where} has channels 0 to {n - 1}.")
    # A slice beyond the last channel of a narrow layer is empty, which no atlas can show.
    if not chosen:
        raise UserError(f"channels={selection!r} selects no channel of {where} (it has {n}).")
    return tuple(sorted(set(chosen)))


def spaced(numbers: tuple[int, ...]) -> range | tuple[int, ...]:
    """Turn ascending numbers into a range, where they are evenly spaced.

    >>> spaced((0, 3, 6)), spaced((0, 3, 7))
    (range(0, 7, 3), (0, 3, 7))
    """
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    even = range(numbers[0], numbers[-1] + 1, step)
    return even if tuple(even) == numbers else numbers


def is_ascending(numbers: range | tuple[int, ...]) -> bool:
    """Whether each number is larger than the one before. A range is checked without a loop."""
    if isinstance(numbers, range):
        return numbers.step > 0
    return all(a < b for a, b in pairwise(numbers))


def _chosen(selection: Any, n: int, names: tuple[str, ...]) -> list[int]:
    if selection == "all":
        return list(range(n))
    # A class may be called "a:b"; then the name wins over the range.
    if isinstance(selection, str) and ":" in selection and selection not in names:
        return _range(selection, n)
    if isinstance(selection, Mapping) and list(selection) == ["random"]:
        return _random(selection["random"], n)
    listed = list(selection) if isinstance(selection, list | tuple) else [selection]
    if names and any(isinstance(item, str) for item in listed):
        listed = [_named(item, names) if isinstance(item, str) else item for item in listed]
    # `type` and not `isinstance`: True is an int, but no channel.
    if all(type(item) is int for item in listed):
        return listed
    raise UserError(
        f"channels={selection!r} is not understood; give all, a range such as '0:64' or "
        f"'0:512:16', a list such as [3,17], or {{random: 32}}{_named_too(names)}."
    )


def _named_too(names: tuple[str, ...]) -> str:
    return f", or names of classes such as [{names[0]}]" if names else ""


def _named(name: str, names: tuple[str, ...]) -> int:
    """Return the class of a name, however it is capitalised."""
    same = [i for i, other in enumerate(names) if other.lower() == name.lower()]
    if not same:
        raise UserError(
            f"class {name!r} is not among the {len(names)} classes; the nearest are: "
            f"{nearest(name, set(names))}."
        )
    # ImageNet has two classes called "crane".
    if len(same) > 1:
        raise UserError(
            f"class {name!r} is the name of several classes, {same[0]} and {same[1]}; give the "
            "number."
        )
    return same[0]


def _range(text: str, n: int) -> list[int]:
    # As for Python's slices, the end may lie beyond the last channel: layers differ in width.
    return list(range(n))[slice(*_range_parts(text))]


def _range_parts(text: str) -> list[int | None]:
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) > 3 or parts[2:] == [0]:
            raise ValueError
    except ValueError:
        raise UserError(
            f"channels={text!r} is not a range; write start:stop or start:stop:step."
        ) from None
    return parts


def least_targets(selection: Any) -> int:
    """Return how many targets a layer needs for a selection to be taken as it stands.

    >>> least_targets("0:800"), least_targets({"random": 32}), least_targets("all")
    (800, 32, 0)
    """
    if isinstance(selection, str) and ":" in selection:
        return _range_parts(selection)[1] or 0
    if isinstance(selection, Mapping) and list(selection) == ["random"]:
        return int(selection["random"])
    return 0


def _random(count: Any, n: int) -> list[int]:
    """Return the channels whose hashes are smallest.

    Layers of one width get the same channels, and a larger count only adds to a smaller one.
    """
    if type(count) is not int or count < 1:
        raise UserError(f"channels={{random: {count}}} needs a whole number of 1 or more.")
    order = sorted(range(n), key=lambda c: hashlib.sha256(str(c).encode()).digest())
    return order[:count]


# --- combinations --------------------------------------------------------------------------------


def _select_combinations(selection: Any, targets: TargetSpace, where: str) -> tuple[int, ...]:
    combinations = _combinations(selection, targets, where)
    for combination in combinations:
        for part, size in zip(combination, targets.sizes, strict=True):
            if not 0 <= part < size:
                raise UserError(
                    f"channel {part} of {list(combination)} is out of range: that part of {where} "
                    f"has channels 0 to {size - 1}."
                )
    if not combinations:
        raise UserError(f"channels={selection!r} selects nothing of {where}.")
    return tuple(sorted({targets.number(combination) for combination in combinations}))


def _combinations(selection: Any, targets: TargetSpace, where: str) -> list[tuple[int, ...]]:
    n = len(targets.sizes)
    if isinstance(selection, Mapping) and list(selection) in (["zip"], ["product"]):
        (kind, inner), *_ = selection.items()
        if isinstance(inner, list | tuple) and len(inner) == n:
            # In the order given: what is zipped belongs together.
            parts = [_chosen(s, size, ()) for s, size in zip(inner, targets.sizes, strict=True)]
            return _zipped(parts, where) if kind == "zip" else list(product(*parts))
    if isinstance(selection, list | tuple):
        listed = [list(item) if isinstance(item, list | tuple) else item for item in selection]
        fits = all(isinstance(item, list) and len(item) == n for item in listed)
        if fits and all(type(part) is int for item in listed for part in item):
            return [tuple(item) for item in listed]
    raise UserError(
        f"channels={selection!r} must name the channels of each combination: a list of {n} "
        f"channels each, such as [{list(range(3, 3 + n))}], {{zip: [...]}} or {{product: [...]}} "
        f"with {n} selections."
    )


def _zipped(parts: list[list[int]], where: str) -> list[tuple[int, ...]]:
    lengths = [len(part) for part in parts]
    if len(set(lengths)) > 1:
        raise UserError(
            f"channels={{zip: ...}} of {where} has selections of lengths {lengths}; make them "
            "equal, or use product."
        )
    return list(zip(*parts, strict=True))


# --- words ---------------------------------------------------------------------------------------

_PLURALS = {"class": "classes"}

DRAW = (
    "Targets drawn at random are those whose numbers have the smallest SHA-256 digests, so layers "
    "of one width have the same."
)
"""How a reader can repeat the draw, which has no seed."""


def plural(word: str) -> str:
    """Return the plural of a target's noun, which may be several words: `neurons at the centre`."""
    noun, space, rest = word.partition(" at ")
    if not space:
        return _PLURALS.get(word, f"{word}s")
    return f"{plural(noun)}{space}{rest}"


@dataclass(frozen=True)
class Sampling:
    """The targets that a sweep chose of a layer, and of how many."""

    asked: Any
    """The value of `channels` in the config; None where it is not known."""
    targets: Sequence[int]
    """The numbers of the targets, ascending."""
    count: int
    """Number of targets of the layer."""
    noun: str = "channel"
    """Noun for a target: `channel`, `neuron at the centre`, `class`, `direction`, `combination`,
    `whole layer`."""

    @property
    def is_random(self) -> bool:
        """Whether the targets, or parts of them, were drawn at random."""
        return len(self.targets) < self.count and "random" in _keys(self.asked)

    def words(self, place: str = "") -> str:
        """Name the targets and how they were chosen.

        Args:
            place: layer and model, for their place in the sentence.
        """
        of, n = f" of {place}" if place else "", len(self.targets)
        if self.noun == "whole layer":
            return f"{self.noun}{of}"
        if self.noun == "combination":
            return f"{n} {_combined(n)}{of}{_paired(self.asked)}"
        if n == self.count:
            return f"{_all_words(n, self.noun)}{of}"
        if _is_range(self.asked, self.targets):
            within = f" in {place}" if place else ""
            return f"{_range_words(self.targets, self.noun)} of {self.count}{within}"
        return f"{n} of {counted(self.count, self.noun)}{of}{_manner(self.asked)}"


def _keys(asked: Any, depth: int = 3) -> set[str]:
    """Collect every key of a selection down to a depth."""
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


def _all_words(n: int, noun: str) -> str:
    return f"the only {noun}" if n == 1 else f"all {n} {plural(noun)}"


def _combined(n: int) -> str:
    return "combination of channels" if n == 1 else "combinations of channels"


def _paired(asked: Any) -> str:
    if isinstance(asked, Mapping):
        way = "every pairing of those chosen" if "product" in asked else "paired in order"
        return f", {way}{', some drawn at random' if 'random' in _keys(asked) else ''}"
    return " chosen by hand" if asked is not None else ""


def _manner(asked: Any) -> str:
    if asked is None:
        return ""
    # All targets and yet fewer than there are: a map has no images of empty cells.
    if asked == "all":
        return " that are populated"
    return " drawn at random" if "random" in _keys(asked) else " chosen by hand"


def _is_range(asked: Any, targets: Sequence[int]) -> bool:
    """Whether targets were asked for as a range; a class may be called `a:b`, but it is one."""
    return isinstance(asked, str) and ":" in asked and len(targets) > 1


def _range_words(targets: Sequence[int], noun: str) -> str:
    first, last = targets[0], targets[-1]
    step = targets[1] - first
    every = "" if step == 1 else f" in steps of {step}"
    return f"{plural(noun)} {first} to {last}{every}"


def joint_words(samplings: Sequence[tuple[Sampling, str]]) -> str:
    """Word how the targets of several layers were chosen, layers of the same words together.

    Args:
        samplings: the sampling of each layer, with its title.
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

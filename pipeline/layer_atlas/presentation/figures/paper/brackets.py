"""Brackets: lines along neighbours that belong together, with the names of their groups.

A name keeps to the length of its bracket, and so never reaches its neighbours: it is broken into
lines as far as there is room, its letters become smaller, and at last it is shortened.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.paper.sheet import Sheet

_MOST_LINES = 3
_STEP = 0.25
"""Points between two sizes of letters."""
_LARGE = 0.85
"""Letters need not be larger than this share of the usual size for names to have fewer lines."""


def runs(groups: Iterable[str]) -> list[tuple[str, list[int]]]:
    """Neighbours of one group: its name and their places; those of none are left out."""
    found = groupby(enumerate(groups), key=lambda item: item[1])
    return [(name, [place for place, _ in run]) for name, run in found if name]


@dataclass(frozen=True)
class Bracket:
    """A line along neighbours of one group; lengths in dots."""

    name: str
    start: float
    end: float
    edge: float
    """What is bracketed begins here: its top, or its left side."""
    room: int
    """From there to where the room for the name ends."""

    @property
    def length(self) -> float:
        """Of its line."""
        return self.end - self.start


def longest(brackets: Iterable[Bracket]) -> dict[str, Bracket]:
    """Of each name the longest bracket."""
    found: dict[str, Bracket] = {}
    for bracket in brackets:
        before = found.setdefault(bracket.name, bracket)
        if bracket.length > before.length:
            found[bracket.name] = bracket
    return found


def lines_needed(paper: PageSpec, brackets: Iterable[Bracket]) -> int:
    """Lines in which names can be read: as few as do without much smaller letters; 0 of none."""
    best = list(longest(brackets).values())
    readable = [bracket for bracket in best if _size(paper, bracket, _MOST_LINES)]
    sizes = {
        lines: min((_size(paper, bracket, lines) for bracket in readable), default=0.0)
        for lines in range(1, _MOST_LINES + 1)
    }
    enough = min(_LARGE * paper.format.small, max(sizes.values()))
    return next(lines for lines, size in sizes.items() if size >= enough) if best else 0


def bracket_room(paper: PageSpec, lines: int) -> int:
    """How much room brackets take whose names have so many lines."""
    return lines * paper.letters.line(paper.format.small) + paper.gap if lines else 0


def draw_above(sheet: Sheet, paper: PageSpec, brackets: Sequence[Bracket]) -> None:
    """Draw brackets above what they hold, and their names above them."""
    for bracket, size, lines in _named(paper, brackets):
        y, line = bracket.edge - paper.gap, paper.letters.line(size)
        sheet.lines([[(bracket.start, y), (bracket.end, y)]])
        for number, words in enumerate(lines):
            sheet.text((bracket.start, y - (len(lines) - number) * line), words, size)


def draw_beside(sheet: Sheet, paper: PageSpec, brackets: Sequence[Bracket]) -> None:
    """Draw brackets to the left of what they hold, their names turned."""
    for bracket, size, lines in _named(paper, brackets):
        x, line = bracket.edge - paper.gap, paper.letters.line(size)
        sheet.lines([[(x, bracket.start), (x, bracket.end)]])
        middle = (bracket.start + bracket.end) / 2
        for number, words in enumerate(lines):
            left = x - (len(lines) - number) * line
            sheet.text((left + line / 2, middle), words, size, turned=True)


def _named(
    paper: PageSpec, brackets: Sequence[Bracket]
) -> Iterator[tuple[Bracket, float, list[str]]]:
    """Each bracket with the size of its name's letters, and the name in lines of these.

    Letters are of one size, at which every name has room at the longest of its brackets; they are
    smaller at shorter ones, where a group is broken between rows, and at names that have no room.
    """
    least = paper.format.least
    best = (_size(paper, found, _lines(paper, found)) for found in longest(brackets).values())
    common = min(filter(None, best), default=least)
    for bracket in brackets:
        lines, long = _lines(paper, bracket), _long(paper, bracket)
        size = min(_size(paper, bracket, lines) or least, common)
        yield bracket, size, paper.letters.wrapped(bracket.name, size, long, lines)


def _size(paper: PageSpec, bracket: Bracket, lines: int) -> float:
    """The largest size of letters at which a name has room in so many lines; 0: there is none."""
    letters, sizes, room = paper.letters, paper.format, _long(paper, bracket)
    steps = np.arange(sizes.small, sizes.least - _STEP / 2, -_STEP)
    fitting = (float(size) for size in steps if letters.holds(bracket.name, size, room, lines))
    return next(fitting, 0.0)


def _long(paper: PageSpec, bracket: Bracket) -> float:
    """Room for a name along its bracket, a little apart from the next one."""
    return bracket.length - paper.gap


def _lines(paper: PageSpec, bracket: Bracket) -> int:
    """Lines that its name has room for."""
    return max(1, (bracket.room - paper.gap) // paper.letters.line(paper.format.small))

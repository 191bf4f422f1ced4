"""Brackets and dendrograms: lines along neighbours that belong together.

The name of a group keeps to the length of its bracket, and so never reaches its neighbours: it is
broken into lines as far as there is room, its letters become smaller, and at last it is cut short.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from layer_atlas.presentation.layout.figure import FigureCanvas, PageSpec
from layer_atlas.presentation.layout.page import Lines, Point
from layer_atlas.presentation.similarity import Tree

_MOST_LINES = 3
_BELOW = 0.25
"""Room below the first fork, as a fraction of that between the first and the last."""
_STEP = 0.25
"""Points between two sizes that are tried."""
_LARGE = 0.85
"""Letters need not be larger than this fraction of the usual size for names to have fewer lines."""


def runs(groups: Iterable[str]) -> list[tuple[str, list[int]]]:
    """Runs of neighbours of one group: its name and their positions; skips those of no group."""
    grouped = groupby(enumerate(groups), key=lambda item: item[1])
    return [(name, [position for position, _ in run]) for name, run in grouped if name]


@dataclass(frozen=True)
class Bracket:
    """A line along neighbours of one group; lengths in dots."""

    name: str
    start: float
    end: float
    edge: float
    """Top or left side of what is bracketed."""
    room: int
    """Room from there for the bracket and its name."""

    @property
    def length(self) -> float:
        """Length of the line."""
        return self.end - self.start


def longest(brackets: Iterable[Bracket]) -> dict[str, Bracket]:
    """The longest bracket of each name."""
    best: dict[str, Bracket] = {}
    for bracket in brackets:
        before = best.setdefault(bracket.name, bracket)
        if bracket.length > before.length:
            best[bracket.name] = bracket
    return best


def lines_needed(spec: PageSpec, brackets: Iterable[Bracket]) -> int:
    """Fewest lines in which names are legible without much smaller letters; 0 without brackets."""
    best = list(longest(brackets).values())
    readable = [bracket for bracket in best if _size(spec, bracket, _MOST_LINES)]
    sizes = {
        lines: min((_size(spec, bracket, lines) for bracket in readable), default=0.0)
        for lines in range(1, _MOST_LINES + 1)
    }
    enough = min(_LARGE * spec.format.small, max(sizes.values()))
    return next(lines for lines, size in sizes.items() if size >= enough) if best else 0


def bracket_room(spec: PageSpec, lines: int) -> int:
    """Room for brackets whose names have so many lines."""
    return lines * spec.font.line(spec.format.small) + spec.gap if lines else 0


def draw_above(canvas: FigureCanvas, spec: PageSpec, brackets: Sequence[Bracket]) -> None:
    """Draw brackets above what they hold, and their names above them."""
    for bracket, size, lines in _named(spec, brackets):
        y, line = bracket.edge - spec.gap, spec.font.line(size)
        canvas.lines(Lines([[(bracket.start, y), (bracket.end, y)]]))
        for number, words in enumerate(lines):
            corner = bracket.start, y - (len(lines) - number) * line
            canvas.text(spec.font.placed(corner, words, size, _long(spec, bracket)))


def draw_beside(canvas: FigureCanvas, spec: PageSpec, brackets: Sequence[Bracket]) -> None:
    """Draw brackets to the left of what they hold, their names turned."""
    for bracket, size, lines in _named(spec, brackets):
        x, line = bracket.edge - spec.gap, spec.font.line(size)
        canvas.lines(Lines([[(x, bracket.start), (x, bracket.end)]]))
        middle = (bracket.start + bracket.end) / 2
        for number, words in enumerate(lines):
            left = x - (len(lines) - number) * line
            at = left + line / 2, middle
            canvas.text(spec.font.turned(at, words, size, _long(spec, bracket)))


def _named(
    spec: PageSpec, brackets: Sequence[Bracket]
) -> Iterator[tuple[Bracket, float, list[str]]]:
    """Yield each bracket with the size of its name's letters, and the lines of its name.

    Letters are of one size, at which every name has room at the longest of its brackets; they are
    smaller at shorter ones, where a group is broken between rows, and at names that have no room.
    """
    least = spec.format.least
    best = (_size(spec, one, _lines(spec, one)) for one in longest(brackets).values())
    common = min(filter(None, best), default=least)
    for bracket in brackets:
        # Shorter pieces of a broken group must not shrink the names of the others.
        lines, long = _lines(spec, bracket), _long(spec, bracket)
        size = min(_size(spec, bracket, lines) or least, common)
        yield bracket, size, spec.font.wrapped(bracket.name, size, long, lines)


def _size(spec: PageSpec, bracket: Bracket, lines: int) -> float:
    """The largest size at which a name has room in so many lines; 0 if there is none."""
    font, sizes, room = spec.font, spec.format, _long(spec, bracket)
    steps = np.arange(sizes.small, sizes.least - _STEP / 2, -_STEP)
    fitting = (float(size) for size in steps if font.holds(bracket.name, size, room, lines))
    return next(fitting, 0.0)


def _long(spec: PageSpec, bracket: Bracket) -> float:
    """Room for a name along its bracket, a little apart from the next one."""
    return bracket.length - spec.gap


def _lines(spec: PageSpec, bracket: Bracket) -> int:
    """Number of lines that a name has room for."""
    return max(1, (bracket.room - spec.gap) // spec.font.line(spec.format.small))


def tree_lines(
    tree: Tree,
    leaves: Sequence[float],
    point: Callable[[float, float], Point],
    hang: float = 1.0,
) -> list[list[Point]]:
    """The forks of a dendrogram as polylines.

    Args:
        tree: a tree of n leaves.
        leaves: positions along a line, in order.
        point: maps a position along that line and a depth, 0 at the leaves and 1 at the root, to a
            point of the page.
        hang: greatest length of a line from a fork to a leaf, as a fraction of the depth.
    """
    numbers = np.arange(len(leaves))
    forks = tree.forks()
    depth_of = _scale([fork[1][1] for fork in forks])
    lines = []
    for fork in forks:
        top = depth_of(fork[1][1])
        depths = [depth_of(height) or max(0.0, top - hang) for _, height in fork]
        along = np.interp([leaf for leaf, _ in fork], numbers, leaves)
        lines.append([point(float(x), deep) for x, deep in zip(along, depths, strict=True)])
    return lines


def _scale(heights: Sequence[float]) -> Callable[[float], float]:
    """Map distances of forks to depths, 0 at the leaves and 1 at the root.

    The scale begins a little below the first fork: where nothing is very similar, all forks lie
    far from 0.
    """
    lowest, deepest = min(heights, default=0.0), max(heights, default=0.0)
    floor = max(0.0, lowest - _BELOW * (deepest - lowest or deepest))
    room = deepest - floor or 1.0
    return lambda height: (height - floor) / room if height else 0.0

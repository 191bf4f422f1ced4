"""Trees and brackets: what shows which neighbours belong together."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import numpy as np

from pipeline.figures.selection.similarity import Tree

Place = tuple[float, float]


def tree_lines(
    tree: Tree, leaves: Sequence[float], place: Callable[[float, float], Place]
) -> list[list[Place]]:
    """The forks of a tree as lines.

    Args:
        tree: of n leaves.
        leaves: where they lie along a line, in order.
        place: from a place along that line and a depth, 0 at the leaves and 1 at the root, to one
            on paper.
    """
    numbers = np.arange(len(leaves))
    forks = tree.forks()
    deepest = max((deep for fork in forks for _, deep in fork), default=0.0) or 1.0
    return [
        [place(float(np.interp(leaf, numbers, leaves)), deep / deepest) for leaf, deep in fork]
        for fork in forks
    ]


def runs(groups: Iterable[str]) -> list[tuple[str, list[int]]]:
    """Neighbours of one group: its name and their places; those of none are left out."""
    found = groupby(enumerate(groups), key=lambda item: item[1])
    return [(name, [place for place, _ in run]) for name, run in found if name]

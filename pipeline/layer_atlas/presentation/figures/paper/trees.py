"""Trees: how alike neighbours are."""

from collections.abc import Callable, Sequence

import numpy as np

from layer_atlas.presentation.figures.selection.similarity import Tree

Place = tuple[float, float]

_BELOW = 0.25
"""Room below the first fork, as a share of that between the first and the last."""


def tree_lines(
    tree: Tree,
    leaves: Sequence[float],
    place: Callable[[float, float], Place],
    hang: float = 1.0,
) -> list[list[Place]]:
    """The forks of a tree as lines.

    Args:
        tree: of n leaves.
        leaves: where they lie along a line, in order.
        place: from a place along that line and a depth, 0 at the leaves and 1 at the root, to one
            on paper.
        hang: lines from a fork to a leaf are no longer than that, in shares of the depth.
    """
    numbers = np.arange(len(leaves))
    forks = tree.forks()
    depth_of = _scale([fork[1][1] for fork in forks])
    lines = []
    for fork in forks:
        top = depth_of(fork[1][1])
        depths = [depth_of(height) or max(0.0, top - hang) for _, height in fork]
        along = np.interp([leaf for leaf, _ in fork], numbers, leaves)
        lines.append([place(float(x), deep) for x, deep in zip(along, depths, strict=True)])
    return lines


def _scale(heights: Sequence[float]) -> Callable[[float], float]:
    """From distances of forks to depths, 0 at the leaves and 1 at the root.

    It begins a little below the first fork: where nothing is very alike, all forks lie far from 0.
    """
    lowest, deepest = min(heights, default=0.0), max(heights, default=0.0)
    floor = max(0.0, lowest - _BELOW * (deepest - lowest or deepest))
    room = deepest - floor or 1.0
    return lambda height: (height - floor) / room if height else 0.0

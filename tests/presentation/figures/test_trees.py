"""Trees on paper: depths from the leaves to the root, and brackets over neighbours."""

import numpy as np
import pytest

from layer_atlas.presentation.figures.brackets import tree_lines
from layer_atlas.presentation.layout.page import Point
from layer_atlas.presentation.similarity import Tree


def tree_of(places: list[float]) -> Tree:
    """Of points on a line."""
    points = np.asarray(places)
    return Tree(np.abs(points[:, None] - points))


def drawn(tree: Tree, **how: float) -> list[list[Point]]:
    leaves = [10.0 * leaf for leaf in range(len(tree.apart))]
    return tree_lines(tree, leaves, lambda along, deep: (along, deep), **how)


def test_forks_join_neighbours_and_the_last_is_the_root() -> None:
    first, root = drawn(tree_of([0.0, 1.0, 5.0]))
    assert [along for along, _ in first] == [10, 10, 20, 20]
    assert [along for along, _ in root] == [0, 0, 15, 15]
    assert root[1][1] == 1
    assert [deep for _, deep in first if deep] == pytest.approx([first[1][1]] * 2)


def test_forks_are_spread_over_the_depth_though_nothing_is_alike() -> None:
    apart = np.full((4, 4), 1.0)
    apart[0, 1] = apart[1, 0] = 0.9
    np.fill_diagonal(apart, 0)
    depths = sorted(fork[1][1] for fork in drawn(Tree(apart)))
    # From 0 the first fork would lie at 0.9 of the depth.
    assert depths == pytest.approx([0.2, 1.0, 1.0])


def test_one_fork_and_equals_and_one_leaf_are_drawn() -> None:
    ((_, top, _, _),) = drawn(tree_of([0.0, 3.0]))
    assert top == (0, 1)
    assert [deep for fork in drawn(tree_of([2.0, 2.0])) for _, deep in fork] == [0, 0, 0, 0]
    assert drawn(tree_of([0.0])) == []


def test_lines_to_leaves_hang_no_longer_than_that() -> None:
    whole, hung = drawn(tree_of([0.0, 1.0, 5.0])), drawn(tree_of([0.0, 1.0, 5.0]), hang=0.1)
    assert [fork[1:3] for fork in hung] == [fork[1:3] for fork in whole]
    assert hung[1][0] == pytest.approx((0, 0.9))
    assert hung[1][3] == whole[1][3]  # ends at a fork

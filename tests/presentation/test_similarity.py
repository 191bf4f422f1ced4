"""Likeness of channels: known families are found, neighbours are alike, scale does not count."""

from itertools import chain, pairwise

import numpy as np
import pytest

from layer_atlas.presentation.similarity import (
    Tree,
    closest,
    distances,
    farthest,
    loneliest,
    medoid,
    standardised_columns,
)

FAMILY = np.asarray([0, 1, 2] * 8)


def responses(scale: float = 1.0) -> np.ndarray:
    """Of 24 channels in three families, of which one column is much louder than the others."""
    rng = np.random.default_rng(0)
    found = 3 * rng.normal(size=(3, 40))[FAMILY] + rng.normal(size=(24, 40))
    found[:, 7] *= scale
    return found


def test_columns_are_standardised_and_constant_ones_are_nothing() -> None:
    values = np.asarray([[1.0, 5.0], [3.0, 5.0]])
    assert standardised_columns(values).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_distance_is_one_minus_the_cosine_between_standardised_rows() -> None:
    found, rows = distances(responses()), standardised_columns(responses())
    cosine = rows[2] @ rows[5] / np.linalg.norm(rows[2]) / np.linalg.norm(rows[5])
    assert found[2, 5] == pytest.approx(1 - cosine)
    assert np.array_equal(found, found.T)
    assert not found.diagonal().any()


def test_a_loud_channel_does_not_outvote_the_others() -> None:
    assert np.allclose(distances(responses()), distances(responses(scale=1000.0)))


def test_families_are_the_clusters_and_lie_together() -> None:
    tree = Tree(distances(responses()))
    clusters = tree.clusters(3)
    assert [len(members) for members in clusters] == [8, 8, 8]
    assert all(len(set(FAMILY[members])) == 1 for members in clusters)
    assert list(chain(*clusters)) == tree.order
    assert sorted(tree.order) == list(range(24))


def test_neighbours_are_as_alike_as_the_tree_allows() -> None:
    tree = Tree(distances(responses()))

    def length(order: list[int]) -> float:
        return float(sum(tree.apart[a, b] for a, b in pairwise(order)))

    turned = tree.clusters(3)
    assert length(tree.order) <= min(
        length([*turned[0][::-1], *turned[1], *turned[2]]), length(list(range(24)))
    )


def test_forks_join_the_leaves_at_the_distances_of_the_merges() -> None:
    apart = np.asarray([[0, 0.2, 0.9], [0.2, 0, 0.7], [0.9, 0.7, 0]])
    tree = Tree(apart)
    (first, second) = tree.forks()
    assert {deep for _, deep in first} == {0.0, 0.2}
    assert max(deep for _, deep in second) == pytest.approx(0.8)  # average linkage


def test_one_channel_is_a_tree_too() -> None:
    tree = Tree(np.zeros((1, 1)))
    assert (tree.order, tree.clusters(4), tree.forks()) == ([0], [[0]], [])


def test_the_medoid_is_in_the_middle() -> None:
    places = np.asarray([0.0, 1.0, 2.0, 10.0])
    assert medoid(np.abs(places[:, None] - places), [0, 1, 2]) == 1


def test_the_farthest_come_first_and_none_twice() -> None:
    places = np.asarray([0.0, 1.0, 2.0, 10.0, 6.0])
    apart = np.abs(places[:, None] - places)
    assert farthest(apart, 3, first=0) == [0, 3, 4]
    assert sorted(farthest(apart, 9, first=0)) == [0, 1, 2, 3, 4]


def test_orders_are_the_same_every_time() -> None:
    assert Tree(distances(responses())).order == Tree(distances(responses().copy())).order


def test_the_closest_pairs_and_those_far_from_all() -> None:
    points = np.asarray([0.0, 1.0, 1.1, 5.0, 5.5, 20.0])
    apart = np.abs(points[:, None] - points)
    # 1 is near 0 too, but is in a pair already.
    assert closest(apart, 2) == [(1, 2), (3, 4)]
    assert closest(apart, 99) == [(1, 2), (3, 4), (0, 5)]
    assert loneliest(apart, 2) == [5, 0]

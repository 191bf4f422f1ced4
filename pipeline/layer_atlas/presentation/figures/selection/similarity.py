"""Which channels are alike: by what the whole layer answers to their images.

Responses are standardised by channel of the layer, so that loud channels do not outvote the others;
two images are as far apart as the cosine between what is left differs from 1.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage, optimal_leaf_ordering
from scipy.spatial.distance import squareform

Distances = NDArray[np.float64]
"""(n, n), symmetric, 0 to 2."""

_MOST_ORDERED = 1000
"""Beyond, the best order of leaves takes minutes, and that of the clustering has to do."""


def standardised(responses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Responses (n, K) in standard deviations from the mean of each column; 0 where it is one."""
    centred = responses - responses.mean(axis=0)
    return divided(centred, centred.std(axis=0))


def divided(values: NDArray[np.float64], by: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values divided by what is broadcast over them; 0 where that is 0."""
    found: NDArray[np.float64] = np.divide(values, by, out=np.zeros_like(values), where=by > 0)
    return found


def distances(responses: NDArray[np.float64]) -> Distances:
    """How far the images of n channels are apart, by the responses (n, K) to them."""
    rows = standardised(responses)
    rows = divided(rows, np.linalg.norm(rows, axis=1, keepdims=True))
    found: Distances = 1 - rows @ rows.T
    np.fill_diagonal(found, 0)
    # Exactly symmetric, whatever the order in which products were summed.
    return (found + found.T).clip(0, 4) / 2


@dataclass(frozen=True)
class Tree:
    """Which channels are alike, and which of these groups, up to all of them."""

    apart: Distances

    @cached_property
    def links(self) -> NDArray[np.float64]:
        """Merges (n - 1, 4) as scipy has them: two nodes, their distance, how many leaves."""
        flat = squareform(self.apart, checks=False)
        links: NDArray[np.float64] = linkage(flat, "average")
        return optimal_leaf_ordering(links, flat) if len(links) < _MOST_ORDERED else links

    @cached_property
    def order(self) -> list[int]:
        """All n, such that neighbours are alike (Bar-Joseph et al. 2001)."""
        return [0] if len(self.apart) == 1 else leaves_list(self.links).tolist()

    def clusters(self, count: int) -> list[list[int]]:
        """The tree cut into so many groups or fewer, in order."""
        if len(self.apart) == 1:
            return [[0]]
        labels = fcluster(self.links, count, "maxclust")
        groups: dict[int, list[int]] = {}
        for leaf in self.order:
            groups.setdefault(int(labels[leaf]), []).append(leaf)
        return list(groups.values())

    def forks(self) -> list[list[tuple[float, float]]]:
        """The tree as lines for drawing: each fork as four points (place in order, distance)."""
        n = len(self.apart)
        place = dict(zip(self.order, range(n), strict=True))
        nodes = [(float(place[leaf]), 0.0) for leaf in range(n)]
        forks = []
        for a, b, height, _ in self.links if n > 1 else ():
            (left, low), (right, other) = sorted((nodes[int(a)], nodes[int(b)]))
            forks.append([(left, low), (left, height), (right, height), (right, other)])
            nodes.append(((left + right) / 2, float(height)))
        return forks


def medoid(apart: Distances, members: list[int]) -> int:
    """The member that is nearest to all others."""
    return members[int(np.argmin(apart[np.ix_(members, members)].sum(axis=1)))]


def farthest(apart: Distances, count: int, first: int) -> list[int]:
    """So many, each as far as possible from all before it (Gonzalez 1985)."""
    found, near = [first], apart[first].copy()
    while len(found) < min(count, len(apart)):
        found.append(int(np.argmax(near)))
        near = np.minimum(near, apart[found[-1]])
        near[found] = -1
    return found


def closest(apart: Distances, count: int) -> list[tuple[int, int]]:
    """So many pairs that are nearest to each other, the nearest first; no member in two of them."""
    pairs: list[tuple[int, int]] = []
    rest = apart.copy()
    np.fill_diagonal(rest, np.inf)
    while len(pairs) < min(count, len(apart) // 2):
        a, b = sorted(map(int, np.unravel_index(np.argmin(rest), rest.shape)))
        pairs.append((a, b))
        rest[[a, b]] = rest[:, [a, b]] = np.inf
    return pairs


def loneliest(apart: Distances, count: int) -> list[int]:
    """So many members that are farthest from their nearest neighbours, the farthest first."""
    rest = apart.copy()
    np.fill_diagonal(rest, np.inf)
    found: list[int] = np.argsort(-rest.min(axis=1), kind="stable")[:count].tolist()
    return found

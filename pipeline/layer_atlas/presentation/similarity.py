"""Similarity of targets: the cosine between a layer's standardized responses to their images.

Responses are standardized by channel of the layer, so that loud channels do not outvote the others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Layer
from layer_atlas.datasets.evidence import standardized, unit_rows
from layer_atlas.datasets.projection import (
    Projection,
    fit_neighbours,
    in_unit_square,
    principal_axes,
    project,
)

Distances = NDArray[np.float64]
"""Distances (n, n): one minus the cosine, symmetric, 0 to 2."""

NEIGHBOURS = 12
SIMILAR = 0.5
"""Cosine from which on targets are called similar: more than half of their standardized responses
point the same way."""
_MOST_ORDERED = 1000
"""Leaves; the optimal order of more would take minutes, so the clustering's order is kept."""
_BLOCK_BYTES = 2**25
_STILL = 1e-6
"""Standard deviation below which a response does not distinguish images: sums in single steps of
equal numbers round to about that."""


def standardised_columns(responses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Responses (n, K) in standard deviations from each column's mean; 0 where it is constant."""
    return standardized(responses, responses.mean(axis=0), responses.std(axis=0))


def distances(responses: NDArray[np.float64]) -> Distances:
    """Distances between the images of n targets, by the responses (n, K) to them."""
    rows = unit_rows(standardised_columns(responses))
    apart: Distances = 1 - rows @ rows.T
    np.fill_diagonal(apart, 0)
    # Exactly symmetric, whatever the order in which products were summed.
    return (apart + apart.T).clip(0, 4) / 2


def medoid(apart: Distances, members: list[int]) -> int:
    """The member that is nearest to all others."""
    return members[int(np.argmin(apart[np.ix_(members, members)].sum(axis=1)))]


def farthest(apart: Distances, count: int, first: int) -> list[int]:
    """So many members, each as far as possible from all before it (Gonzalez 1985)."""
    chosen, near = [first], apart[first].copy()
    while len(chosen) < min(count, len(apart)):
        chosen.append(int(np.argmax(near)))
        near = np.minimum(near, apart[chosen[-1]])
        near[chosen] = -1
    return chosen


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
    order: list[int] = np.argsort(-rest.min(axis=1), kind="stable")[:count].tolist()
    return order


# --- layers of any width -------------------------------------------------------------------------


def nearest(layer: Layer, lead: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Find the most similar targets of each target, block by block, for a layer of any width.

    Args:
        layer: a layer of C targets.
        lead: the seed whose image represents each (C,).
    Returns: rows (C, n), the most similar first and never the target itself, and cosines (C, n).
    """
    count = len(lead)
    n = min(NEIGHBOURS, count - 1)
    rows, cosines = np.zeros((count, n), np.intp), np.full((count, n), -np.inf, np.float32)
    if n < 1 or "response" not in layer:
        return rows[:, :0], cosines[:, :0]
    responses = _Responses(layer, lead)
    # Every block against every other: memory is bounded by two blocks and their products.
    for start, some in responses.blocks():
        mine = slice(start, start + len(some))
        for other_start, others in responses.blocks():
            alike = some @ others.T
            columns = np.arange(other_start, other_start + len(others))
            alike[columns[None] == np.arange(mine.start, mine.stop)[:, None]] = -np.inf
            _keep_best(rows[mine], cosines[mine], columns, alike)
    return rows, cosines


_TOGETHER = 15
"""Targets of similar response that UMAP and t-SNE keep together; the default of the former."""


def lay_out(layer: Layer, lead: NDArray[np.intp], projection: Projection) -> NDArray[np.float32]:
    """Lay the targets of a layer out in two dimensions, those of similar response side by side.

    Args:
        layer: a layer of C targets.
        lead: the seed whose image represents each (C,).
        projection: `umap`, `tsne`, or `pca` for the two directions of largest variance.
    Returns: x and y in [0, 1] of each target (C, 2), y downwards; NaN where there is no image.
    """
    points = np.full((len(lead), 2), np.nan, np.float32)
    if "response" not in layer:
        return points
    rows = np.concatenate([block for _, block in _Responses(layer, lead).blocks()])
    made = (rows != 0).any(axis=1)
    vectors = rows[made]
    fitted = fit_neighbours(projection, vectors, _TOGETHER, seed=0)
    if fitted is not None:
        found = np.asarray(fitted.embedding_, np.float32)
    else:
        mean = vectors.mean(axis=0, dtype=np.float64)
        covariance = vectors.T.astype(np.float64) @ vectors / max(len(vectors), 1)
        axes = principal_axes(covariance - np.outer(mean, mean))
        found = project(vectors, mean, axes)
    points[made] = in_unit_square(found)
    return points


def _keep_best(
    rows: NDArray[np.intp],
    cosines: NDArray[np.float32],
    columns: NDArray[np.intp],
    alike: NDArray[np.float32],
) -> None:
    """Merge a block of cosines into the best rows and cosines so far, best first."""
    if alike.shape[1] > rows.shape[1]:
        # Sorting all would take most of the time. The last ones may be any of equal cosines.
        chosen = np.sort(np.argpartition(-alike, rows.shape[1], axis=1)[:, : rows.shape[1]], axis=1)
        columns, alike = columns[chosen], np.take_along_axis(alike, chosen, axis=1)
    every = np.concatenate([cosines, alike], axis=1)
    names = np.concatenate([rows, np.broadcast_to(columns, alike.shape)], axis=1)
    best = np.argsort(-every, axis=1, kind="stable")[:, : rows.shape[1]]
    rows[...] = np.take_along_axis(names, best, axis=1)
    cosines[...] = np.take_along_axis(every, best, axis=1)


class _Responses:
    """Standardized responses of unit length, read in blocks of targets."""

    def __init__(self, layer: Layer, lead: NDArray[np.intp]) -> None:
        self._data: h5py.Dataset = layer.dataset("response")
        self._lead, self._variants = lead, bool(layer.variants)
        width = int(self._data.shape[-1])
        # Neither a block nor the cosines of two are larger.
        self._rows = max(1, min(_BLOCK_BYTES // (4 * width), math.isqrt(_BLOCK_BYTES // 4)))
        self._mean, self._std = self._moments(width)
        self._whole = self._unit(0, len(lead)) if len(lead) <= self._rows else None

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First row and responses (n, K) of each block."""
        if self._whole is not None:
            yield 0, self._whole
            return
        for start in range(0, len(self._lead), self._rows):
            yield start, self._unit(start, start + self._rows)

    def _moments(self, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation (K,) of each response over the images that were made."""
        count, total, squares = 0, np.zeros(width), np.zeros(width)
        for start in range(0, len(self._lead), self._rows):
            block = self._raw(start, start + self._rows)
            made = block[np.isfinite(block).all(axis=1)].astype(np.float64)
            count += len(made)
            total += made.sum(axis=0)
            squares += np.square(made).sum(axis=0)
        mean = total / max(count, 1)
        std = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
        return mean, np.where(std > _STILL, std, 0.0)

    def _unit(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows (n, K) of length 1; zeros where there is no image."""
        raw = self._raw(start, stop)
        made = np.isfinite(raw).all(axis=1, keepdims=True)
        rows = standardized(np.where(made, raw, self._mean), self._mean, self._std)
        return unit_rows(rows).astype(np.float32)

    def _raw(self, start: int, stop: int) -> NDArray[np.float32]:
        """Responses (n, K) to the images that represent targets; NaN where there are none."""
        lead = self._lead[start:stop]
        responses: NDArray[np.float32] = np.empty((len(lead), self._data.shape[-1]), np.float32)
        for seed in np.unique(lead):
            place = (slice(start, start + len(lead)), int(seed))
            block = self._data[(*place, 0) if self._variants else place]
            responses[lead == seed] = block[lead == seed]
        return responses


@dataclass(frozen=True)
class Tree:
    """A hierarchical clustering of n targets by average linkage."""

    apart: Distances

    @cached_property
    def links(self) -> NDArray[np.float64]:
        """Merges (n - 1, 4) as in scipy: two nodes, their distance, their number of leaves."""
        # Scipy is an extra, and takes half a second to import: only figures need it.
        from scipy.cluster.hierarchy import linkage, optimal_leaf_ordering
        from scipy.spatial.distance import squareform

        flat = squareform(self.apart, checks=False)
        links: NDArray[np.float64] = linkage(flat, "average")
        if len(links) >= _MOST_ORDERED:
            return links
        ordered: NDArray[np.float64] = optimal_leaf_ordering(links, flat)
        return ordered

    @cached_property
    def order(self) -> list[int]:
        """All n leaves, ordered so that neighbours are similar (Bar-Joseph et al. 2001)."""
        from scipy.cluster.hierarchy import leaves_list

        return [0] if len(self.apart) == 1 else leaves_list(self.links).tolist()

    def clusters(self, count: int) -> list[list[int]]:
        """Cut the tree into so many groups or fewer, in order."""
        if len(self.apart) == 1:
            return [[0]]
        from scipy.cluster.hierarchy import fcluster

        labels = fcluster(self.links, count, "maxclust")
        groups: dict[int, list[int]] = {}
        for leaf in self.order:
            groups.setdefault(int(labels[leaf]), []).append(leaf)
        return list(groups.values())

    def forks(self) -> list[list[tuple[float, float]]]:
        """Each fork as four points (position in the order, distance), for drawing."""
        n = len(self.apart)
        position = dict(zip(self.order, range(n), strict=True))
        nodes = [(float(position[leaf]), 0.0) for leaf in range(n)]
        forks = []
        for a, b, height, _ in self.links if n > 1 else ():
            (left, low), (right, other) = sorted((nodes[int(a)], nodes[int(b)]))
            forks.append([(left, low), (left, height), (right, height), (right, other)])
            nodes.append(((left + right) / 2, float(height)))
        return forks

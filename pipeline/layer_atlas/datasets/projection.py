"""Projections to two dimensions: UMAP, t-SNE, principal axes, and the square of the points.

McInnes et al. 2018, "UMAP: Uniform manifold approximation and projection", arXiv 1802.03426.
van der Maaten & Hinton 2008, "Visualizing data using t-SNE", JMLR 9. It starts from principal axes,
as Kobak & Berens 2019 advise (doi:10.1038/s41467-019-13056-x): what is far apart stays so.
"""

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import unit_rows
from layer_atlas.errors import UserError

Projection = Literal["umap", "tsne", "pca"]
"""How vectors are laid out in two dimensions."""

TRIMMED = 0.01
"""Fraction of the points beyond either end of an axis, which are moved to the end: a few outliers
would leave most of the square empty."""
_FEWEST = 8
"""UMAP and t-SNE need neighbours, and fewer points than these fill no map anyway."""
_START = 1e-4
"""Standard deviation of the points that t-SNE starts from: neighbours find together from afar."""
_AT_ONCE = 256
"""Vectors that are compared with all fitted ones at a time."""
_PACKAGES = {"umap": ("umap", "umap-learn"), "tsne": ("sklearn", "scikit-learn")}
"""Module and distribution that a projection needs."""


def check_projection(projection: str, setting: str) -> None:
    """Check that what a projection needs can be imported.

    Args:
        projection: any value of the setting.
        setting: what asks for it, for the message.
    Raises:
        UserError: it is not installed.
    """
    module, package = _PACKAGES.get(projection, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise UserError(
            f"{setting}={projection} needs the package {package}: pip install 'layer-atlas[maps]'. "
            f"{setting}=pca needs nothing further."
        )


class Fitted(Protocol):
    """A projection of some vectors that takes others along."""

    @property
    def embedding_(self) -> NDArray[np.float32]:
        """Points (n, 2) of the vectors that it was fitted to."""
        ...

    def transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the points (m, 2) of further vectors."""
        ...


def fit_neighbours(
    projection: Projection, vectors: NDArray[np.float32], neighbours: int, seed: int
) -> Fitted | None:
    """Fit a projection that keeps vectors of large cosine together, to the same bits every time.

    Args:
        projection: which one.
        vectors: (n, K).
        neighbours: number of nearest vectors that are kept together.
        seed: of its random numbers.
    Returns: None where principal axes are wanted, or all that there is sense in.
    """
    if projection == "pca" or len(vectors) < _FEWEST:
        return None
    fit = _fit_umap if projection == "umap" else _fit_tsne
    return fit(vectors, neighbours, seed)


def _fit_umap(vectors: NDArray[np.float32], neighbours: int, seed: int) -> Fitted:
    from umap import UMAP

    reducer = UMAP(
        n_neighbors=min(neighbours, len(vectors) - 1),
        min_dist=0.1,
        metric="cosine",
        random_state=seed,
        n_jobs=1,  # several threads would add up in another order every time
    )
    with warnings.catch_warnings():
        # Of its own choices: how it starts, and that one thread is slower.
        warnings.simplefilter("ignore")
        fitted: Fitted = reducer.fit(vectors)
    return fitted


@dataclass(frozen=True, eq=False)
class _Tsne:
    """Points of t-SNE, which has no place for others: they lie on the most similar fitted one."""

    rows: NDArray[np.float32]
    """(n, K) of length 1."""
    embedding_: NDArray[np.float32]

    def transform(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = range(0, len(vectors), _AT_ONCE)
        nearest = [(vectors[i : i + _AT_ONCE] @ self.rows.T).argmax(axis=1) for i in parts]
        points: NDArray[np.float32] = self.embedding_[np.concatenate(nearest)]
        return points


def _fit_tsne(vectors: NDArray[np.float32], neighbours: int, seed: int) -> Fitted:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Between rows of length 1 the squared distance is twice one minus the cosine.
    rows = unit_rows(vectors.astype(np.float64))
    centre = rows.mean(axis=0)
    covariance = rows.T @ rows / len(rows) - np.outer(centre, centre)
    start = project(rows, centre, principal_axes(covariance))
    reducer = TSNE(
        perplexity=min(neighbours, (len(rows) - 1) / 3),
        init=start / max(float(start[:, 0].std()), 1e-12) * _START,
        random_state=seed,
    )
    compared = rows.astype(np.float32)
    with threadpool_limits(1):  # several would add up in another order every time
        points = reducer.fit_transform(compared)
    return _Tsne(compared, np.asarray(points, np.float32))


def principal_axes(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two directions of largest variance: (K, 2), or (K, 1) for one channel."""
    axes: NDArray[np.float64] = np.linalg.eigh(covariance)[1][:, ::-1][:, :2]
    # The sign of an eigenvector is arbitrary; its largest number is made positive.
    largest = axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])]
    return axes * np.where(largest < 0, -1.0, 1.0)


def project(
    vectors: NDArray[Any], mean: NDArray[np.float64], axes: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the coordinates (n, 2) of vectors (n, K) along axes; a missing one is 0."""
    points = (vectors.astype(np.float64) - mean) @ axes
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))).astype(np.float32)


def in_unit_square(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch points to the unit square, without a few outliers at each end of both axes."""
    if not len(points):
        return points
    low, high = np.quantile(points, [TRIMMED, 1 - TRIMMED], axis=0)
    stretched = np.clip((points - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.asarray(stretched, np.float32)

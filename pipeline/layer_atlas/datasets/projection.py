"""Projections to two dimensions: UMAP, principal axes, and the square that points are laid out in.

McInnes et al. 2018, "UMAP: Uniform manifold approximation and projection", arXiv 1802.03426.
"""

import importlib.util
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.errors import UserError

TRIMMED = 0.01
"""Fraction of the points beyond either end of an axis, which are moved to the end: a few outliers
would leave most of the square empty."""
FEWEST_FOR_UMAP = 8
"""UMAP needs neighbours, and fewer points than these fill no map anyway."""


def check_umap(setting: str) -> None:
    """Check that UMAP can be imported.

    Args:
        setting: what asks for it, for the message.
    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("umap") is None:
        raise UserError(
            f"{setting}=umap needs the package umap-learn: pip install 'layer-atlas[maps]'. "
            f"{setting}=pca needs nothing further."
        )


def fit_umap(vectors: NDArray[np.float32], neighbours: int, seed: int) -> Any:
    """Fit a UMAP by cosine, with the same bits every time; `embedding_` has the points (n, 2).

    Args:
        vectors: (n, K).
        neighbours: number of nearest vectors that are kept together.
        seed: of its random numbers.
    """
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
        return reducer.fit(vectors)


def principal_axes(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two directions of largest variance: (K, 2), or (K, 1) for one channel."""
    axes: NDArray[np.float64] = np.linalg.eigh(covariance)[1][:, ::-1][:, :2]
    # The sign of an eigenvector is arbitrary; its largest number is made positive.
    largest = axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])]
    return axes * np.where(largest < 0, -1.0, 1.0)


def project(
    vectors: NDArray[np.float32], mean: NDArray[np.float64], axes: NDArray[np.float64]
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

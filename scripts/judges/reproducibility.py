"""Reproducibility: whether images of two seeds of a target excite the same other channels."""

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import unit_rows


def seed_similarity(
    responses: NDArray[np.float64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare the images of different seeds in the standardized responses of their layer.

    The targets of both images are excluded, so an image gains nothing by reaching its own.

    Args:
        responses: (S, n, K) standardized mean response of each channel to the image of each seed
            and target.
        targets: (n,) the target channels.
    Returns:
        same (n,): mean cosine over pairs of seeds of one target; NaN with a single seed;
        different (n,): the control, between each target's image and those of all other targets
            with another seed; NaN with a single seed or target.
    """
    n_seeds, n = responses.shape[:2]
    pairs = [(a, b) for a in range(n_seeds) for b in range(n_seeds) if a != b]
    if not pairs:
        return np.full(n, np.nan), np.full(n, np.nan)
    cosines = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            without = np.delete(responses, [targets[i], targets[j]], axis=2)
            left, right = unit_rows(without[:, i]), unit_rows(without[:, j])
            cosines[i, j] = np.mean([left[a] @ right[b] for a, b in pairs])
    same = cosines.diagonal().copy()
    if n == 1:
        return same, np.full(1, np.nan)
    return same, (cosines.sum(axis=1) - same) / (n - 1)

"""Similarity in the features of a network: standardised over photographs, then the cosine."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import standardised, unit_rows


@dataclass(frozen=True)
class FeatureSpace:
    """Features of photographs, and the space that they span."""

    mean: NDArray[np.float64]
    """(D,) mean of each feature over the photographs."""
    std: NDArray[np.float64]
    """(D,) its standard deviation; a constant feature has no part in a similarity."""
    dataset_images: NDArray[np.float64]
    """(N, D) features of the photographs, standardised, each row of length 1."""

    def unit(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Standardise features (n, D) and scale each row to length 1."""
        return unit_rows(standardised(features, self.mean, self.std))

    def cosines(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return the similarity (n, N) of images with features (n, D) to each photograph."""
        similarity: NDArray[np.float64] = self.unit(features) @ self.dataset_images.T
        return similarity


def feature_space(features: NDArray[Any]) -> FeatureSpace:
    """Make the space of the features (N, D) of photographs."""
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, ddof=1, dtype=np.float64)
    return FeatureSpace(mean, std, unit_rows(standardised(features, mean, std)))

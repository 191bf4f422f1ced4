"""Recognisability: does an image predict what excites its target, in the eyes of another network?

An observer sees an explanation of a target, such as its optimized image, and two dataset images:
one of those that excite the target most, one of those that excite it least. It picks the one that
resembles the explanation more. The observer is another network, and the resemblance of two images
is the cosine of their features. The target's own network has no part in the choice, so images that
merely fool it are not recognisable.

After the psychophysics of Borowski et al. 2021, "Exemplary natural images explain CNN activations
better than state-of-the-art feature visualization", ICLR, and Zimmermann et al. 2023, "Scale alone
does not improve mechanistic interpretability in vision models", NeurIPS; by machine as in
Zimmermann et al. 2024, "Measuring per-unit interpretability at scale without humans", NeurIPS.
`docs/statistics.md` describes what the number can and cannot show.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import STRONGEST, standardised, unit_rows
from layer_atlas.datasets.statistics import strongest

QUERIES = 10
"""Number of the strongest, and of the weakest, dataset images of a target in its queries."""

SLOPE = 10.0
"""Slope of the confidence: a cosine that is larger by 0.1 gives 0.73, by 0.3 0.95."""

_TIE = 1e-9


@dataclass(frozen=True)
class FeatureSpace:
    """Features of N dataset images in an observer, and the space that they span."""

    mean: NDArray[np.float64]
    """(D,) mean of each feature over the dataset images."""
    std: NDArray[np.float64]
    """(D,) its standard deviation; a constant feature has no part in a similarity."""
    dataset_images: NDArray[np.float64]
    """(N, D) features of the dataset images, standardised, each row of length 1."""

    def unit(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Standardise features (n, D) and scale each row to length 1."""
        return unit_rows(standardised(features, self.mean, self.std))

    def cosines(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return the similarity (n, N) of images with features (n, D) to each dataset image."""
        similarity: NDArray[np.float64] = self.unit(features) @ self.dataset_images.T
        return similarity


def feature_space(features: NDArray[Any]) -> FeatureSpace:
    """Make the space of the features (N, D) of dataset images."""
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, ddof=1, dtype=np.float64)
    return FeatureSpace(mean, std, unit_rows(standardised(features, mean, std)))


@dataclass(frozen=True)
class Queries:
    """Held-out dataset images of n targets, the most extreme first."""

    strong: NDArray[np.int64]
    """(n, Q) those that excite the target most."""
    weak: NDArray[np.int64]
    """(n, Q) those that excite it least."""
    valid: NDArray[np.bool_]
    """(n, Q, Q) whether the first excites the target more than the second; others do not count."""


@dataclass(frozen=True)
class Choices:
    """Choices of an observer, per target."""

    accuracy: NDArray[np.float64]
    """(n,) fraction of the pairs with the right choice, ties counting half; NaN without pairs."""
    confidence: NDArray[np.float64]
    """(n,) mean logistic function of the difference of similarities, as in the score of 2024."""


def is_held_out(count: int) -> NDArray[np.bool_]:
    """Return which of `count` dataset images are for queries: those of even number."""
    even: NDArray[np.bool_] = np.arange(count) % 2 == 0
    return even


def draw_queries(
    responses: NDArray[np.float32], used: NDArray[np.bool_] | None = None, most: int = QUERIES
) -> Queries:
    """Choose the strongest and the weakest held-out dataset images of each target.

    Args:
        responses: (N, n) mean response of each target to each dataset image.
        used: (n, N) dataset images that an explanation of the target was made from, such as the
            one that it started as. They are in no query.
        most: largest number of either kind.
    Raises:
        ValueError: too few dataset images.
    """
    count, n = responses.shape
    allowed = np.tile(is_held_out(count), (n, 1))
    if used is not None:
        allowed &= ~used
    pairs = min(most, int(allowed.sum(axis=1).min()) // 2)
    if pairs < 1:
        raise ValueError("a query needs two held-out dataset images.")
    strong, weak = (
        strongest(np.where(allowed.T, values, -np.inf).astype(np.float32), pairs)
        for values in (responses, -responses)
    )
    target = np.arange(n)[:, None]
    high, low = responses[strong, target], responses[weak, target]
    return Queries(strong, weak, high[:, :, None] > low[:, None, :])


def strongest_references(
    responses: NDArray[np.float32], most: int = STRONGEST
) -> NDArray[np.int64]:
    """Return the strongest dataset images (n, most) of each target that are in no query.

    As explanations they are the ceiling: what dataset images of the target itself achieve.
    """
    odd = np.flatnonzero(~is_held_out(len(responses)))
    return odd[strongest(responses[odd], min(most, len(odd)))]


def resemblance(space: FeatureSpace, explanations: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return how much each target's explanations resemble each dataset image: (n, N).

    It is relative to how much the explanations of the other targets do: optimized images have much
    in common that photographs have not, and would all resemble the same ones. With one target
    there is nothing to compare with, and the result is NaN.

    Args:
        space: features of the dataset images in the observer.
        explanations: (n, E, D) features of the E explanations of each target. Their similarities
            are averaged.
    """
    n, count, features = explanations.shape
    units = space.unit(explanations.reshape(n * count, features)).reshape(n, count, -1)
    hints = units.mean(axis=1)
    return distinctive(hints, hints.sum(axis=0), n) @ space.dataset_images.T


def distinctive(
    hints: NDArray[np.float64], total: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Subtract from each hint (n, D) the mean of all others: the total (D,) is of `count` hints."""
    if count < 2:
        return np.full_like(hints, np.nan)
    return hints - (total - hints) / (count - 1)


def choose(similar: NDArray[np.float64], queries: Queries) -> Choices:
    """Choose between the dataset images of every pair of a strong and a weak one.

    The accuracy is the area under the ROC curve of the similarity, as a detector of strong ones.

    Args:
        similar: (n, N) from `resemblance`.
        queries: the dataset images of each target.
    """
    target = np.arange(len(similar))[:, None]
    strong, weak = similar[target, queries.strong], similar[target, queries.weak]
    difference = strong[:, :, None] - weak[:, None, :]
    # An explanation without features, such as a grey image, resembles both equally.
    right = np.where(np.abs(difference) <= _TIE, 0.5, difference > 0)
    confident = 1.0 / (1.0 + np.exp(-SLOPE * difference))
    valid = queries.valid & np.isfinite(difference)
    return Choices(_mean(right, valid), _mean(confident, valid))


def choose_shuffled(similar: NDArray[np.float64], queries: Queries) -> Choices:
    """Choose by the explanations of every other target in turn: the control, about 50 %.

    More than that is what images have in common with whatever excites the layer at all.
    """
    n = len(similar)
    if n < 2:
        return Choices(np.full(n, np.nan), np.full(n, np.nan))
    turns = [choose(np.roll(similar, -shift, axis=0), queries) for shift in range(1, n)]
    return Choices(
        np.mean([turn.accuracy for turn in turns], axis=0),
        np.mean([turn.confidence for turn in turns], axis=0),
    )


def _mean(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    counted = valid.sum(axis=(1, 2))
    total = np.where(valid, values, 0.0).sum(axis=(1, 2))
    return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)

"""Evidence that an image shows what a channel detects, rather than merely activating it.

The reference is natural images: the responses of a layer to an image are compared with its
responses to the dataset images that activate the channel most. The target channel itself is
excluded, so an image gains nothing by activating it. Recognisability asks another network. Pure
functions of stored responses; nothing here runs a network.

`docs/statistics.md` describes what each number can and cannot show.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.statistics import DatasetStats, strongest
from layer_atlas.plan.jobs import STATUS

STRONGEST = 9
"""Number of dataset images that represent a channel.

A single one may be an outlier, and many are no longer strong.
"""

_TIE = 1e-9
"""Cosines closer than this are equal: channels with the same images differ by rounding only."""

_SHORTEST = 1e-6
"""Length of standardized responses, in standard deviations, below which they have no direction."""

_AT_ONCE = 64
"""Images, or channels, in memory at a time.

Matrix products always have this many rows: products of fewer rows may round differently, and an
image's numbers would depend on the number of images.
"""


@dataclass(frozen=True)
class Reference:
    """Responses of a layer of K channels to dataset images, in double precision."""

    mean: NDArray[np.float64]
    """(K,) mean of the responses to all dataset images."""
    std: NDArray[np.float64]
    """(K,) sample standard deviation; 0 for a channel with constant responses."""
    templates: NDArray[np.float64]
    """(K, K): row k is the mean standardized response to channel k's strongest dataset images."""


def make_reference(rows: NDArray[np.float32]) -> Reference:
    """Compute the reference of a layer from its responses to dataset images.

    Args:
        rows: (R, K) mean response of each channel to each of R dataset images, as in
            `DatasetStats`.
    Raises:
        ValueError: fewer dataset images than `STRONGEST`.
    """
    if len(rows) < STRONGEST:
        raise ValueError(f"{STRONGEST} dataset images are required, not {len(rows)}.")
    # Sums of equal numbers are exact in twice their precision, so their deviation is exactly 0.
    mean, std = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, ddof=1, dtype=np.float64)
    templates = np.empty((rows.shape[1], rows.shape[1]))
    for start in range(0, len(templates), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        dataset_images = rows[strongest(rows[:, block], STRONGEST)]
        templates[block] = standardized(dataset_images.mean(axis=1, dtype=np.float64), mean, std)
    return Reference(mean, std, templates)


def standardized(
    responses: NDArray[Any], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return responses (n, K) in standard deviations from the mean; 0 for constant channels."""
    varies = std > 0
    return np.where(varies, (responses - mean) / np.where(varies, std, 1.0), 0.0)


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (n, K) of length 1, whose products are cosines; a row without a direction is zeros."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.zeros_like(rows)
    np.divide(rows, length, out=unit, where=length > _SHORTEST)
    return unit


def agreement(
    reference: Reference, response: NDArray[np.float32], channels: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Compare a layer's responses to images with its responses to dataset images.

    Both are vectors in the layer's standardized response space without the target channel.

    Args:
        reference: the layer's reference.
        response: (n, K) mean response of each channel to each image.
        channels: (n,) the target channel, 0 to K - 1, of each image.
    Returns:
        agreement (n,) float64: cosine between the image and the channel's strongest dataset images;
            0 where either equals the mean of all dataset images, and where there is no other
            channel;
        rank (n,) int64: one plus the number of channels whose dataset images resemble the image
            more than those of its own channel do. For a non-finite image, all of them do.
    """
    n, n_channels = response.shape
    agrees, rank = np.empty(n), np.empty(n, np.int64)
    squares = np.square(reference.templates).sum(axis=1)
    for start in range(0, n, _AT_ONCE):
        block = slice(start, min(start + _AT_ONCE, n))
        size = block.stop - start
        images, targets = np.zeros((_AT_ONCE, n_channels)), np.zeros(_AT_ONCE, np.intp)
        # The last block is padded with zero rows, and their results are cut off.
        images[:size] = standardized(response[block], reference.mean, reference.std)
        targets[:size] = channels[block]
        cosines = _cosines(reference.templates, squares, images, targets)[:size]
        own = cosines[np.arange(size), targets[:size]]
        agrees[block] = own
        # Not `cosines > own`: a NaN must count as more similar.
        rank[block] = 1 + (~(cosines <= own[:, None] + _TIE)).sum(axis=1)
    return agrees, rank


def _cosines(
    templates: NDArray[np.float64],
    squares: NDArray[np.float64],
    images: NDArray[np.float64],
    targets: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Compute cosines (n, K) of images (n, K) with all templates, without the target channel."""
    images[np.arange(len(images)), targets] = 0.0
    # Subtracting a target that dominates its template cancels digits: hence double precision.
    lengths = np.sqrt(np.maximum(squares - np.square(templates[:, targets].T), 0.0))
    with np.errstate(invalid="ignore"):
        lengths *= np.sqrt(np.square(images).sum(axis=1, keepdims=True))
        cosines: NDArray[np.float64] = images @ templates.T / np.maximum(lengths, 1e-12)
    return cosines


def percentile(
    dataset_stats: DatasetStats, activation: NDArray[np.float32], channels: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Rank the activation of images among the responses to dataset images.

    The result is the percentage of sampled dataset images with a smaller response, plus half of
    those with an equal one. Whether an image exceeds the maximum is decided by all images of the
    dataset: the result is 100 if it does, and less otherwise, even if the rows are a sample.

    Args:
        dataset_stats: dataset statistics of the layer.
        activation: (n,) mean response of its channel to each image.
        channels: (n,) the channel, 0 to K - 1, of each image.
    Returns: (n,) float32 in [0, 100]; NaN where the activation is NaN, or no responses are stored.
    """
    result = np.full(len(activation), np.nan)
    for start in range(0, len(activation) if len(dataset_stats.rows) else 0, _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        dataset_images = dataset_stats.rows[:, channels[block]]
        below = (dataset_images < activation[block]).sum(axis=0)
        same = (dataset_images == activation[block]).sum(axis=0)
        result[block] = 100.0 * (below + same / 2) / len(dataset_images)
    # An image that is not above the maximum is at best equal to one dataset image.
    level = np.nextafter(np.float32(100.0), np.float32(0.0))
    most = np.minimum(100.0 - 50.0 / max(dataset_stats.count, 1), level)
    result = np.where(activation > dataset_stats.max[channels], 100.0, np.minimum(result, most))
    return np.where(np.isnan(activation), np.nan, result).astype(np.float32)


def selectivity(
    response: NDArray[np.float32], channels: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Compare an image's activation of its channel with that of the layer's other channels.

    (t - o) / (|t| + |o|), where t is the target's mean response and o the mean of the others'. The
    form is that of the class selectivity index of Morcos et al. 2018, "On the importance of single
    directions for generalization", arXiv 1803.06959, section 2.3, which compares one unit's
    responses to its preferred class and to the others; here channels replace classes, and the
    absolute values keep negative responses within bounds.

    Args:
        response: (n, K) mean response of each channel to each image.
        channels: (n,) the target channel, 0 to K - 1, of each image.
    Returns: (n,) float32 in [-1, 1]; 0 where nothing responds; NaN where there is no other channel
        and where a response is not finite.
    """
    n, n_channels = response.shape
    others = response.astype(np.float64, order="C")
    target = others[np.arange(n), channels]
    others[np.arange(n), channels] = 0.0
    with np.errstate(invalid="ignore"):
        rest = others.sum(axis=1) / (n_channels - 1) if n_channels > 1 else np.full(n, np.nan)
        size = np.abs(target) + np.abs(rest)
        return np.where(size == 0, 0.0, (target - rest) / np.where(size == 0, 1.0, size)).astype(
            np.float32
        )


def best_seed(agreement: NDArray[np.floating[Any]], status: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the seed whose image of each channel agrees most with the dataset images.

    Args:
        agreement: (C, S); NaN never wins.
        status: (C, S) as in `STATUS`; only images that are `ok` take part.
    Returns: (C,) index among the seeds, the first of equals; -1 where no image takes part.
    """
    candidates = np.where((status == STATUS["ok"]) & ~np.isnan(agreement), agreement, -np.inf)
    return np.where(np.isneginf(candidates).all(axis=1), -1, candidates.argmax(axis=1))


# --- recognisability ------------------------------------------------------------------------------


QUERIES = 10
"""Number of the strongest, and of the weakest, dataset images of a target in its queries."""

SLOPE = 10.0
"""Slope of the confidence: a cosine that is larger by 0.1 gives 0.73, by 0.3 0.95."""


@dataclass(frozen=True)
class FeatureSpace:
    """Features of N dataset images in an observer, and the space that they span."""

    mean: NDArray[np.float64]
    """(D,) mean of each feature over the dataset images."""
    std: NDArray[np.float64]
    """(D,) its standard deviation; a constant feature has no part in a similarity."""
    dataset_images: NDArray[np.float64]
    """(N, D) features of the dataset images, standardized, each row of length 1."""

    def unit(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Standardise features (n, D) and scale each row to length 1."""
        return unit_rows(standardized(features, self.mean, self.std))

    def cosines(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Return the similarity (n, N) of images with features (n, D) to each dataset image."""
        similarity: NDArray[np.float64] = self.unit(features) @ self.dataset_images.T
        return similarity


def feature_space(features: NDArray[Any]) -> FeatureSpace:
    """Make the space of the features (N, D) of dataset images."""
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, ddof=1, dtype=np.float64)
    return FeatureSpace(mean, std, unit_rows(standardized(features, mean, std)))


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

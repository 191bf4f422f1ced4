"""Evidence that an image shows what a channel responds to, not merely something that excites it.

The measure is photographs: how a layer answers to an image is compared with how it answers to the
photographs that excite the channel most. The target channel itself is left out, so an image gains
nothing by exciting it. Pure functions of stored responses; nothing here runs a network.

`docs/statistics.md` says what each number can and cannot show.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.statistics import DatasetStats, strongest
from layer_atlas.plan.jobs import STATUS

STRONGEST = 9
"""So many photographs stand for a channel: one may be an accident, many are no longer strong."""

_TIE = 1e-9
"""Cosines closer than this are equal: channels that share their photographs differ by rounding."""

_SHORTEST = 1e-6
"""Length of standardized responses, in standard deviations, below which they have no direction."""

_AT_ONCE = 64
"""Images, or channels, in memory at a time. Matrix products always have this many rows: of fewer
rows they may round differently, and an image's numbers would depend on how many there are."""


@dataclass(frozen=True)
class Reference:
    """How a layer of K channels answers to photographs, in double precision."""

    mean: NDArray[np.float64]
    """(K,) of the responses to all photographs."""
    std: NDArray[np.float64]
    """(K,) sample standard deviation; 0 for a channel that answers the same to all."""
    templates: NDArray[np.float64]
    """(K, K): row k is the mean standardised response to channel k's strongest photographs."""


def make_reference(rows: NDArray[np.float32]) -> Reference:
    """Learn from photographs what each channel looks like to its layer.

    Args:
        rows: (R, K) mean response of each channel to each of R photographs, as in `DatasetStats`.
    Raises:
        ValueError: fewer photographs than `STRONGEST`.
    """
    if len(rows) < STRONGEST:
        raise ValueError(f"{STRONGEST} photographs are the least, not {len(rows)}.")
    # Sums of equal numbers are exact in twice their precision, and their deviation is exactly 0.
    mean, std = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, ddof=1, dtype=np.float64)
    templates = np.empty((rows.shape[1], rows.shape[1]))
    for start in range(0, len(templates), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        dataset_images = rows[strongest(rows[:, block], STRONGEST)]
        templates[block] = standardised(dataset_images.mean(axis=1, dtype=np.float64), mean, std)
    return Reference(mean, std, templates)


def standardised(
    responses: NDArray[Any], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Responses (n, K) in standard deviations from the mean; 0 where there is no deviation."""
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
    """Compare how a layer answers to images with how it answers to photographs.

    Both are seen in the layer's standardised response space without the target channel.

    Args:
        reference: of the layer.
        response: (n, K) mean response of each channel to each image.
        channels: (n,) the channel, 0 to K - 1, that each image was made for.
    Returns:
        agreement (n,) float64: cosine between the image and the channel's strongest photographs; 0
        where either is the mean of all photographs, and where there is no other channel;
        rank (n,) int64: how many channels' photographs the image resembles more than its own
        channel's, plus one. An image that is not finite resembles all of them more.
    """
    n, n_channels = response.shape
    agrees, rank = np.empty(n), np.empty(n, np.int64)
    squares = np.square(reference.templates).sum(axis=1)
    for start in range(0, n, _AT_ONCE):
        block = slice(start, min(start + _AT_ONCE, n))
        size = block.stop - start
        images, targets = np.zeros((_AT_ONCE, n_channels)), np.zeros(_AT_ONCE, np.intp)
        images[:size] = standardised(response[block], reference.mean, reference.std)
        targets[:size] = channels[block]
        cosines = _cosines(reference.templates, squares, images, targets)[:size]
        own = cosines[np.arange(size), targets[:size]]
        agrees[block] = own
        rank[block] = 1 + (~(cosines <= own[:, None] + _TIE)).sum(axis=1)
    return agrees, rank


def _cosines(
    templates: NDArray[np.float64],
    squares: NDArray[np.float64],
    images: NDArray[np.float64],
    targets: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Cosines (n, K) of images (n, K) with all templates, each without the image's own channel."""
    images[np.arange(len(images)), targets] = 0.0
    # A target that dominates its template is subtracted from its length: hence double precision.
    lengths = np.sqrt(np.maximum(squares - np.square(templates[:, targets].T), 0.0))
    with np.errstate(invalid="ignore"):
        lengths *= np.sqrt(np.square(images).sum(axis=1, keepdims=True))
        cosines: NDArray[np.float64] = images @ templates.T / np.maximum(lengths, 1e-12)
    return cosines


def percentile(
    dataset_stats: DatasetStats, activation: NDArray[np.float32], channels: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Where the activation of images lies among the responses to photographs.

    The share of kept photographs with a smaller response, and half of those with the same, in
    percent. All photographs of the dataset decide whether an image is above them: the result is
    100 if so, and less if not, also where the kept ones are a sample.

    Args:
        study: of the layer.
        activation: (n,) mean response of its channel to each image.
        channels: (n,) the channel, 0 to K - 1, of each image.
    Returns: (n,) float32 in [0, 100]; NaN where the activation is, or no photograph is kept.
    """
    result = np.full(len(activation), np.nan)
    for start in range(0, len(activation) if len(dataset_stats.rows) else 0, _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        dataset_images = dataset_stats.rows[:, channels[block]]
        below = (dataset_images < activation[block]).sum(axis=0)
        same = (dataset_images == activation[block]).sum(axis=0)
        result[block] = 100.0 * (below + same / 2) / len(dataset_images)
    # At the very least, an image that is not above the maximum is level with one photograph.
    level = np.nextafter(np.float32(100.0), np.float32(0.0))
    most = np.minimum(100.0 - 50.0 / max(dataset_stats.count, 1), level)
    result = np.where(activation > dataset_stats.max[channels], 100.0, np.minimum(result, most))
    return np.where(np.isnan(activation), np.nan, result).astype(np.float32)


def selectivity(
    response: NDArray[np.float32], channels: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """How much more an image excites its channel than the layer's other channels.

    (t - o) / (|t| + |o|), where t is the target's mean response and o the mean of the others'. The
    form is that of the class selectivity index of Morcos et al. 2018, "On the importance of single
    directions for generalization", arXiv 1803.06959, section 2.3, which compares one unit's
    responses to its preferred class and to the others; here channels take the place of classes,
    and the absolute values keep negative responses within bounds.

    Args:
        response: (n, K) mean response of each channel to each image.
        channels: (n,) the channel, 0 to K - 1, that each image was made for.
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
    """Which seed's image of each channel agrees most with photographs.

    Args:
        agreement: (C, S); NaN never wins.
        status: (C, S) as in `STATUS`; only images that are `ok` take part.
    Returns: (C,) index among the seeds, the first of equals; -1 where no image takes part.
    """
    candidates = np.where((status == STATUS["ok"]) & ~np.isnan(agreement), agreement, -np.inf)
    return np.where(np.isneginf(candidates).all(axis=1), -1, candidates.argmax(axis=1))

"""Dataset statistics: the responses of a layer's channels to dataset images, block by block.

The dataset passes through the network in blocks of images. Each block is summarised to plain
arrays, and the summaries are merged: apart from the responses that are stored in full, a million
images take no more memory than one block. An image's response is the mean over all positions, the
same quantity as `activation` of the optimized images; its peak is the largest response at any
position.

An image counts for a layer if it is readable and all its responses there are finite.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Quantile levels in an atlas."""

_SPREAD = 2654435769
"""2**32 divided by the golden ratio, an odd number."""

_EMPTY_KEY = np.iinfo(np.int64).min
"""Key of an empty slot; it ranks below every image."""


@dataclass(frozen=True)
class Ranking:
    """The most extreme images of each of K channels, the most extreme first.

    Equal images are ordered pseudo-randomly but reproducibly. Otherwise all channels that are
    silent on many images would share the same weakest ones, the first of the dataset. Empty slots
    are -1, NaN and -1.
    """

    index: NDArray[np.int64]
    """(K, N) index of the image in the dataset."""
    score: NDArray[np.float32]
    """(K, N) mean response of the channel to the image."""
    place: NDArray[np.int32]
    """(K, N) flat position of the channel's peak in the image."""


@dataclass(frozen=True)
class DatasetStats:
    """Statistics of the responses of a layer's K channels to the images of a dataset."""

    count: int
    """Number of images that count; the statistics are over these."""
    mean: NDArray[np.float64]
    """(K,) mean of the responses; NaN if no image counts."""
    std: NDArray[np.float64]
    """(K,) sample standard deviation, over count - 1; NaN for fewer than two images."""
    min: NDArray[np.float32]
    """(K,) smallest response; NaN if no image counts."""
    max: NDArray[np.float32]
    """(K,) largest response; NaN if no image counts."""
    responding: NDArray[np.int64]
    """(K,) number of images with a peak above 0."""
    top: Ranking
    """The images with the largest response of each channel."""
    bottom: Ranking
    """The images with the smallest response of each channel."""
    rows: NDArray[np.float32]
    """(R, K) responses to the images that are stored in full, in the order of `row_index`."""
    row_index: NDArray[np.int64]
    """(R,) indices of these images in the dataset."""
    unreadable: NDArray[np.int64]
    """Indices of the images that do not count, in order."""

    def quantiles(self, levels: Sequence[float] = QUANTILES) -> NDArray[np.float64]:
        """Return quantiles of the stored responses, interpolated linearly: (levels, K) or NaN."""
        if not len(self.rows):
            return np.full((len(levels), self.rows.shape[1]), np.nan)
        return np.quantile(self.rows, levels, axis=0).astype(np.float64)


def summarise(
    mean: NDArray[np.float32],
    peak: NDArray[np.float32],
    place: NDArray[np.int32],
    readable: NDArray[np.bool_],
    first: int,
    kept: NDArray[np.bool_],
    top: int,
    bottom: int,
) -> dict[str, NDArray[Any]]:
    """Summarise one block of n images in one layer of K channels.

    Args:
        mean: (n, K) mean response of each channel to each image.
        peak: (n, K) largest response at any position of the image.
        place: (n, K) flat position of that peak.
        readable: (n,) whether the image could be read.
        first: index of the block's first image in the dataset; fewer than 2**32 in total.
        kept: (n,) whether the image's responses are stored in full.
        top: number of strongest images per channel.
        bottom: number of weakest images per channel.
    Returns: the input of `merge`: count (), mean, M2 (K,) float64, min, max (K,) float32,
        responding (K,), top_ and bottom_ index, score and place (K, top) and (K, bottom), rows
        (kept, K), row_index (kept,), unreadable (images that do not count,). M2 is the sum of
        squared deviations from the mean.
    """
    mean = mean + np.float32(0.0)  # -0.0 becomes 0.0: ranking compares bits, which differ
    counts = readable & np.isfinite(mean).all(axis=1) & np.isfinite(peak).all(axis=1)
    index = first + np.arange(len(mean), dtype=np.int64)
    responses, n_channels = mean[counts], mean.shape[1]
    images = Ranking(np.tile(index[counts], (n_channels, 1)), responses.T, place[counts].T)
    return {
        **_moments(responses),
        "min": responses.min(axis=0, initial=np.inf),
        "max": responses.max(axis=0, initial=-np.inf),
        "responding": (peak[counts] > 0).sum(axis=0, dtype=np.int64),
        **_flat("top", _extremes(_empty(n_channels, top), images, strongest=True)),
        **_flat("bottom", _extremes(_empty(n_channels, bottom), images, strongest=False)),
        "rows": mean[counts & kept],
        "row_index": index[counts & kept],
        "unreadable": index[~counts],
    }


def merge(blocks: Iterable[dict[str, NDArray[Any]]]) -> DatasetStats:
    """Merge the summaries of all blocks of a layer, with one block in memory at a time.

    The division into blocks and their order affect only the rounding of mean and std (float64).

    Raises:
        ValueError: there is no block.
    """
    whole: dict[str, NDArray[Any]] | None = None
    rows: list[dict[str, NDArray[Any]]] = []
    for block in blocks:
        rows.append({name: block[name] for name in ("rows", "row_index", "unreadable")})
        whole = block if whole is None else _merged(whole, block)
    if whole is None:
        raise ValueError("dataset statistics need at least one block of images.")
    return _finished(whole, {name: np.concatenate([r[name] for r in rows]) for name in rows[0]})


def strongest(responses: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Return the rows of (n, K) with the largest response of each channel, as in `Ranking`.

    Returns: (K, most) indices; -1 beyond n.
    """
    n, n_channels = responses.shape
    index = np.tile(np.arange(n), (n_channels, 1))
    images = Ranking(index, responses.T + np.float32(0.0), np.zeros((n_channels, n), np.int32))
    return _extremes(_empty(n_channels, most), images, strongest=True).index


def _moments(responses: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return count, mean and squared deviations, in double precision: exact for equal responses."""
    exact = responses.astype(np.float64)
    mean = exact.sum(axis=0) / max(len(responses), 1)
    return {
        "count": np.asarray(len(responses), np.int64),
        "mean": mean,
        "M2": np.square(exact - mean).sum(axis=0),
    }


def _merged(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Merge the summaries of two sets of images, except for the data of single images.

    Mean and M2 by Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for
    computing sample variances", Stanford STAN-CS-79-773, section 1.
    """
    count = a["count"] + b["count"]
    fraction = b["count"] / max(count, 1)
    difference = b["mean"] - a["mean"]
    return {
        "count": count,
        "mean": a["mean"] + difference * fraction,
        "M2": a["M2"] + b["M2"] + np.square(difference) * (a["count"] * fraction),
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "responding": a["responding"] + b["responding"],
        **_flat("top", _extremes(_ranking("top", a), _ranking("top", b), strongest=True)),
        **_flat("bottom", _extremes(_ranking("bottom", a), _ranking("bottom", b), strongest=False)),
    }


def _extremes(known: Ranking, others: Ranking, *, strongest: bool) -> Ranking:
    """Return the strongest, or weakest, of both rankings, as many as the first has slots."""
    pairs = zip(_parts(known), _parts(others), strict=True)
    index, score, place = (np.concatenate(pair, axis=1) for pair in pairs)
    # Subtraction from 0 instead of negation: -0.0 would rank below 0.0.
    rising = score if strongest else np.float32(0.0) - score
    chosen = _largest(_key(rising, index), known.index.shape[1])
    return Ranking(*(np.take_along_axis(part, chosen, axis=1) for part in (index, score, place)))


def _largest(key: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Return the positions of the largest of (K, N) in each row, the largest first: (K, most)."""
    n = key.shape[1]
    # A partial sort first: it is linear in the number of images.
    candidates = (
        np.argpartition(key, n - most, axis=1)[:, n - most :]
        if 0 < most < n
        else np.tile(np.arange(n, dtype=np.intp), (len(key), 1))
    )
    order = np.argsort(np.take_along_axis(key, candidates, axis=1), axis=1)[:, ::-1][:, :most]
    return np.take_along_axis(candidates, order, axis=1)


def _key(score: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an integer per image (K, n) that increases with the score; no two are equal."""
    channel = np.arange(len(index))[:, None]
    # Multiplication by an odd number modulo 2**32 is a bijection (Knuth, TAOCP 3, 6.4).
    spread = ((index + channel) * _SPREAD) & 0xFFFFFFFF
    bits = score.view(np.int32)
    # The bits of non-negative floats sort like integers, those of negative ones in reverse.
    ordered = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits).astype(np.int64)
    return np.where(index < 0, _EMPTY_KEY, (ordered << 32) | spread)


def _empty(n_channels: int, most: int) -> Ranking:
    shape = (n_channels, most)
    nan = np.full(shape, np.nan, np.float32)
    return Ranking(np.full(shape, -1, np.int64), nan, np.full(shape, -1, np.int32))


def _parts(ranking: Ranking) -> tuple[NDArray[Any], ...]:
    return ranking.index, ranking.score, ranking.place


def _flat(name: str, ranking: Ranking) -> dict[str, NDArray[Any]]:
    parts = zip(("index", "score", "place"), _parts(ranking), strict=True)
    return {f"{name}_{part}": array for part, array in parts}


def _ranking(name: str, block: dict[str, NDArray[Any]]) -> Ranking:
    return Ranking(*(block[f"{name}_{part}"] for part in ("index", "score", "place")))


def _finished(whole: dict[str, NDArray[Any]], kept: dict[str, NDArray[Any]]) -> DatasetStats:
    count = int(whole["count"])
    nothing = np.full_like(whole["mean"], np.nan)
    # Blocks arrive in any order.
    order = np.argsort(kept["row_index"])
    return DatasetStats(
        count=count,
        mean=whole["mean"] if count else nothing,
        std=np.sqrt(whole["M2"] / (count - 1)) if count > 1 else nothing,
        min=whole["min"] if count else nothing.astype(np.float32),
        max=whole["max"] if count else nothing.astype(np.float32),
        responding=whole["responding"],
        top=_ranking("top", whole),
        bottom=_ranking("bottom", whole),
        rows=kept["rows"][order],
        row_index=kept["row_index"][order],
        unreadable=np.sort(kept["unreadable"]),
    )

"""Evidence: known answers on responses made by hand."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import (
    agreement,
    best_seed,
    make_reference,
    percentile,
    selectivity,
)
from layer_atlas.datasets.statistics import DatasetStats, merge, summarise
from layer_atlas.plan.jobs import STATUS

N, K = 200, 12
Array = NDArray[Any]


def dataset_images(seed: int = 0) -> Array:
    return np.exp(np.random.default_rng(seed).normal(size=(N, K))).astype(np.float32)


def strongest_together(photos: Array) -> Array:
    """(K, K): row k is the mean response to channel k's nine strongest photographs."""
    order = np.argsort(-photos, axis=0)[:9]
    return photos[order].mean(axis=0)  # type: ignore[no-any-return]


def by_definition(photos: Array, responses: Array, channels: Array) -> tuple[Array, Array]:
    """Agreement and rank, one image and one channel at a time, the target cut out."""
    photos, responses = photos.astype(float), responses.astype(float)
    mean, std = photos.mean(axis=0), photos.std(axis=0, ddof=1)
    z, images = (photos - mean) / std, (responses - mean) / std
    found = []
    for image, c in zip(images, channels.tolist(), strict=True):
        keep = [k for k in range(photos.shape[1]) if k != c]
        own = image[keep] / np.linalg.norm(image[keep])
        templates = [z[np.argsort(-photos[:, k])[:9]].mean(axis=0)[keep] for k in range(K)]
        cosines = [float(own @ t / np.linalg.norm(t)) for t in templates]
        found.append((cosines[c], 1 + sum(cosine > cosines[c] for cosine in cosines)))
    return np.asarray([f[0] for f in found]), np.asarray([f[1] for f in found])


def test_it_is_what_it_is_defined_as() -> None:
    photos, channels = dataset_images(), np.tile(np.arange(K), 12)
    responses = dataset_images(1)[: len(channels)]
    wanted = by_definition(photos, responses, channels)
    got = agreement(make_reference(photos), responses, channels)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-12, atol=1e-12)
    assert got[1].tolist() == wanted[1].tolist()


def test_a_channels_own_photographs_agree_and_rank_first() -> None:
    photos = dataset_images()
    agrees, rank = agreement(make_reference(photos), strongest_together(photos), np.arange(K))
    assert (agrees > 0.9999).all()
    assert rank.tolist() == [1] * K


def test_the_photographs_of_another_channel_rank_behind_it() -> None:
    photos = dataset_images()
    other = np.roll(np.arange(K), 1)
    agrees, rank = agreement(make_reference(photos), strongest_together(photos), other)
    assert (agrees < 0.9).all()
    assert (rank >= 2).all()


def test_channels_that_share_their_photographs_share_the_first_rank() -> None:
    # So many that a matrix product rounds some of their equal cosines differently.
    draw, wide = np.random.default_rng(0), 301
    photos, images = np.exp(draw.normal(size=(2, N + wide, wide))).astype(np.float32)
    photos[:9] += 1000
    reference = make_reference(photos)
    assert len(np.unique(reference.templates, axis=0)) == 1
    assert agreement(reference, images[:wide], np.arange(wide))[1].tolist() == [1] * wide


def test_the_target_channel_does_not_count() -> None:
    photos, channels = dataset_images(), np.arange(K)
    responses = dataset_images(1)[:K]
    reference = make_reference(photos)
    shouted = responses.copy()
    shouted[channels, channels] = 1e4
    quiet, loud = (agreement(reference, r, channels) for r in (responses, shouted))
    assert np.array_equal(quiet[0], loud[0])
    assert np.array_equal(quiet[1], loud[1])


def test_a_channel_that_never_varies_does_no_harm() -> None:
    photos, channels = dataset_images(), np.arange(K)
    responses = dataset_images(1)[:K]
    dull = np.concatenate([photos, np.full((N, 1), 0.1, np.float32)], axis=1)
    moved = np.concatenate([responses, np.full((K, 1), 5.0, np.float32)], axis=1)
    plain, _ = agreement(make_reference(photos), responses, channels)
    reference = make_reference(dull)
    assert reference.std[K] == 0
    agrees, rank = agreement(reference, moved, channels)
    np.testing.assert_allclose(agrees, plain, rtol=1e-6)
    own, _ = agreement(reference, moved[:1], np.asarray([K]))
    assert np.isfinite(own).all()
    assert (rank <= K + 1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_that_is_not_finite_comes_last(value: float) -> None:
    responses = dataset_images(1)[:2]
    responses[1] = value
    alone = agreement(make_reference(dataset_images()), responses[:1], np.asarray([3]))
    agrees, rank = agreement(make_reference(dataset_images()), responses, np.asarray([3, 3]))
    assert np.isnan(agrees[1])
    assert rank[1] > K
    assert (agrees[0], rank[0]) == (alone[0][0], alone[1][0])


def test_a_layer_of_one_channel_has_nothing_to_agree_with() -> None:
    photos = dataset_images()[:, :1]
    agrees, rank = agreement(make_reference(photos), photos[:3], np.zeros(3, int))
    assert (agrees.tolist(), rank.tolist()) == ([0.0] * 3, [1] * 3)


def test_fewer_photographs_than_stand_for_a_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="9 dataset images"):
        make_reference(dataset_images()[:8])


def test_batch_mates_do_not_matter() -> None:
    draw = np.random.default_rng(0)
    wide, n = draw.normal(size=(40, 301)).astype(np.float32), 131
    responses = draw.normal(size=(n, 301)).astype(np.float32)
    channels, reference = draw.integers(0, 301, n), make_reference(wide)
    together = (*agreement(reference, responses, channels), selectivity(responses, channels))
    for i in range(n):
        one, c = responses[i : i + 1], channels[i : i + 1]
        alone = (*agreement(reference, one, c), selectivity(one, c))
        # As they are stored: threads of the matrix product may move the last bit of a double.
        assert [np.float32(value[0]) for value in alone] == [
            np.float32(values[i]) for values in together
        ]


# --- percentile ----------------------------------------------------------------------------------


def studied(responses: list[float], kept: list[bool] | None = None) -> DatasetStats:
    """A study of a layer whose two channels answer alike, the second with twice as much."""
    mean = np.asarray(responses, np.float32)[:, None] * np.asarray([1, 2], np.float32)
    n = len(responses)
    keep = np.ones(n, bool) if kept is None else np.asarray(kept)
    place = np.zeros((n, 2), np.int32)
    return merge([summarise(mean, mean, place, np.ones(n, bool), 0, keep, 1, 1)])


def placed(dataset_stats: DatasetStats, *activations: float, channel: int = 0) -> list[float]:
    values = np.asarray(activations, np.float32)
    return percentile(dataset_stats, values, np.full(len(values), channel)).tolist()  # type: ignore[no-any-return]


def test_percentile_counts_photographs_below_and_half_of_the_equal_ones() -> None:
    dataset_stats = studied([0, 0, 1, 2])
    assert placed(dataset_stats, -1, 0, 0.5, 1, 1.5, 2, 2.5) == [0, 25, 50, 62.5, 75, 87.5, 100]
    assert placed(dataset_stats, 2, 2.5, 4, 5, channel=1) == [62.5, 75, 87.5, 100]


@pytest.mark.slow
def test_only_an_image_above_every_photograph_of_the_dataset_reaches_100() -> None:
    # The kept photographs end at 1, the dataset at 9.
    dataset_stats = studied([0, 1, 9], [True, True, False])
    below, level, above = placed(dataset_stats, 5, 9, 9.5)
    assert below == level == pytest.approx(100 * 2.5 / 3)
    assert above == 100
    ladder = np.arange(1024, dtype=np.float32)[:, None]
    kept, readable = np.arange(1024) < 3, np.ones(1024, bool)
    block = summarise(ladder, ladder, ladder.astype(np.int32), readable, 0, kept, 1, 1)
    nearly_all = merge([block] * 20_000)
    assert placed(nearly_all, 1023)[0] < 100


def test_percentile_of_nothing_is_no_number() -> None:
    assert np.isnan(placed(studied([0, 1]), math.nan)).all()
    nothing_kept = studied([0, 1], [False, False])
    assert np.isnan(placed(nothing_kept, 0.5)).all()
    assert placed(nothing_kept, 1.5) == [100]


# --- selectivity and the best seed ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "wanted"),
    [
        ([3.0, 0.5, 1.5], (3 - 1) / (3 + 1)),
        ([3.0, 0.0, 0.0], 1.0),
        ([0.0, 1.0, 1.0], -1.0),
        ([2.0, -1.0, -1.0], 1.0),
        ([-1.0, 4.0, 0.0], -1.0),
        ([-1.0, -3.0, -3.0], 0.5),
        ([0.0, 0.0, 0.0], 0.0),
        ([0.0, 2.0, -2.0], 0.0),
        ([2.0], math.nan),
        ([2.0, math.nan], math.nan),
        ([math.inf, 1.0], math.nan),
    ],
)
def test_selectivity_of_known_responses(response: list[float], wanted: float) -> None:
    (got,) = selectivity(np.asarray([response], np.float32), np.zeros(1, int))
    assert got == pytest.approx(wanted, nan_ok=True)


def test_selectivity_knows_its_channel_and_leaves_the_responses_alone() -> None:
    responses = np.asarray([[1.0, 9.0, 2.0], [1.0, 9.0, 2.0]], np.float32)
    before = responses.copy()
    got = selectivity(responses, np.asarray([1, 2]))
    np.testing.assert_allclose(got, [(9 - 1.5) / 10.5, (2 - 5) / 7], rtol=1e-6)
    assert np.array_equal(responses, before)
    # A loud target must not drown the others in rounding.
    loud = selectivity(np.asarray([[1e30, 3.0, 5.0]], np.float32), np.asarray([1]))
    assert loud[0] == pytest.approx(-1.0)


def test_the_best_seed_is_the_live_one_that_agrees_most() -> None:
    ok, dead, diverged, nan = STATUS["ok"], STATUS["dead"], STATUS["diverged"], math.nan
    cases = [
        ([0.1, 0.5, 0.3], [ok, ok, ok], 1),
        ([0.1, 0.5, 0.3], [ok, dead, ok], 2),
        ([0.4, 0.4, 0.3], [ok, ok, ok], 0),
        ([-0.4, nan, -0.3], [ok, ok, diverged], 0),
        ([0.9, 0.9, 0.9], [dead, STATUS["failed"], STATUS["missing"]], -1),
        ([nan, nan, nan], [ok, ok, ok], -1),
    ]
    agrees, status, wanted = (np.asarray(column) for column in zip(*cases, strict=True))
    assert best_seed(agrees, status).tolist() == wanted.tolist()

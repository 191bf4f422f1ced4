"""Studies of a dataset: the same numbers as numpy has, however the images were cut into blocks."""

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from layer_atlas.datasets.statistics import (
    QUANTILES,
    DatasetStats,
    Ranking,
    merge,
    strongest,
    summarise,
)

N, K, TOP, BOTTOM = 157, 7, 9, 4
UNREADABLE, NOT_FINITE = (0, 40, 41), (17, 90)
COUNTED = np.asarray([i for i in range(N) if i not in UNREADABLE + NOT_FINITE])


def dataset_images() -> dict[str, NDArray[Any]]:
    """Responses with many ties, some zeros of either sign, and images that do not count."""
    draw = np.random.default_rng(0)
    mean = np.round(draw.normal(size=(N, K)), 1).astype(np.float32)
    peak = mean + draw.uniform(0, 2, (N, K)).astype(np.float32)
    mean[list(UNREADABLE)] = 1e9
    mean[NOT_FINITE[0], 2], peak[NOT_FINITE[1], 3] = np.nan, np.inf
    readable = np.ones(N, bool)
    readable[list(UNREADABLE)] = False
    place = draw.integers(0, 49, (N, K), dtype=np.int32)
    return {"mean": mean, "peak": peak, "place": place, "readable": readable}


def blocks(cuts: Sequence[int], top: int = TOP, **changes: Any) -> Iterator[dict[str, Any]]:
    images = {**dataset_images(), "kept": np.arange(N) % 3 == 0, **changes}
    edges = [0, *cuts, len(images["mean"])]
    for start, end in pairwise(edges):
        part = {name: array[start:end] for name, array in images.items()}
        yield summarise(**part, first=start, top=top, bottom=BOTTOM)


def leaves(dataset_stats: DatasetStats) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for field in fields(dataset_stats):
        value = getattr(dataset_stats, field.name)
        if isinstance(value, Ranking):
            names = (part.name for part in fields(value))
            found |= {f"{field.name}.{name}": getattr(value, name) for name in names}
        else:
            found[field.name] = np.asarray(value)
    return found


def test_it_is_what_numpy_says() -> None:
    images, dataset_stats = dataset_images(), merge(blocks([]))
    seen = images["mean"][COUNTED]
    assert dataset_stats.count == len(COUNTED)
    np.testing.assert_allclose(dataset_stats.mean, seen.mean(axis=0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(dataset_stats.std, seen.std(axis=0, ddof=1, dtype=float), rtol=1e-12)
    assert np.array_equal(dataset_stats.min, seen.min(axis=0))
    assert np.array_equal(dataset_stats.max, seen.max(axis=0))
    assert np.array_equal(dataset_stats.responding, (images["peak"][COUNTED] > 0).sum(axis=0))
    assert dataset_stats.unreadable.tolist() == sorted(UNREADABLE + NOT_FINITE)
    assert dataset_stats.row_index.tolist() == [i for i in COUNTED if i % 3 == 0]
    assert np.array_equal(dataset_stats.rows, images["mean"][dataset_stats.row_index])


def test_the_strongest_and_weakest_are_told_with_score_and_place() -> None:
    images, dataset_stats, every = (
        dataset_images(),
        merge(blocks([50])),
        merge(blocks([50], top=len(COUNTED))),
    )
    rankings = [
        (dataset_stats.top, -1, TOP),
        (every.top, -1, len(COUNTED)),
        (dataset_stats.bottom, 1, BOTTOM),
    ]
    for ranking, sign, most in rankings:
        for k in range(K):
            column = sign * images["mean"][:, k]
            assert np.array_equal(column[ranking.index[k]], np.sort(column[COUNTED])[:most])
            assert len(set(ranking.index[k].tolist())) == most
            assert np.array_equal(ranking.score[k], images["mean"][ranking.index[k], k])
            assert np.array_equal(ranking.place[k], images["place"][ranking.index[k], k])


@pytest.mark.parametrize(
    "cuts", [[64, 128], [1, 2, 3, 156], list(range(1, N)), [0, 41, 41, 157]], ids=str
)
def test_how_images_are_cut_into_blocks_does_not_matter(cuts: list[int]) -> None:
    once, parts = leaves(merge(blocks([]))), list(blocks(cuts))
    for order in (parts, parts[::-1]):
        for name, value in leaves(merge(order)).items():
            if name in ("mean", "std"):
                np.testing.assert_allclose(value, once[name], rtol=1e-12)
            else:
                assert (value.dtype, value.tobytes()) == (once[name].dtype, once[name].tobytes())


def test_the_same_blocks_give_the_same_bits() -> None:
    first, again = (leaves(merge(blocks([30, 99]))) for _ in range(2))
    assert {name: value.tobytes() for name, value in first.items()} == {
        name: value.tobytes() for name, value in again.items()
    }


def test_fewer_images_than_wanted_leave_places_empty() -> None:
    dataset_stats = merge(blocks([100], top=N))
    empty = N - len(COUNTED)
    assert (dataset_stats.top.index[:, -empty:] == -1).all()
    assert (dataset_stats.top.place[:, -empty:] == -1).all()
    assert np.isnan(dataset_stats.top.score[:, -empty:]).all()
    assert np.isfinite(dataset_stats.top.score[:, :-empty]).all()
    assert merge(blocks([100], top=0)).top.index.shape == (K, 0)


def test_zeros_of_either_sign_are_equal() -> None:
    mean = np.tile(np.asarray([[0.0], [-0.0], [0.0], [-1.0]], np.float32), (1, K))
    images = {"mean": mean, "peak": mean, "place": np.zeros((4, K), np.int32)}
    flags = {"readable": np.ones(4, bool), "kept": np.ones(4, bool)}
    dataset_stats = merge(blocks([2], **images, **flags))
    assert sorted(dataset_stats.top.index[0, :3].tolist()) == [0, 1, 2]
    assert dataset_stats.top.index[0, 3] == dataset_stats.bottom.index[0, 0] == 3
    assert strongest(mean, 4)[0].tolist() == dataset_stats.top.index[0, :4].tolist()
    assert not np.signbit(dataset_stats.rows[:3]).any()


def test_of_equal_photographs_channels_do_not_all_get_the_same() -> None:
    silent = np.zeros((400, 64), np.float32)
    images = {"mean": silent, "peak": silent, "place": silent.astype(np.int32)}
    flags = {"readable": np.ones(400, bool), "kept": np.ones(400, bool)}
    for cuts in ([], [64, 300]):
        edges = [0, *cuts, 400]
        found = merge(
            summarise(
                **{name: array[a:b] for name, array in (images | flags).items()},
                first=a,
                top=TOP,
                bottom=BOTTOM,
            )
            for a, b in pairwise(edges)
        )
        assert len(np.unique(found.bottom.index)) > 100


def test_a_small_spread_about_a_large_mean_is_not_lost() -> None:
    steps = np.random.default_rng(1).integers(0, 4, (N, K)).astype(np.float32)
    mean = 1e7 + steps
    dataset_stats = merge(blocks([20, 100], mean=mean, peak=mean, readable=np.ones(N, bool)))
    np.testing.assert_allclose(dataset_stats.std, steps.std(axis=0, ddof=1, dtype=float), rtol=1e-9)


def test_a_channel_that_always_answers_the_same_has_no_spread_at_all() -> None:
    # 0.1 is not a binary fraction, and its sums are rounded in single precision.
    dataset_stats = merge(blocks([10, 77], mean=np.full((N, K), 0.1, np.float32)))
    assert dataset_stats.std.tolist() == [0.0] * K


def test_quantiles_are_those_of_the_kept_rows() -> None:
    dataset_stats = merge(blocks([64]))
    assert np.array_equal(
        dataset_stats.quantiles(), np.quantile(dataset_stats.rows, QUANTILES, axis=0)
    )
    ladder = np.tile(np.arange(101, dtype=np.float32)[:, None], (1, K))
    flags = {"readable": np.ones(101, bool), "kept": np.ones(101, bool)}
    known = merge(blocks([5], mean=ladder, peak=ladder, place=ladder.astype(np.int32), **flags))
    np.testing.assert_allclose(known.quantiles()[:, 0], [5, 25, 50, 75, 95, 99])


def test_where_nothing_counts_there_are_no_numbers() -> None:
    dataset_stats = merge(blocks([80], readable=np.zeros(N, bool)))
    assert dataset_stats.count == 0
    for values in (
        dataset_stats.mean,
        dataset_stats.std,
        dataset_stats.min,
        dataset_stats.max,
        dataset_stats.quantiles(),
    ):
        assert np.isnan(values).all()
    assert len(dataset_stats.unreadable) == N
    assert (dataset_stats.top.index == -1).all()


def test_no_block_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        merge([])


def test_memory_does_not_grow_with_the_number_of_blocks() -> None:
    kept = np.zeros(N, bool)

    def many() -> Iterator[dict[str, Any]]:
        for _ in range(300):
            yield from blocks([], top=64, kept=kept)

    merge(blocks([], kept=kept))
    tracemalloc.start()
    try:
        merge(many())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6  # the summaries of all blocks are 4 MB

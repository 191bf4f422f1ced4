"""Recognisability, on cases whose numbers are known."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from layer_atlas.datasets.evidence import (
    choose,
    choose_shuffled,
    draw_queries,
    feature_space,
    resemblance,
    strongest_references,
)

DRAW = np.random.default_rng(0)


def clear(count: int = 80, n: int = 4) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Responses (N, n) of targets, and features (N, n + 4) of the photographs that cause them."""
    draw = np.random.default_rng(1)
    causes = draw.random((count, n))
    features = np.concatenate([causes, draw.random((count, 4))], axis=1)
    return causes.astype(np.float32), features


def test_queries_are_the_extremes_of_one_half() -> None:
    responses = np.arange(60, dtype=np.float32)[:, None].repeat(2, axis=1)
    queries = draw_queries(responses, most=5)
    assert queries.strong[0].tolist() == [58, 56, 54, 52, 50]
    assert queries.weak[0].tolist() == [0, 2, 4, 6, 8]
    assert queries.valid.all()
    references = strongest_references(responses, most=3)
    assert references[1].tolist() == [59, 57, 55]
    assert not np.isin(references, np.concatenate([queries.strong, queries.weak])).any()


def test_a_photograph_that_an_image_was_made_from_is_in_no_query() -> None:
    responses = np.arange(60, dtype=np.float32)[:, None].repeat(2, axis=1)
    used = np.zeros((2, 60), bool)
    used[0, 58], used[0, 0] = True, True
    queries = draw_queries(responses, used, most=2)
    assert queries.strong.tolist() == [[56, 54], [58, 56]]
    assert queries.weak.tolist() == [[2, 4], [0, 2]]


def test_few_photographs_make_few_queries_without_overlap() -> None:
    queries = draw_queries(DRAW.random((9, 1)).astype(np.float32))
    assert queries.strong.shape == (1, 2)
    assert not set(queries.strong[0]) & set(queries.weak[0])
    with pytest.raises(ValueError, match="two held-out"):
        draw_queries(DRAW.random((2, 1)).astype(np.float32))


def test_the_cause_of_a_target_predicts_what_excites_it() -> None:
    responses, features = clear()
    space, queries = feature_space(features), draw_queries(responses)
    cause = (features.mean(axis=0) + np.eye(4, features.shape[1]))[:, None].astype(np.float32)
    chosen = choose(resemblance(space, cause), queries)
    assert chosen.accuracy.tolist() == [1, 1, 1, 1]
    assert chosen.confidence.min() > 0.9
    # The opposite of the cause is wrong every time.
    opposite = (features.mean(axis=0) - np.eye(4, features.shape[1]))[:, None].astype(np.float32)
    assert choose(resemblance(space, opposite), queries).accuracy.tolist() == [0, 0, 0, 0]


def test_photographs_of_the_target_are_a_ceiling_above_chance() -> None:
    responses, features = clear(200)
    space, queries = feature_space(features), draw_queries(responses)
    references = features[strongest_references(responses)].astype(np.float32)
    assert choose(resemblance(space, references), queries).accuracy.min() >= 0.9


def test_shuffled_targets_and_random_features_are_chance() -> None:
    responses, features = clear(400, 60)
    space, queries = feature_space(features), draw_queries(responses)
    cause = (features.mean(axis=0) + np.eye(60, features.shape[1]))[:, None].astype(np.float32)
    assert choose(resemblance(space, cause), queries).accuracy.mean() == 1
    assert choose_shuffled(resemblance(space, cause), queries).accuracy.mean() == pytest.approx(
        0.5, abs=0.04
    )
    other = feature_space(np.random.default_rng(2).normal(size=(400, 20)))
    hints = np.random.default_rng(3).normal(size=(60, 1, 20)).astype(np.float32)
    assert choose(resemblance(other, hints), queries).accuracy.mean() == pytest.approx(
        0.5, abs=0.12
    )


def test_shuffling_tries_every_other_target() -> None:
    responses, features = clear(80, 3)
    space, queries = feature_space(features), draw_queries(responses)
    cause = (features.mean(axis=0) + np.eye(3, features.shape[1]))[:, None].astype(np.float32)
    similar = resemblance(space, cause)
    turns = [choose(np.roll(similar, -shift, axis=0), queries) for shift in (1, 2)]
    expected = np.mean([turn.accuracy for turn in turns], axis=0)
    assert choose_shuffled(similar, queries).accuracy.tolist() == expected.tolist()


def test_one_target_has_nothing_to_compare_with() -> None:
    responses, features = clear(80, 1)
    space, queries = feature_space(features), draw_queries(responses)
    similar = resemblance(space, features[:1, None].astype(np.float32))
    assert np.isnan(choose(similar, queries).accuracy).all()
    assert np.isnan(choose_shuffled(similar, queries).accuracy).all()


def test_what_all_explanations_have_in_common_decides_nothing() -> None:
    responses, features = clear(200, 8)
    space, queries = feature_space(features), draw_queries(responses)
    cause = features.mean(axis=0) + np.eye(8, features.shape[1])
    # As optimized images differ from photographs: all in the same way, and more than by target.
    gap = 20 * np.random.default_rng(4).normal(size=features.shape[1])
    chosen = choose(resemblance(space, (cause + gap)[:, None].astype(np.float32)), queries)
    assert chosen.accuracy.mean() > 0.97


def test_several_explanations_count_by_their_mean() -> None:
    responses, features = clear()
    space, queries = feature_space(features), draw_queries(responses)
    cause = features.mean(axis=0) + np.eye(4, features.shape[1])
    # One wrong hint among three does not outweigh two right ones.
    wrong = 2 * features.mean(axis=0) - cause
    hints = np.stack([cause, cause, wrong], axis=1).astype(np.float32)
    assert choose(resemblance(space, hints), queries).accuracy.tolist() == [1, 1, 1, 1]
    hints = np.stack([cause, wrong, wrong], axis=1).astype(np.float32)
    assert choose(resemblance(space, hints), queries).accuracy.tolist() == [0, 0, 0, 0]


def test_an_explanation_without_features_is_a_tie() -> None:
    responses, features = clear()
    space, queries = feature_space(features), draw_queries(responses)
    grey = np.repeat(space.mean[None, None], 4, axis=0)  # for every target
    chosen = choose(resemblance(space, grey), queries)  # type: ignore[arg-type]
    assert chosen.accuracy.tolist() == [0.5] * 4
    assert chosen.confidence.tolist() == [0.5] * 4


def test_pairs_that_excite_a_target_alike_do_not_count() -> None:
    responses, features = clear()
    responses[:, 0] = 0.0
    responses[0, 0] = 1.0  # the one even-numbered photograph that the target responds to
    responses[:, 1] = 3.0  # a constant target
    queries = draw_queries(responses)
    assert queries.valid[0].tolist() == [[True] * 10] + [[False] * 10] * 9
    space = feature_space(features)
    shown = features[queries.strong[:, :1]].astype(np.float32)
    chosen = choose(resemblance(space, shown), queries)
    assert chosen.accuracy[0] == 1
    assert math.isnan(chosen.accuracy[1])

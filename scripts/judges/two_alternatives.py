"""Two-alternative choice by machine: does an image predict what excites its target?

An observer sees an explanation, such as the optimized image, and two photographs: one of those that
excite the target most, one of those that excite it least. It picks the one that resembles the
explanation more. The observer is another network, and a similarity is a cosine of its features.

After the psychophysics of Borowski et al. 2021, "Exemplary natural images explain CNN activations
better than state-of-the-art feature visualization", ICLR, and Zimmermann et al. 2023, "Scale alone
does not improve mechanistic interpretability in vision models", NeurIPS; by machine as in
Zimmermann et al. 2024, "Measuring per-unit interpretability at scale without humans", NeurIPS.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from judges.features import FeatureSpace
from layer_atlas.datasets.evidence import STRONGEST
from layer_atlas.datasets.statistics import strongest

QUERIES = 10
"""Pairs of photographs per target."""

SLOPE = 10.0
"""Slope of the confidence: a cosine that is larger by 0.1 gives 0.73, by 0.3 0.95."""

_TIE = 1e-9


@dataclass(frozen=True)
class Queries:
    """Pairs of held-out photographs of n targets, the most extreme pair first."""

    strong: NDArray[np.int64]
    """(n, Q) photographs that excite the target most."""
    weak: NDArray[np.int64]
    """(n, Q) photographs that excite it least."""
    valid: NDArray[np.bool_]
    """(n, Q) whether the first excites the target more than the second; others do not count."""


@dataclass(frozen=True)
class Choices:
    """Choices of an observer, per target."""

    accuracy: NDArray[np.float64]
    """(n,) fraction of the pairs with the right choice, ties counting half; NaN without pairs."""
    confidence: NDArray[np.float64]
    """(n,) mean logistic function of the difference of similarities, as in the score of 2024."""


def is_held_out(count: int) -> NDArray[np.bool_]:
    """Return which of `count` photographs are for queries: those of even number."""
    even: NDArray[np.bool_] = np.arange(count) % 2 == 0
    return even


def draw_queries(
    responses: NDArray[np.float32], used: NDArray[np.bool_] | None = None, most: int = QUERIES
) -> Queries:
    """Pair the strongest with the weakest held-out photographs of each target.

    Args:
        responses: (N, n) mean response of each target to each photograph.
        used: (n, N) photographs that an explanation of the target was made from, such as the one
            that it started as. They are in no query.
        most: largest number of pairs per target.
    """
    count, n = responses.shape
    allowed = np.tile(is_held_out(count), (n, 1))
    if used is not None:
        allowed &= ~used
    pairs = min(most, int(allowed.sum(axis=1).min()) // 2)
    if pairs < 1:
        raise ValueError("a query needs two held-out photographs.")
    strong, weak = (
        strongest(np.where(allowed.T, values, -np.inf).astype(np.float32), pairs)
        for values in (responses, -responses)
    )
    target = np.arange(n)[:, None]
    return Queries(strong, weak, responses[strong, target] > responses[weak, target])


def strongest_references(
    responses: NDArray[np.float32], most: int = STRONGEST
) -> NDArray[np.int64]:
    """Return the strongest photographs (n, most) of each target that are in no query.

    As explanations they are the ceiling: what photographs of the target itself achieve.
    """
    odd = np.flatnonzero(~is_held_out(len(responses)))
    return odd[strongest(responses[odd], min(most, len(odd)))]


def choose(
    space: FeatureSpace, explanations: NDArray[np.float32], queries: Queries, shift: int = 0
) -> Choices:
    """Choose between the photographs of every pair.

    Args:
        space: features of the photographs in the observer.
        explanations: (n, E, D) features of the E explanations of each target. The similarity to a
            photograph is the mean of theirs.
        queries: the pairs of each target.
        shift: each target gets the explanations of the target so many rows later.
    """
    n, count, features = explanations.shape
    similar = space.cosines(explanations.reshape(n * count, features))
    similar = np.roll(similar.reshape(n, count, -1).mean(axis=1), -shift, axis=0)
    target = np.arange(n)[:, None]
    difference = similar[target, queries.strong] - similar[target, queries.weak]
    # An explanation without features, such as a grey image, resembles both equally.
    right = np.where(np.abs(difference) <= _TIE, 0.5, difference > 0)
    confident = 1.0 / (1.0 + np.exp(-SLOPE * difference))
    return Choices(_mean(right, queries.valid), _mean(confident, queries.valid))


def choose_shuffled(
    space: FeatureSpace, explanations: NDArray[np.float32], queries: Queries
) -> Choices:
    """Choose by the explanations of every other target in turn: the control, about 50 %.

    More than that is what images have in common with whatever excites the layer at all.
    """
    n = len(explanations)
    if n < 2:
        return Choices(np.full(n, np.nan), np.full(n, np.nan))
    turns = [choose(space, explanations, queries, shift) for shift in range(1, n)]
    return Choices(
        np.mean([turn.accuracy for turn in turns], axis=0),
        np.mean([turn.confidence for turn in turns], axis=0),
    )


def _mean(values: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    counted = valid.sum(axis=1)
    total = np.where(valid, values, 0.0).sum(axis=1)
    return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)

"""Bundles: nothing lost or doubled, every slot about equally long at work."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from toys import make_series

from layer_atlas.plan.jobs import Shard
from layer_atlas.sweep.scheduling.binpack import pack

SERIES = make_series()
MOST = 1200.0


def shards_of(costs: list[float]) -> tuple[list[Shard], dict[str, float]]:
    shards = [Shard(SERIES, (i,)) for i in range(len(costs))]
    return shards, {shard.key: cost for shard, cost in zip(shards, costs, strict=True)}


def random_costs(n: int, largest: float, seed: int) -> list[float]:
    random = Random(seed)
    return [largest * random.random() ** 3 for _ in range(n)]


CASES = [
    [],
    [5.0],
    [1.0] * 10,
    random_costs(40, 60.0, 0),  # one wave
    random_costs(300, MOST / 3, 1),  # many waves
    [3 * MOST, 1.0, 1.0],  # one shard longer than a bundle
    [0.0] * 7,
]


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("costs", CASES, ids=lambda costs: f"{len(costs)} shards")
def test_no_shard_is_lost_or_doubled_and_no_bundle_is_empty(costs: list[float], slots: int) -> None:
    shards, cost = shards_of(costs)
    bundles = list(pack(shards, lambda shard: cost[shard.key], slots, MOST))
    assert Counter(s.key for bundle in bundles for s in bundle) == Counter(s.key for s in shards)
    assert all(bundles)


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("costs", CASES, ids=lambda costs: f"{len(costs)} shards")
def test_bundles_of_a_wave_differ_by_a_shard_at_most(costs: list[float], slots: int) -> None:
    shards, cost = shards_of(costs)
    bundles = list(pack(shards, lambda shard: cost[shard.key], slots, MOST))
    loads = [sum(cost[s.key] for s in bundle) for bundle in bundles]
    longest = max(costs, default=0.0)
    for start in range(0, len(loads), slots):
        wave = loads[start : start + slots]
        wave += [0.0] * (min(slots, len(costs)) - len(wave))
        assert max(wave) - min(wave) <= longest + 1e-9
    assert all(load <= MOST + longest + 1e-9 for load in loads)


def test_every_slot_gets_work_while_there_are_shards_enough() -> None:
    shards, cost = shards_of([1.0] * 3)
    assert [len(bundle) for bundle in pack(shards, lambda s: cost[s.key], 3, MOST)] == [1, 1, 1]


def test_bundles_keep_the_order_of_the_plan() -> None:
    costs = random_costs(300, MOST / 3, 2)
    shards, cost = shards_of(costs)
    bundles = list(pack(shards, lambda shard: cost[shard.key], 3, MOST))
    order = {shard.key: i for i, shard in enumerate(shards)}
    for bundle in bundles:
        places = [order[shard.key] for shard in bundle]
        assert places == sorted(places)
    waves = [
        [order[s.key] for bundle in bundles[i : i + 3] for s in bundle]
        for i in range(0, len(bundles), 3)
    ]
    assert len(waves) > 3
    assert all(max(earlier) < min(later) for earlier, later in pairwise(waves))

"""The plan: shards that lose and double nothing, and what they cost."""

import pytest
from toys import layer_info, make_plan, make_recipe

from pipeline.plan import LayerPlan, flops_per_job


@pytest.mark.parametrize("shard_size", [1, 3, 4, 64])
def test_shards_hold_every_job_once_in_order(shard_size: int) -> None:
    layers = (layer_info("a", 8), layer_info("b", 5))
    plan = make_plan(*layers, seeds=(0, 7), shard_size=shard_size)
    jobs = [
        (shard.series.layer, shard.series.seed, channel)
        for shard in plan.shards()
        for channel in shard.channels
    ]
    assert jobs == [
        (info.name, seed, c) for info in layers for seed in (0, 7) for c in range(info.n_channels)
    ]
    assert plan.n_jobs == len(jobs)


def test_only_the_last_shard_of_a_series_is_short() -> None:
    plan = make_plan(layer_info("a", 10), channels=(0, 2, 3, 5, 6, 7, 9), shard_size=3)
    assert [shard.channels for shard in plan.shards()] == [(0, 2, 3), (5, 6, 7), (9,)]


def test_flops_count_two_passes_per_step_and_the_measured_views() -> None:
    assert flops_per_job(
        LayerPlan(layer_info(flops_before=100), ()), make_recipe(steps=7)
    ) == 100 * (14 + 17)

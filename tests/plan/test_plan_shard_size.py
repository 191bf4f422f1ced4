"""Shards are cut so that every device has work, where that is worth a worker."""

from dataclasses import replace

import pytest
from toys import composed, layer_info, make_plan

from layer_atlas.plan import plan as module
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import Plan


def plan_of(*layers: LayerInfo) -> Plan:
    return make_plan(*layers, shard_size=64)


def shard_size(plan: Plan, devices: int, *overrides: str) -> int:
    net = "models=[{name: toy, target: toys.none}]"
    return module.shard_size(composed(net, *overrides), plan.models, ["cuda:0"] * devices)


def heavy(channels: int) -> LayerInfo:
    return replace(layer_info("a", channels), flops_before=10**13)


@pytest.mark.parametrize(("devices", "size"), [(1, 64), (2, 32), (3, 22), (8, 8), (100, 1)])
def test_one_layer_is_shared_by_all_devices(devices: int, size: int) -> None:
    plan = replace(plan_of(heavy(64)), shard_size=shard_size(plan_of(heavy(64)), devices))
    assert plan.shard_size == size
    assert len(list(plan.shards())) >= min(devices, 64)


def test_a_sweep_of_seconds_is_not_worth_several_workers() -> None:
    assert shard_size(plan_of(layer_info("a", 64)), 8) == 64


def test_large_sweeps_keep_the_shards_that_the_config_asks_for() -> None:
    assert shard_size(plan_of(heavy(4096)), 8) == 64
    assert shard_size(plan_of(heavy(4096)), 8, "shard_size=16") == 16


def test_seeds_are_work_too() -> None:
    assert shard_size(plan_of(heavy(64)), 2, "seeds=[0,1]") == 64

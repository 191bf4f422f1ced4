"""The plan: shards that lose and double nothing, and what they cost."""

import math
from dataclasses import replace

import pytest
from toys import IDENTITY, composed, layer_info, make_plan, make_recipe

from layer_atlas.config.executors import LocalSettings
from layer_atlas.config.objectives import (
    ChannelObjective,
    JointObjective,
    PrototypeObjective,
    Term,
)
from layer_atlas.config.optimizers import LBFGS
from layer_atlas.plan.plan import (
    _IMAGE_FLOPS,
    LayerPlan,
    LayerRef,
    bytes_needed,
    flops_per_job,
    jobs_at_once,
    picture_bytes,
)
from layer_atlas.sweep.planning import inspect_models
from layer_atlas.sweep.planning import make_plan as plan_of
from layer_atlas.sweep.planning.devices import find_devices


@pytest.mark.parametrize("shard_size", [1, 3, 4, 64])
def test_shards_hold_every_job_once_in_order(shard_size: int) -> None:
    layers = (layer_info("a", 8), layer_info("b", 5))
    plan = make_plan(*layers, seeds=(0, 7), shard_size=shard_size)
    jobs = [
        (shard.series.layer, shard.series.seed, channel)
        for shard in plan.shards()
        for channel in shard.targets
    ]
    assert jobs == [
        (info.name, seed, c) for info in layers for seed in (0, 7) for c in range(info.n_channels)
    ]
    assert plan.n_jobs == len(jobs)


def test_only_the_last_shard_of_a_series_is_short() -> None:
    plan = make_plan(layer_info("a", 10), channels=(0, 2, 3, 5, 6, 7, 9), shard_size=3)
    assert [shard.targets for shard in plan.shards()] == [(0, 2, 3), (5, 6, 7), (9,)]


def test_flops_count_two_passes_per_step_the_measured_views_and_the_images() -> None:
    layer, recipe = LayerPlan(layer_info(flops_before=100), ()), make_recipe(steps=7)
    pixels = math.prod(recipe.image_size)
    assert flops_per_job(layer, recipe) == 100 * (14 + 17) + 7 * pixels * _IMAGE_FLOPS
    searching = replace(recipe, optimizer=LBFGS(steps=7, evaluations=5))
    assert flops_per_job(layer, searching) == 100 * (70 + 17) + 35 * pixels * _IMAGE_FLOPS


def test_layers_of_one_network_are_read_in_one_pass() -> None:
    recipe = make_recipe(steps=7)
    infos = [layer_info("a", flops_before=100), layer_info("b", flops_before=60)]
    layer = LayerPlan(infos[0], (), others=(LayerRef("toy", IDENTITY, infos[1]),))
    prototype = replace(recipe, objective=PrototypeObjective(dataset="0" * 64))
    assert flops_per_job(layer, prototype) == flops_per_job(replace(layer, others=()), prototype)
    terms = tuple(Term(network=digest, layer="a") for digest in ("one", "two"))
    joint = replace(recipe, objective=JointObjective(terms=terms))
    images = 7 * math.prod(recipe.image_size) * _IMAGE_FLOPS
    assert flops_per_job(layer, joint) == (100 + 60) * (14 + 17) + images


FILMED = replace(make_recipe(image_size=(10, 20), steps=9), snapshots=3)
"""Of four pictures on the way, and the finished one."""


def test_disk_is_for_every_picture_of_every_job_twice() -> None:
    both = replace(FILMED, objective=ChannelObjective(sign="both"))
    for recipe, colours, pictures in ((FILMED, 3, 5), (FILMED, 1, 5), (both, 3, 10)):
        plan = make_plan(layer_info("a", 7), recipe=recipe, colours=colours)
        expected = 2 * 7 * 10 * 20 * pictures * colours
        assert bytes_needed(plan, plan.shards()) == expected


def test_a_batch_holds_fewer_jobs_the_more_pictures_they_have() -> None:
    large = make_recipe(image_size=1024, steps=64)
    often = replace(large, snapshots=1)
    assert jobs_at_once(make_recipe(), 3) > 100_000
    assert jobs_at_once(often, 3) == 1
    assert jobs_at_once(large, 3) * picture_bytes(large, 3) <= 2**28


@pytest.mark.slow
def test_shards_are_no_larger_than_memory_bears() -> None:
    config = composed(
        "image_size=512", "snapshots=1", "layers=[conv1]", "channels='0:8'", "growth=none"
    )
    plan = plan_of(config, inspect_models(config), find_devices(LocalSettings(devices="cpu")))
    assert plan.shard_size == jobs_at_once(plan.models[0].recipe, 3) == 6

"""The plan: channels as selected, shards that lose and double nothing, mistakes told."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from toys import layer_info, make_plan, make_recipe

from pipeline.errors import UserError
from pipeline.optimizer_records import LBFGS
from pipeline.plan import flops_per_job, select_channels


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ("all", range(10)),
        ("0:4", range(4)),
        ("2:8:3", (2, 5)),
        (":3", range(3)),
        ("7:", (7, 8, 9)),
        ("-2:", (8, 9)),
        ("8:64", (8, 9)),  # layers differ in width: a range may reach beyond
        ("9:5:-2", (7, 9)),
        (3, (3,)),
        ([7, 3, 7], (3, 7)),
        ((0, 9), (0, 9)),
        ({"random": 99}, range(10)),
    ],
)
def test_selections_choose_channels_in_ascending_order(selection: Any, chosen: Any) -> None:
    assert select_channels(selection, 10, "net/layer") == tuple(chosen)


def test_random_selection_is_fixed_and_grows_with_its_size() -> None:
    picks = [set(select_channels({"random": n}, 512, "net/layer")) for n in (8, 32, 256, 512)]
    assert [len(pick) for pick in picks] == [8, 32, 256, 512]
    for small, large in pairwise(picks):
        assert small < large
    assert picks[0] == set(select_channels({"random": 8}, 512, "net/layer"))
    assert picks[1] != set(range(32))


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ([3, 10], ["channel 10", "net/layer", "channels 0 to 9"]),
        (-1, ["channel -1", "net/layer"]),
        ([], ["[]", "no channel of net/layer", "10"]),
        ("12:14", ["'12:14'", "no channel of net/layer"]),
        ("0:4:0", ["'0:4:0'", "start:stop"]),
        ("a:b", ["'a:b'", "start:stop"]),
        ("1:2:3:4", ["'1:2:3:4'", "start:stop"]),
        ("al", ["'al'", "all", "{random: 32}"]),
        ("5", ["'5'", "[3,17]"]),
        ([1.5], ["[1.5]", "[3,17]"]),
        ([True], ["[True]", "[3,17]"]),
        (True, ["True", "[3,17]"]),
        (None, ["None", "all"]),
        ({"random": 0}, ["{random: 0}", "1 or more"]),
        ({"random": "many"}, ["{random: many}", "whole number"]),
        ({"rnadom": 3}, ["rnadom", "{random: 32}"]),
    ],
)
def test_mistakes_in_a_selection_are_told(selection: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        select_channels(selection, 10, "net/layer")
    for word in words:
        assert word in str(caught.value)


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
    assert flops_per_job(layer_info(flops_before=100), make_recipe(steps=7)) == 100 * (14 + 17)
    searching = replace(make_recipe(), optimizer=LBFGS(steps=7, evaluations=5))
    assert flops_per_job(layer_info(flops_before=100), searching) == 100 * (70 + 17)

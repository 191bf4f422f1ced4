"""Stages: what is missing of a sweep, and how long its tasks take."""

import pytest
from toys import layer_info, make_plan, make_recipe, make_sweep

from pipeline.stages import AscentStage, stages
from pipeline.store import OutputFolder


def test_time_of_a_shard_is_its_jobs_times_its_flops(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("pipeline.stages").stages.FLOPS_PER_SECOND, "cpu", 1000.0)
    shallow, deep = layer_info("a", 4, flops_before=100), layer_info("b", 4, flops_before=700)
    plan = make_plan(shallow, deep, shard_size=3, recipe=make_recipe(steps=10))
    stage = AscentStage(make_sweep(plan, folder))
    seconds = [stage.seconds(shard) for shard in plan.shards()]
    assert seconds == pytest.approx([11.1, 3.7, 77.7, 25.9])  # 10 steps there and back, 17 views


def test_without_photographs_images_are_all_there_is(folder: OutputFolder) -> None:
    assert [stage.name for stage in stages(make_sweep(make_plan(), folder))] == ["making"]

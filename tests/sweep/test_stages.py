"""Stages: what is missing of a sweep when, and how long its tasks take."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toys import (
    fail,
    fill_store,
    fill_study,
    layer_info,
    make_listing,
    make_plan,
    make_recipe,
    make_result,
    make_sweep,
)

from layer_atlas.config.datasets import IntegratedGradients, SmoothGrad, VanillaSaliency
from layer_atlas.config.objectives import PrototypeObjective
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import LayerStatistics, all_statistics
from layer_atlas.plan import plan as plan_module
from layer_atlas.plan.plan import DatasetPlan, Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import commit
from layer_atlas.sweep.stages import (
    ExamplesStage,
    Finished,
    OptimizationStage,
    ShardIndex,
    StatisticsStage,
    Sweep,
    maps_per_channel,
    stages,
)

N, K = 150, 6
FLOPS_PER_SECOND = 1000.0


def test_time_of_a_shard_is_its_jobs_times_its_flops(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plan_module.FLOPS_PER_SECOND, "cpu", FLOPS_PER_SECOND)
    monkeypatch.setattr(plan_module, "_IMAGE_FLOPS", 0.0)
    shallow, deep = layer_info("a", 4, flops_before=100), layer_info("b", 4, flops_before=700)
    plan = make_plan(shallow, deep, shard_size=3, recipe=make_recipe(steps=10))
    stage = OptimizationStage(make_sweep(plan, folder))
    seconds = [stage.seconds(shard) for shard in plan.shards()]
    assert seconds == pytest.approx([11.1, 3.7, 77.7, 25.9])  # 10 steps there and back, 17 views


def test_without_photographs_images_are_all_there_is(folder: OutputFolder) -> None:
    assert [stage.name for stage in stages(make_sweep(make_plan(), folder))] == ["optimization"]


# --- with photographs ----------------------------------------------------------------------------


def photographed(folder: OutputFolder, *layers: str, made_from: str = "", **changes: Any) -> Sweep:
    """A sweep of 150 photographs in three blocks; images start from them, or match them."""
    dataset_plan = make_listing(folder, (f"{i}.png" for i in range(N)), **changes)
    recipe = make_recipe()
    if made_from == "start":
        recipe = replace(recipe, init=DatasetInit(dataset=dataset_plan.listing))
    if made_from == "prototype":
        recipe = replace(recipe, objective=PrototypeObjective(dataset=dataset_plan.listing))
    plan = make_plan(*(layer_info(name, K) for name in layers or ("a",)), recipe=recipe)
    return make_sweep(
        replace(plan, dataset_plan=dataset_plan), folder, "dataset=folder", "dataset.path=photos"
    )


def statistics_of(sweep: Sweep, layer: str = "a") -> LayerStatistics:
    assert sweep.plan.dataset_plan is not None
    layer_statistics = all_statistics(sweep.plan.models[0], sweep.plan.dataset_plan)
    return next(one for one in layer_statistics if one.layer == layer)


def fill(sweep: Sweep, layer: str = "a") -> None:
    """Commit all blocks of a layer's study."""
    mean = np.random.default_rng(0).normal(size=(N, K))
    boxes = np.tile(np.asarray([[0, 0, 4, 4]]), (16, 1))
    fill_study(sweep.folder, statistics_of(sweep, layer), mean, np.zeros((N, K)), boxes)


def statistics_stage(sweep: Sweep) -> StatisticsStage:
    assert sweep.plan.dataset_plan is not None
    return StatisticsStage(sweep, sweep.plan.dataset_plan)


def examples_stage(sweep: Sweep) -> ExamplesStage:
    assert sweep.plan.dataset_plan is not None
    return ExamplesStage(sweep, sweep.plan.dataset_plan)


def wanted(sweep: Sweep) -> list[tuple[int, list[str]]]:
    """The blocks that are missing: where they begin, and the layers that are to see them."""
    return [(b.start, b.request()["layers"]) for b in statistics_stage(sweep).missing()]


def test_stages_come_in_order(folder: OutputFolder) -> None:
    names = [stage.name for stage in stages(photographed(folder))]
    assert names == ["dataset statistics", "optimization", "examples"]


def test_at_first_every_block_is_missing_and_no_examples_can_be_picked(
    folder: OutputFolder,
) -> None:
    sweep = photographed(folder, "a", "b")
    assert wanted(sweep) == [(start, ["a", "b"]) for start in (0, 64, 128)]
    assert statistics_stage(sweep).total == N
    assert len(OptimizationStage(sweep).missing()) == 6
    assert examples_stage(sweep).missing() == []


def test_photographs_of_several_networks_say_what_is_counted(folder: OutputFolder) -> None:
    one = photographed(folder)
    assert statistics_stage(one).unit == "photographs"
    judge = replace(one.plan.models[0], label="judge-net", is_judge=True)
    stage = statistics_stage(replace(one, plan=replace(one.plan, judge=judge)))
    assert (stage.total, stage.unit) == (2 * N, f"photographs, {N} for each of 2 networks")


def test_receptive_fields_are_found_for_no_judge(folder: OutputFolder) -> None:
    one = photographed(folder)
    judge = replace(one.plan.models[0], label="judge-net", is_judge=True)
    stage = statistics_stage(replace(one, plan=replace(one.plan, judge=judge)))
    own, of_judge = (block for block in stage.missing() if block.start == 0)
    assert [product.shelf for product in own.products] == ["photographs", "fields"]
    assert [product.shelf for product in of_judge.products] == ["photographs"]


def test_blocks_are_asked_for_the_layers_that_lack_them(folder: OutputFolder) -> None:
    sweep = photographed(folder, "a", "b")
    fill(sweep, "b")
    assert wanted(sweep) == [(start, ["a"]) for start in (0, 64, 128)]
    for path in folder.layer("toy", "b").glob("fields/*"):
        path.unlink()
    assert wanted(sweep) == [(0, ["a", "b"]), (64, ["a"]), (128, ["a"])]


def test_a_study_is_merged_when_its_blocks_are_there(folder: OutputFolder) -> None:
    sweep = photographed(folder, "a", "b")
    assert statistics_stage(sweep).finish() == Finished()
    fill(sweep, "b")
    assert statistics_stage(sweep).finish() == Finished(made=1)
    assert folder.exists(statistics_of(sweep, "b").product)
    assert not folder.exists(statistics_of(sweep, "a").product)
    assert statistics_stage(sweep).finish() == Finished()


def test_a_merged_study_is_not_asked_for_again(folder: OutputFolder) -> None:
    sweep = photographed(folder)
    fill(sweep)
    statistics_stage(sweep).finish()
    for path in folder.layer("toy", "a").glob("photographs/*"):
        path.unlink()
    assert statistics_stage(sweep).missing() == []
    wider = photographed(folder, "a", "b")
    assert wanted(wider) == [(start, ["b"]) for start in (0, 64, 128)]


def test_a_merged_study_without_fields_gets_them_again(folder: OutputFolder) -> None:
    sweep = photographed(folder)
    fill(sweep)
    statistics_stage(sweep).finish()
    folder.product(statistics_of(sweep).field).unlink()
    assert wanted(sweep) == [(0, ["a"])]


def test_corrupt_blocks_are_told_and_missing_again(folder: OutputFolder) -> None:
    sweep = photographed(folder)
    fill(sweep)
    path = folder.product([b.products[0] for b in all_blocks(sweep)][1])
    path.write_bytes(b"")
    assert statistics_stage(sweep).finish() == Finished(corrupt=(path,))
    assert wanted(sweep) == [(64, ["a"])]


def all_blocks(sweep: Sweep) -> list[Any]:
    """Blocks of an output folder in which nothing is done."""
    empty = OutputFolder(sweep.folder.root / "empty")
    listing = sweep.folder.listing(statistics_of(sweep).plan.listing)
    target = empty.listing(statistics_of(sweep).plan.listing)
    target.parent.mkdir(parents=True)
    target.write_bytes(listing.read_bytes())
    return statistics_stage(replace(sweep, folder=empty)).missing()


def test_examples_are_picked_of_finished_studies_alone(folder: OutputFolder) -> None:
    sweep = photographed(folder, "a", "b")
    fill(sweep, "a")
    assert examples_stage(sweep).missing() == []
    statistics_stage(sweep).finish()
    tasks = examples_stage(sweep).missing()
    assert [(t.statistics.layer, t.targets) for t in tasks] == [
        ("a", (c, c + 1)) for c in (0, 2, 4)
    ]
    (product,) = tasks[1].products
    write_arrays(folder, product, {})
    assert [t.targets for t in examples_stage(sweep).missing()] == [(0, 1), (4, 5)]


@pytest.mark.parametrize("made_from", ["start", "prototype"])
def test_images_that_are_made_from_photographs_wait_for_their_study(
    folder: OutputFolder, made_from: str
) -> None:
    sweep = photographed(folder, "a", "b", made_from=made_from)
    assert OptimizationStage(sweep).missing() == []
    fill(sweep, "b")
    assert OptimizationStage(sweep).missing() == []
    statistics_stage(sweep).finish()
    assert {shard.series.layer for shard in OptimizationStage(sweep).missing()} == {"b"}
    fill_store(folder, make_only(sweep.plan, "b"))
    assert OptimizationStage(sweep).missing() == []


def make_only(plan: Plan, layer: str) -> Plan:
    """The plan of one of its layers."""
    (model,) = plan.models
    layers = tuple(each for each in model.layers if each.info.name == layer)
    return replace(plan, models=(replace(model, layers=layers),))


def test_bundles_tell_the_layers_that_their_tasks_need(folder: OutputFolder) -> None:
    sweep = photographed(folder, "a", "b", "c")
    fill(sweep, "b")
    stage = statistics_stage(sweep)
    bundle = stage.bundle(stage.missing())
    assert [layer["info"]["name"] for layer in bundle["plan"]["layers"]] == ["a", "c"]
    assert bundle["kind"] == "statistics"
    assert [request["layers"] for request in bundle["requests"]] == [["a", "c"]] * 3


def test_time_of_a_block_is_that_of_the_deepest_layer(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(plan_module.FLOPS_PER_SECOND, "cpu", FLOPS_PER_SECOND)
    sweep = photographed(folder, "a", "b")
    stage = statistics_stage(sweep)
    assert [stage.seconds(block) for block in stage.missing()] == pytest.approx(
        [64 * 3.002, 64 * 3.002, 22 * 3.002]
    )


@pytest.mark.parametrize(
    ("saliency", "maps"),
    [
        (None, 0),
        (VanillaSaliency(dataset_images=3), 3),
        (SmoothGrad(dataset_images=3, samples=5), 15),
        (IntegratedGradients(dataset_images=2, steps=7), 14),
    ],
)
def test_maps_are_counted(folder: OutputFolder, saliency: Any, maps: int) -> None:
    sweep = photographed(folder, saliency=saliency)
    plan = sweep.plan.dataset_plan
    assert isinstance(plan, DatasetPlan)
    assert maps_per_channel(plan) == maps


def test_what_is_missing_is_told_in_the_order_of_the_plan(folder: OutputFolder) -> None:
    plan = make_plan(seeds=(0, 1), shard_size=2)
    shards = list(plan.shards())
    shard_index = ShardIndex(folder, plan)
    assert shard_index.missing() == shards
    for shard in (shards[1], shards[-1]):
        commit(folder, shard, make_result(shard))
    assert shard_index.missing() == [shards[0], *shards[2:-1]]


def test_nothing_is_worked_out_again_until_files_come_or_go(folder: OutputFolder) -> None:
    plan = make_plan(shard_size=2)
    fill_store(folder, plan)
    shard_index = ShardIndex(folder, plan)
    views = shard_index.views()
    assert shard_index.views() is views
    shard = next(plan.shards())
    folder.shard(shard).unlink()
    assert shard_index.views() is not views
    assert shard_index.missing() == [shard]


def test_what_was_given_up_since_is_known(folder: OutputFolder) -> None:
    plan = make_plan()
    shard = next(plan.shards())
    shard_index = ShardIndex(folder, plan)
    assert shard.key not in shard_index.views()[0].given_up
    fail(folder, shard)
    assert shard.key in shard_index.views()[0].given_up

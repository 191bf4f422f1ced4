"""Packing on simulated GPUs: whole layers per worker, full batches, all devices busy."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import pytest
from toys import layer_info, make_plan, make_recipe, make_sweep

from layer_atlas.plan.jobs import LayerInfo, Shard
from layer_atlas.plan.plan import GPU_BATCH, START_SECONDS
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.scheduler import pack
from layer_atlas.sweep.stages import SET_UP_SECONDS, OptimizationStage
from layer_atlas.sweep.tasks.optimize import group_by_batch

TWENTY_MINUTES = 1200.0


def resnet50() -> Iterator[LayerInfo]:
    """The 53 convolutions of a ResNet-50 at 224 px with their FLOPs, from its architecture."""
    before, number, inputs = 0, 0, 3
    for side, outputs, kernel in _convolutions():
        flops = 2 * side**2 * outputs * inputs * kernel**2
        before += flops
        info = layer_info(f"conv{number}", outputs, flops=flops, flops_before=before)
        yield replace(info, shape=(outputs, side, side))
        number, inputs = number + 1, outputs


def _convolutions() -> Iterator[tuple[int, int, int]]:
    """Side of the map, channels, size of the kernel."""
    yield 112, 64, 7
    for blocks, width, side in ((3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)):
        for block in range(blocks):
            yield from ((side, width, 1), (side, width, 3), (side, 4 * width, 1))
            if block == 0:
                yield side, 4 * width, 1  # of the shortcut


@dataclass
class Simulated:
    """What became of a sweep on devices that each take the next bundle when they are free."""

    optimizing: float
    """Share of the time of all devices in which they optimize."""
    busy: float
    """The same with the set-up of layers."""
    mean_batch: float
    """Over jobs: the batch that a job is made in."""
    pairs: int
    """Layers set up, on all devices together."""
    seconds: float


def simulate(bundles: Sequence[list[Shard]], stage: OptimizationStage, devices: int) -> Simulated:
    free = [0.0] * devices
    busy, jobs, weighted, pairs = 0.0, 0, 0, 0
    for bundle in bundles:
        work = sum(map(stage.seconds, bundle))
        layers = [list(group) for _, group in groupby(bundle, key=lambda s: s.series.layer)]
        pairs += len(layers)
        for layer in layers:
            for batch in group_by_batch(layer, GPU_BATCH):
                size = sum(shard.units for shard in batch)
                jobs, weighted = jobs + size, weighted + size**2
        busy += work
        heapq.heapreplace(free, free[0] + START_SECONDS + SET_UP_SECONDS * len(layers) + work)
    time = devices * max(free)
    set_up = SET_UP_SECONDS * pairs
    return Simulated(busy / time, (busy + set_up) / time, weighted / jobs, pairs, max(free))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> OptimizationStage:
    recipe = make_recipe(steps=48, image_size=(224, 224))
    plan = make_plan(*resnet50(), shard_size=64, recipe=recipe)
    assert plan.n_jobs == 26_560
    sweep = make_sweep(plan, OutputFolder(tmp_path_factory.mktemp("sweep")))
    return OptimizationStage(replace(sweep, devices=["cuda"] * 8))


def packed(stage: OptimizationStage, devices: int) -> list[list[Shard]]:
    tasks = list(stage.sweep.plan.shards())
    return list(pack(tasks, stage.costs(tasks), devices, TWENTY_MINUTES))


def test_a_network_on_eight_gpus_keeps_them_busy_with_full_batches(
    stage: OptimizationStage,
) -> None:
    one, eight = (simulate(packed(stage, n), stage, n) for n in (1, 8))
    assert eight.busy >= 0.94
    assert eight.optimizing >= 0.94 * one.optimizing
    assert eight.mean_batch >= 256
    assert eight.pairs <= 53 + 7  # seven cuts, each of which may split a layer
    assert one.seconds / eight.seconds >= 7


def test_a_bundle_is_a_run_of_neighbours(stage: OptimizationStage) -> None:
    place = {shard.key: n for n, shard in enumerate(stage.sweep.plan.shards())}
    for bundle in packed(stage, 8):
        assert all(place[b.key] == place[a.key] + 1 for a, b in pairwise(bundle))


def test_setting_up_a_layer_counts_once(stage: OptimizationStage) -> None:
    tasks = list(stage.sweep.plan.shards())
    extra = sum(stage.costs(tasks)) - sum(map(stage.seconds, tasks))
    assert extra == pytest.approx(53 * SET_UP_SECONDS)

"""The size of batches on GPUs is planned: by recipe, layer and kind of GPU, not by free memory."""

from dataclasses import replace

import pytest
from runs import TINY
from toys import composed, make_recipe

from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.config.parameterizations import Pixel
from layer_atlas.config.records import plain
from layer_atlas.plan.plan import LayerPlan, gpu_batch
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import ASSUMED_GPU_BYTES, WorkerDevice

GIGABYTES = 2**30
RECIPE = replace(make_recipe(Pixel()), image_size=(224, 224))
SMALL_GPU = WorkerDevice("cuda:0", memory=16 * GIGABYTES)


def layers(devices: list[WorkerDevice], *overrides: str) -> tuple[LayerPlan, ...]:
    config = composed(*TINY, "layers=[conv1,conv2]", *overrides)
    return make_plan(config, inspect_models(config), devices).models[0].layers


def size(targets: int = 4096, values: int = 10**7, gigabytes: int = 80) -> int:
    return gpu_batch(RECIPE, 3, targets, values, gigabytes * GIGABYTES)


def test_batches_are_powers_of_two_that_fit() -> None:
    sizes = [size(values=values) for values in range(10**6, 10**8, 10**6)]
    assert all(n & (n - 1) == 0 for n in sizes)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (512, 32)
    assert size(values=10**12) == 1


def test_larger_gpus_take_larger_batches_and_variants_share_them() -> None:
    assert size(gigabytes=16) < size(gigabytes=80) <= size(gigabytes=141)
    pairs = replace(RECIPE, objective=ChannelObjective(sign="both"))
    assert gpu_batch(pairs, 3, 4096, 10**7, 80 * GIGABYTES) == size() // 2


@pytest.mark.parametrize(("targets", "most"), [(1, 1), (3, 4), (64, 64), (65, 128)])
def test_a_layer_of_few_targets_is_not_filled_up_beyond_them(targets: int, most: int) -> None:
    assert size(targets, values=10**5) == most


def test_the_smallest_gpu_decides_and_every_number_of_them_plans_alike() -> None:
    large = replace(SMALL_GPU, name="cuda:1", memory=141 * GIGABYTES)
    one = [layer.batch_size for layer in layers([SMALL_GPU])]
    assert all(one)
    assert one == [layer.batch_size for layer in layers([SMALL_GPU] * 8)]
    assert one == [layer.batch_size for layer in layers([large, SMALL_GPU])]


def test_gpus_of_other_machines_are_assumed_to_be_small() -> None:
    elsewhere = layers([WorkerDevice("cuda")])
    known = layers([replace(SMALL_GPU, memory=ASSUMED_GPU_BYTES)])
    assert [layer.batch_size for layer in elsewhere] == [layer.batch_size for layer in known]


def test_nothing_is_planned_for_cpus_or_where_the_config_has_a_number() -> None:
    for made in (layers([WorkerDevice("cpu")]), layers([SMALL_GPU], "batch_size=8")):
        assert [layer.batch_size for layer in made] == [0, 0]
        assert "batch_size" not in plain(made[0])

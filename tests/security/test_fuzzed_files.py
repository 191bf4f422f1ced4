"""Files of the store under random mutations: each is noticed, and none does harm.

Mutations of bytes are noticed by the digest. Somebody who makes a file can make the digest right,
so it is also made right after the mutation: then what is read must fit, or the file is corrupt.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import BYTES, mutated, resealed
from toys import (
    IDENTITY,
    fill_store,
    fill_study,
    layer_info,
    make_listing,
    make_plan,
    make_recipe,
    make_result,
)

from layer_atlas.atlas.gather import layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.datasets import VanillaSaliency
from layer_atlas.datasets.image_files import as_jpeg, joined
from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.statistics_files import (
    merge_statistics,
    read_evidence,
    read_examples,
    write_arrays,
)
from layer_atlas.datasets.tasks import Examples, LayerStatistics, blocks_of
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.montages.montage import draw_montage
from layer_atlas.store import files as checksummed_file
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import SCHEMA, ShardFile, decode, encode, shard_specs

PLAN = make_plan(channels=(3, 4, 5), shard_size=3, recipe=make_recipe(image_size=16))
(MODEL,) = PLAN.models
(LAYER,) = MODEL.layers
(SHARD,) = PLAN.shards()
DATA = encode(SHARD, make_result(SHARD))

SLOWEST = 10.0
"""Seconds for one file, which takes a thousandth of one; other processes may be at work."""


def read(data: bytes) -> ShardFile | None:
    """The shard, if these bytes are one; raises nothing else."""
    begun = time.monotonic()
    try:
        return decode(data, MODEL, LAYER)
    except CorruptFile:
        return None
    finally:
        assert time.monotonic() - begun < SLOWEST


def assert_usable(shard: ShardFile) -> None:
    """All arrays have the shapes and dtypes that the plan demands, and can be read to the end."""
    specs = shard_specs(MODEL, LAYER, len(shard.header.targets))
    for name, array in shard.arrays.items():
        assert array.shape == specs[name].shape, name
        assert array.dtype == np.dtype(specs[name].dtype), name
        assert len(array.tobytes()) == array.nbytes


# --- the digest ----------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**64), st.sampled_from(sorted(BYTES)))
def test_any_mutation_of_a_shard_is_detected(seed: int, kind: str) -> None:
    assert read(mutated(DATA, random.Random(seed), kind)) is None


def test_of_ten_thousand_mutated_shards_ten_thousand_are_detected() -> None:
    assert read(DATA) is not None
    detected = sum(read(mutated(DATA, random.Random(seed))) is None for seed in range(10_000))
    assert detected == 10_000


# --- a digest that is right ----------------------------------------------------------------------


def live_status(n: int) -> tuple[int, int]:
    """Of n resealed mutations, how many are corrupt and how many can be used."""
    found = [read(resealed(DATA, random.Random(seed))) for seed in range(n)]
    usable = [shard for shard in found if shard is not None]
    for shard in usable:
        assert_usable(shard)
    return n - len(usable), len(usable)


@pytest.mark.usefixtures("bounded")
def test_a_resealed_mutation_is_corrupt_or_can_be_used() -> None:
    corrupt, usable = live_status(2_000)
    # The images, and what other tools alone look at, may be anything.
    assert corrupt > 500
    assert usable > 300


@pytest.mark.slow
@pytest.mark.usefixtures("bounded")
def test_twenty_thousand_resealed_mutations_do_no_harm() -> None:
    assert sum(live_status(20_000)) == 20_000


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**64))
def test_arrays_never_reach_beyond_the_file(seed: int) -> None:
    data = resealed(DATA, random.Random(seed))
    try:
        arrays = checksummed_file.decode(data, SCHEMA).arrays
    except CorruptFile:
        return
    assert sum(array.nbytes for array in arrays.values()) < len(data)


# --- files of studies ----------------------------------------------------------------------------

N, K, POSITIONS = 150, 6, 16


def make_study(folder: OutputFolder) -> tuple[LayerStatistics, Examples]:
    """A merged study and the examples of its channels."""
    plan = make_listing(folder, (f"{i}.png" for i in range(N)), saliency=VanillaSaliency())
    statistics = LayerStatistics("toy", IDENTITY, layer_info(), 16, plan)
    mean = np.random.default_rng(0).normal(size=(N, K))
    boxes = np.tile([[0, 0, 4, 4]], (POSITIONS, 1))
    fill_study(folder, statistics, mean, np.zeros((N, K)), boxes)
    assert (
        merge_statistics(folder, statistics, blocks_of((statistics,), _listing(folder, statistics)))
        == []
    )
    task = Examples(statistics, (0, 1), plan.saliency)
    index = np.asarray([[0, 1], [2, 3]])
    pictures = joined([as_jpeg(np.full((16, 16, 3), grey, np.uint8)) for grey in range(8)])
    arrays = {
        "target": np.arange(2),
        "strongest_index": index,
        "weakest_index": index + 4,
        "picture_index": np.arange(8),
        "saliency": np.zeros((2, 2, 16, 16), np.uint8),
        **pictures,
    }
    write_arrays(folder, task.products[0], arrays)
    return statistics, task


def _listing(folder: OutputFolder, statistics: LayerStatistics) -> Listing:
    return Listing(folder.listing(statistics.plan.listing))


def evidence(folder: OutputFolder, statistics: LayerStatistics, task: Examples) -> None:
    read_evidence(folder, statistics)


def examples(folder: OutputFolder, statistics: LayerStatistics, task: Examples) -> None:
    read_examples(folder, task)


def blocks(folder: OutputFolder, statistics: LayerStatistics, task: Examples) -> None:
    folder.product(statistics.product).unlink(missing_ok=True)
    if merge_statistics(folder, statistics, blocks_of((statistics,), _listing(folder, statistics))):
        raise CorruptFile


def first_block(statistics: LayerStatistics, task: Examples, folder: OutputFolder) -> Path:
    block = next(iter(blocks_of((statistics,), _listing(folder, statistics))))
    return folder.product(statistics.block(block.start, block.dataset_images))


FILES: dict[str, tuple[Callable[..., Path], Callable[..., None]]] = {
    "study": (lambda statistics, task, folder: folder.product(statistics.product), evidence),
    "examples": (lambda statistics, task, folder: folder.product(task.products[0]), examples),
    "block": (first_block, blocks),
    "fields": (lambda statistics, task, folder: folder.product(statistics.field), blocks),
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("place", "use"), FILES.values(), ids=FILES)
def test_resealed_files_of_studies_are_corrupt_or_can_be_used(
    folder: OutputFolder, place: Callable[..., Path], use: Callable[..., None]
) -> None:
    statistics, task = make_study(folder)
    path = place(statistics, task, folder)
    data, corrupt = path.read_bytes(), 0
    for seed in range(60):
        path.write_bytes(resealed(data, random.Random(seed)))
        try:
            use(folder, statistics, task)
        except CorruptFile:
            corrupt += 1
            assert not path.exists()
    assert corrupt > 15


@pytest.mark.slow
def test_collation_sets_aside_resealed_mutations_or_shows_them(folder: OutputFolder) -> None:
    path = fill_store(folder, PLAN)[0]
    for seed in range(40):
        path.write_bytes(resealed(DATA, random.Random(seed)))
        (view,) = layer_views(folder, PLAN)
        draw_montage(view, CollateSettings())
        write_atlas(folder, [view], {}, "content")
        with h5py.File(folder.atlas) as atlas:
            group = atlas[view.group]
            images = group["image"][()]
            lost = (group["status"][()] == STATUS["missing"]).all()
        assert bool(view.corrupt) == lost == (not images.any())
        assert lost != path.exists()

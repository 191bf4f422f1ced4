"""The nouns of a study: what their keys are made of, and how work is cut."""

from dataclasses import replace
from typing import Any

import pytest
from toys import IDENTITY, layer_info, make_listing, make_plan, make_recipe, make_study_plan

from layer_atlas.config.datasets import SmoothGrad, VanillaSaliency
from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.tasks import (
    Examples,
    LayerStatistics,
    all_statistics,
    blocks_of,
    examples_of,
    restricted,
)
from layer_atlas.store.folder import OutputFolder

STUDY = LayerStatistics("toy", IDENTITY, layer_info(), 16, make_study_plan())


def other(**changes: Any) -> LayerStatistics:
    return replace(STUDY, plan=replace(STUDY.plan, **changes))


def keys(statistics: LayerStatistics) -> dict[str, str]:
    """The keys of a study's files, and of the examples picked from it."""
    examples = Examples(statistics, (0, 1), statistics.plan.saliency)
    return {
        "study": statistics.product.key,
        "field": statistics.field.key,
        "block": statistics.block(64, "digest").key,
        "examples": examples.key,
    }


def changed(statistics: LayerStatistics) -> set[str]:
    before, after = keys(STUDY), keys(statistics)
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    "statistics",
    [
        replace(STUDY, network=replace(IDENTITY, weights_sha256="1")),
        replace(STUDY, network=replace(IDENTITY, mean=(0.4, 0.5, 0.5))),
        replace(STUDY, info=layer_info("block.other")),
        replace(STUDY, image_size=32),
        replace(STUDY, keep_prefix_tokens=True),
    ],
)
def test_network_layer_and_view_change_every_key(statistics: LayerStatistics) -> None:
    assert changed(statistics) == {"study", "field", "block", "examples"}


@pytest.mark.parametrize(
    "changes", [{"image_size": (32, 32)}, {"keep_prefix_tokens": True}], ids=str
)
def test_a_study_sees_photographs_as_the_recipe_tells(changes: dict[str, Any]) -> None:
    plan, recipe = make_plan(), replace(make_recipe(), **changes)
    (statistics,) = all_statistics(plan.models[0], make_study_plan())
    (other,) = all_statistics(make_plan(recipe=recipe).models[0], make_study_plan())
    assert statistics.product.key != other.product.key
    assert statistics.field.key != other.field.key


@pytest.mark.parametrize("changes", [{"top": 5}, {"bottom": 0}, {"reference": 150}], ids=str)
def test_what_is_kept_changes_all_but_the_fields(changes: dict[str, int]) -> None:
    assert changed(other(**changes)) == {"study", "block", "examples"}


def test_a_reference_of_the_same_photographs_changes_nothing() -> None:
    assert not changed(other(reference=101))  # as of 100, every second is kept


def test_other_photographs_leave_the_blocks_that_they_share() -> None:
    assert changed(other(listing="1" * 64)) == {"study", "examples"}
    assert STUDY.block(0, "digest").key != STUDY.block(64, "digest").key
    assert STUDY.block(0, "digest").key != STUDY.block(0, "another").key


def test_pictures_and_maps_change_examples_alone() -> None:
    for changes in ({"examples": 3}, {"saliency": VanillaSaliency()}):
        assert changed(other(**changes)) == {"examples"}
    maps = [Examples(STUDY, (0, 1), SmoothGrad(samples=n)).key for n in (4, 8)]
    assert maps[0] != maps[1]
    assert Examples(STUDY, (0, 1), None).key != Examples(STUDY, (0, 2), None).key


def test_labels_and_names_of_datasets_change_nothing() -> None:
    assert not changed(replace(STUDY, model="another name"))
    assert not changed(other(source="folder elsewhere"))


def test_a_later_version_changes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(STUDY)
    monkeypatch.setattr("layer_atlas.datasets.tasks.STUDY_VERSION", 99)
    after = keys(replace(STUDY))
    assert not set(before.values()) & set(after.values())


def test_files_lie_on_shelves_of_their_own() -> None:
    assert STUDY.product.shelf == "study"
    assert STUDY.field.shelf == "fields"
    assert STUDY.block(0, "digest").shelf == "photographs"
    (examples,) = Examples(STUDY, (0,), None).products
    assert (examples.model, examples.layer, examples.shelf) == ("toy", "block.conv", "examples")


@pytest.mark.parametrize(
    ("shape", "axis", "name", "size"),
    [
        ((8, 112, 14), 1, "conv", (28, 14)),
        ((5, 7, 8), 3, "last", (5, 7)),
        ((49, 8), 2, "tokens", (7, 7)),
        ((50, 8), 2, "tokens", None),
        ((8,), 1, "fc", None),
        ((8, 49, 49), 1, "layers.0.attention.attention_map", None),
    ],
)
def test_activation_maps_are_kept_small_and_of_layers_with_places(
    shape: tuple[int, ...], axis: int, name: str, size: tuple[int, int] | None
) -> None:
    info = layer_info(name, 8, shape=shape, channel_axis=axis)
    assert Examples(replace(STUDY, info=info), (0,), None).map_size == size


# --- cutting -------------------------------------------------------------------------------------


def test_blocks_cover_the_list_once_in_order(folder: OutputFolder) -> None:
    plan = make_listing(folder, (f"{i}.png" for i in range(150)))
    model = make_plan(layer_info("a"), layer_info("b")).models[0]
    layer_statistics = all_statistics(model, plan)
    blocks = list(blocks_of(layer_statistics, Listing(folder.listing(plan.listing))))
    assert [(b.start, b.stop, b.units) for b in blocks] == [
        (0, 64, 64),
        (64, 128, 64),
        (128, 150, 22),
    ]
    assert len({block.dataset_images for block in blocks}) == 3
    assert [statistics.layer for statistics in blocks[0].layer_statistics] == ["a", "b"]
    assert {b.request()["dataset_images"] for b in blocks} == {b.dataset_images for b in blocks}


def test_the_first_block_brings_the_fields(folder: OutputFolder) -> None:
    plan = make_listing(folder, map(str, range(100)))
    layer_statistics = all_statistics(make_plan(layer_info("a"), layer_info("b")).models[0], plan)
    first, second = blocks_of(layer_statistics, Listing(folder.listing(plan.listing)))
    shelves = [[product.shelf for product in block.products] for block in (first, second)]
    assert shelves == [["photographs"] * 2 + ["fields"] * 2, ["photographs"] * 2]


def test_a_restricted_block_has_the_layers_whose_files_are_missing(folder: OutputFolder) -> None:
    plan = make_listing(folder, map(str, range(70)))
    layer_statistics = all_statistics(make_plan(*map(layer_info, "abc")).models[0], plan)
    first, _ = blocks_of(layer_statistics, Listing(folder.listing(plan.listing)))
    block_of_a, *_, field_of_c = first.products
    left = restricted(first, [block_of_a, field_of_c])
    assert left.request()["layers"] == ["a", "c"]
    assert (left.start, left.stop, left.dataset_images) == (0, 64, first.dataset_images)
    assert set(left.products) < set(first.products)
    assert left.key != first.key
    assert restricted(first, first.products) == first


@pytest.mark.parametrize(("shard_size", "sizes"), [(3, [3, 3, 3, 1]), (2000, [10])])
def test_examples_cover_the_wanted_channels(shard_size: int, sizes: list[int]) -> None:
    plan = make_plan(layer_info(n_channels=20), channels=(*range(5), *range(9, 14)))
    plan = replace(plan, shard_size=shard_size)
    tasks = list(examples_of(plan, make_study_plan()))
    assert [task.units for task in tasks] == sizes
    assert [c for task in tasks for c in task.targets] == [*range(5), *range(9, 14)]


def test_examples_of_wide_layers_fit_into_memory() -> None:
    plan = replace(make_plan(layer_info(n_channels=1000)), shard_size=4096)
    assert max(task.units for task in examples_of(plan, make_study_plan())) == 64


def test_no_pictures_are_no_work() -> None:
    assert not list(examples_of(make_plan(), make_study_plan(examples=0)))

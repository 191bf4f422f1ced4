"""What photographs tell, in the atlas: numbers, names and labels, for layers of every shape."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from numpy.typing import NDArray
from runs import opened
from toys import fill_store, fill_study, layer_info, make_listing, make_plan

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.config.datasets import VanillaSaliency
from layer_atlas.datasets.evidence import agreement, make_reference, percentile
from layer_atlas.datasets.image_files import as_jpeg, joined
from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.statistics_files import merge_statistics, read_evidence, write_arrays
from layer_atlas.datasets.tasks import LayerStatistics, all_statistics, blocks_of, examples_of_layer
from layer_atlas.plan.jobs import STATUS, LayerInfo
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder

N, K, SIDE, SHOWN = 150, 6, 16, 2
CHANNELS, SEEDS = (0, 2, 3, 5), (0, 7)
NAMES = ["two\nlines.png", "\udcff.png", "é ' \".png", *(f"{i}/a b.png" for i in range(3, N))]
UNREADABLE = (1, 70)
LAYERS = {
    "conv": layer_info("conv", K, shape=(K, 3, 4)),
    "last": layer_info("last", K, shape=(3, 4, K), channel_axis=3),
    "tokens": layer_info("tokens", K, shape=(12, K), channel_axis=2),
    "vector": layer_info("vector", K, shape=(K,)),
}


def positions(info: LayerInfo) -> int:
    return int(np.prod(info.shape)) // K


def responses(layer: str) -> NDArray[Any]:
    """Silent channel 3; channel 5 answers all photographs alike and is not zero."""
    mean = np.random.default_rng(len(layer)).normal(size=(N, K))
    mean[:, 3], mean[:, 5] = 0.0, 1.0
    mean[list(UNREADABLE)] = np.nan
    return mean


def places(layer: str) -> NDArray[Any]:
    return np.tile(np.arange(N)[:, None] % positions(LAYERS[layer]), (1, K))


def fill(
    folder: OutputFolder, plan: Plan, change: Callable[[Any], Any] = lambda mean: mean
) -> None:
    """Commit studies and examples of all layers."""
    assert plan.dataset_plan is not None
    (model,) = plan.models
    listing = Listing(folder.listing(plan.dataset_plan.listing))
    for layer, statistics in zip(
        model.layers, all_statistics(model, plan.dataset_plan), strict=True
    ):
        boxes = np.tile([[1, 2, 9, 8]], (positions(layer.info), 1))
        name = layer.info.name
        fill_study(folder, statistics, change(responses(name)), places(name), boxes)
        assert merge_statistics(folder, statistics, blocks_of((statistics,), listing)) == []
        for task in examples_of_layer(statistics, layer, plan.shard_size):
            write_arrays(folder, task.products[0], examples(statistics, task.targets))


def examples(statistics: LayerStatistics, channels: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Pictures whose every pixel, and number, tells channel and rank."""
    told = 10 * np.asarray(channels)[:, None] + np.arange(SHOWN)
    index = np.concatenate([told.ravel(), told.ravel() + 90])
    files = [as_jpeg(np.full((SIDE, SIDE, 3), grey, np.uint8)) for grey in index]
    maps = np.broadcast_to(told[:, :1, None, None] + 1, (len(channels), 1, SIDE, SIDE))
    return {
        "target": np.asarray(channels),
        "strongest_index": told,
        "weakest_index": told + 90,
        "picture_index": index,
        **joined(files),
        "saliency": maps.astype(np.uint8),
        **activation_maps(statistics, told),
    }


def activation_maps(statistics: LayerStatistics, told: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Maps of the number of each picture, of a layer that has maps."""
    sides = statistics.info.map_size
    if min(sides) == 1:
        return {}
    levels = np.broadcast_to(told[..., None, None], (*told.shape, *sides)).astype(np.uint8)
    bounds = np.stack([told, told + 1], axis=-1).astype(np.float32)
    return {"activation": levels, "activation_bounds": bounds}


def make_photographed(
    folder: OutputFolder, *layers: str, seeds: tuple[int, ...] = SEEDS, **changes: Any
) -> Plan:
    infos = [LAYERS[name] for name in layers or LAYERS]
    plan = make_plan(*infos, channels=CHANNELS, seeds=seeds)
    mapped = VanillaSaliency(dataset_images=1)
    return replace(plan, dataset_plan=make_listing(folder, NAMES, saliency=mapped, **changes))


def collated(folder: OutputFolder, plan: Plan) -> list[LayerView]:
    views = list(layer_views(folder, plan))
    write_atlas(folder, views, {"config": "", "versions": ""}, "digest")
    return views


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = OutputFolder(tmp_path_factory.mktemp("atlas"))
    plan = make_photographed(folder)
    fill_store(folder, plan)
    fill(folder, plan)
    collated(folder, plan)
    return folder.atlas


@pytest.fixture(scope="module", params=LAYERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# --- the dataset ---------------------------------------------------------------------------------


def test_statistics_are_of_the_wanted_channels(atlas: Path, name: str) -> None:
    seen = np.delete(responses(name), UNREADABLE, axis=0)[:, CHANNELS].astype(np.float32)
    with h5py.File(atlas) as file:
        group = file[f"toy/{name}/dataset"]
        np.testing.assert_allclose(group["mean"][:], seen.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(group["std"][:], seen.std(axis=0, ddof=1), atol=1e-6)
        assert np.array_equal(group["max"][:], seen.max(axis=0))
        assert np.array_equal(group["min"][:], seen.min(axis=0))
        np.testing.assert_allclose(group["responding"][:], (seen > 0).mean(axis=0), rtol=1e-6)
        assert group["quantile"].shape == (len(CHANNELS), len(group["level"]))


def test_rankings_are_of_the_wanted_channels(atlas: Path, name: str) -> None:
    seen = np.delete(responses(name), UNREADABLE, axis=0)[:, CHANNELS].astype(np.float32)
    with h5py.File(atlas) as file:
        group = file[f"toy/{name}/dataset"]
        assert np.array_equal(group["top_score"][:], np.sort(seen, axis=0)[::-1][:4].T)
        assert np.array_equal(group["bottom_score"][:], np.sort(seen, axis=0)[:3].T)
        told = responses(name)[group["top_index"][:], np.asarray(CHANNELS)[:, None]]
        assert np.array_equal(group["top_score"][:], told.astype(np.float32))


def test_positions_are_rows_and_columns(atlas: Path, name: str) -> None:
    width = {"conv": 4, "last": 4, "tokens": 12, "vector": 1}[name]
    with h5py.File(atlas) as file:
        group = file[f"toy/{name}/dataset"]
        place = group["top_index"][:] % positions(LAYERS[name])
        assert np.array_equal(group["top_position"][..., 0], place // width)
        assert np.array_equal(group["top_position"][..., 1], place % width)
        if name in ("tokens", "vector"):
            assert not group["top_position"][..., 0].any()


@pytest.mark.slow
def test_xarray_gives_labelled_arrays(atlas: Path, name: str) -> None:
    where = {"engine": "h5netcdf", "group": f"toy/{name}/dataset"}
    with xarray.open_dataset(atlas, **where) as data:
        assert data["top_score"].dims == ("channel", "top")
        assert data["top_box"].dims == ("channel", "top", "edge")
        assert data["bottom_position"].dims == ("channel", "bottom", "map_axis")
        assert data["quantile"].dims == ("channel", "level")
        assert data["top_saliency"].dims == ("channel", "top_saliency_rank", "y", "x")
        assert dict(data.sizes)["top"] == 4
        assert float(data["quantile"].sel(level=0.5)[3]) == 1.0
        assert all(
            data[each].attrs["description"] for each in data.data_vars if "_rank" not in each
        )
    with xarray.open_dataset(atlas, engine="h5netcdf", group=f"toy/{name}") as data:
        assert data["agreement"].dims == data["percentile"].dims == ("channel", "seed")
        assert data["best_seed"].dims == ("channel",)
        assert data["channel"].values.tolist() == list(CHANNELS)


def test_odd_names_are_told_as_best_they_can_be(atlas: Path) -> None:
    with h5py.File(atlas) as file:
        group = file["toy/conv/dataset"]
        index, path = group["top_index"][:], group["top_path"].asstr()[:]
        everything = dict(zip(index.ravel().tolist(), path.ravel().tolist(), strict=True))
        everything |= dict(
            zip(
                group["bottom_index"][:].ravel().tolist(),
                group["bottom_path"].asstr()[:].ravel().tolist(),
                strict=True,
            )
        )
        assert all(path == NAMES[index] for index, path in everything.items())
        assert group.attrs["unreadable_paths"].tolist() == ["?.png", NAMES[70]]
        assert group.attrs["unreadable"] == 2
        assert group.attrs["photographs"] == N - 2


@pytest.mark.slow
@pytest.mark.parametrize("unreadable", [(), range(120), range(N)], ids=len)
def test_any_number_of_unreadable_photographs_is_counted(
    folder: OutputFolder, unreadable: Any
) -> None:
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan)

    def spoil(mean: NDArray[Any]) -> NDArray[Any]:
        mean = np.nan_to_num(mean)
        mean[list(unreadable)] = np.nan
        return mean

    fill(folder, plan, spoil)
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        layer = file["toy/conv"]
        attributes = layer["dataset"].attrs
        assert attributes["unreadable"] == len(unreadable)
        assert len(attributes["unreadable_paths"]) == min(100, len(unreadable))
        assert ("agreement" in layer) == (len(unreadable) < N)
        assert np.isnan(layer["dataset/mean"][:]).all() == (len(unreadable) == N)
    with xarray.open_dataset(folder.atlas, engine="h5netcdf", group="toy/conv/dataset") as data:
        assert data["top_path"].shape == (len(CHANNELS), 4)


def test_pictures_lie_at_their_channels(atlas: Path) -> None:
    told = 10 * np.asarray(CHANNELS)[:, None] + np.arange(SHOWN)
    with h5py.File(atlas) as file:
        group = file["toy/conv/dataset"]
        assert np.array_equal(opened(group["top_jpeg"][:])[..., 3, 4, 1], told)
        assert np.array_equal(opened(group["bottom_jpeg"][:])[..., 3, 4, 1], told + 90)
        assert np.array_equal(group["top_saliency"][..., 3, 4], told[:, :1] + 1)
        assert np.array_equal(group["top_activation"][..., 1, 1], told)
        assert np.array_equal(group["top_activation_bounds"][..., 0], told)


def test_examples_of_earlier_versions_have_no_activation_maps(folder: OutputFolder) -> None:
    """Beside newer ones their channels have bounds that are no numbers."""
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan)
    fill(folder, plan)
    (model,) = plan.models
    (statistics,) = all_statistics(model, plan.dataset_plan)
    (first, *_) = tasks = list(examples_of_layer(statistics, model.layers[0], plan.shard_size))
    assert len(tasks) > 1
    old = examples(statistics, first.targets)
    write_arrays(folder, first.products[0], {n: a for n, a in old.items() if "activation" not in n})
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        bounds = file["toy/conv/dataset/top_activation_bounds"]
        known = np.isin(file["toy/conv/channel"][:], first.targets)
        assert np.isnan(bounds[:]).all(axis=(1, 2)).tolist() == known.tolist()


def test_kinds_of_which_none_is_kept_are_left_out(folder: OutputFolder) -> None:
    plan = make_photographed(folder, "conv", bottom=0, examples=0)
    fill_store(folder, plan)
    fill(folder, plan)
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        assert not [n for n in file["toy/conv/dataset"] if "bottom" in n or "jpeg" in n]
    with xarray.open_dataset(folder.atlas, engine="h5netcdf", group="toy/conv/dataset") as data:
        assert "top_score" in data


# --- evidence ------------------------------------------------------------------------------------


def test_evidence_is_that_of_every_seed(folder: OutputFolder) -> None:
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan)
    fill(folder, plan)
    (view,) = collated(folder, plan)
    assert view.statistics is not None
    found = read_evidence(folder, view.statistics).stats
    reference = make_reference(found.rows)
    with h5py.File(folder.atlas) as file:
        layer = file["toy/conv"]
        for seed in range(2):
            response, channels = layer["response"][:, seed], view.targets
            agrees, rank = agreement(reference, response, channels)
            assert np.array_equal(layer["agreement"][:, seed], agrees.astype(np.float32))
            assert np.array_equal(layer["agreement_rank"][:, seed], rank)
            told = percentile(found, layer["activation"][:, seed], channels)
            assert np.array_equal(layer["percentile"][:, seed], told)
        best = np.argmax(layer["agreement"][:], axis=1)
        assert np.array_equal(layer["best_seed_index"][:], best)
        assert np.array_equal(layer["best_seed"][:], np.asarray(SEEDS)[best])


def test_images_that_are_missing_have_no_evidence(folder: OutputFolder) -> None:
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan, {2: "missing"})  # and channel 0 of the same shard
    fill(folder, plan)
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        layer = file["toy/conv"]
        for each in ("agreement", "percentile", "selectivity"):
            assert np.isnan(layer[each][:2]).all()
            assert np.isfinite(layer[each][2:]).all()
        assert layer["best_seed_index"][:].tolist()[:2] == layer["best_seed"][:].tolist()[:2]
        assert layer["best_seed"][0] == -1
        assert layer["agreement_rank"][0].tolist() == [0, 0]


def test_dead_are_channels_that_no_photograph_moves_and_silent_the_others(
    folder: OutputFolder,
) -> None:
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan, dict.fromkeys(CHANNELS, "dead"))
    fill(folder, plan)
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        status = file["toy/conv/status"][:, 0].tolist()
        assert status == [STATUS[s] for s in ("silent", "silent", "dead", "dead")]
        assert file["toy/conv/best_seed"][:].tolist() == [-1] * 4


def test_without_a_finished_study_the_dead_are_dead_and_nothing_else_is_told(
    folder: OutputFolder,
) -> None:
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan, {0: "dead"})
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        layer = file["toy/conv"]
        assert layer["status"][0, 0] == STATUS["dead"]
        assert "dataset" not in layer
        assert "agreement" not in layer
        assert "selectivity" in layer


def test_a_corrupt_study_is_reported_and_its_atlas_is_not_current(folder: OutputFolder) -> None:
    plan = make_photographed(folder, "conv")
    fill_store(folder, plan)
    fill(folder, plan)
    (view,) = layer_views(folder, plan)
    assert view.statistics is not None
    path = folder.product(view.statistics.product)
    path.write_bytes(path.read_bytes()[:-1])
    (view,) = collated(folder, plan)
    assert view.corrupt == [path]
    with h5py.File(folder.atlas) as file:
        assert file.attrs["content"] == ""
        assert "dataset" not in file["toy/conv"]

"""The atlas: schema "layer-atlas/1" to the letter, and nothing but what the store holds."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from toys import IDENTITY, fill_store, layer_info, make_plan, make_recipe

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.config.objectives import InterpolationObjective, LogitObjective
from layer_atlas.config.recipe import trace_steps
from layer_atlas.config.records import plain
from layer_atlas.errors import StorageError
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.store.folder import OutputFolder

LAYER = "layer3.0.conv1"
CHANNELS = (0, 1, 3, 4, 6, 7, 9, 10, 11)
SEEDS = (0, 5)
FATES = {3: "dead", 6: "diverged", 7: "failed", 10: "missing"}
PLAN = make_plan(
    layer_info(LAYER, 12),
    layer_info("fc", 12, module_type="Linear", shape=(12,)),
    channels=CHANNELS,
    seeds=SEEDS,
    shard_size=2,
)
C, S, T, K, SIZE = len(CHANNELS), len(SEEDS), len(trace_steps(12)), 12, 16


def collated(folder: OutputFolder, plan: Plan = PLAN) -> list[LayerView]:
    views = list(layer_views(folder, plan))
    attributes = {"config": "name: toy\n", "versions": '{"torch": "2"}'}
    write_atlas(folder, views, attributes, content="digest")
    return views


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = OutputFolder(tmp_path_factory.mktemp("atlas"))
    fill_store(folder, PLAN, FATES)
    collated(folder)
    return folder.atlas


SCHEMA = {
    "channel": ((C,), "int64", ["channel"]),
    "seed": ((S,), "int64", ["seed"]),
    "image": ((C, S, SIZE, SIZE, 3), "uint8", ["channel", "seed", "y", "x", "rgb"]),
    "status": ((C, S), "uint8", ["channel", "seed"]),
    "activation": ((C, S), "float32", ["channel", "seed"]),
    "activation_robust": ((C, S), "float32", ["channel", "seed"]),
    "activation_max": ((C, S), "float32", ["channel", "seed"]),
    "high_frequency": ((C, S), "float32", ["channel", "seed"]),
    "clipped": ((C, S), "float32", ["channel", "seed"]),
    "trace": ((C, S, T), "float32", ["channel", "seed", "trace_step"]),
    "trace_step": ((T,), "int64", ["trace_step"]),
    "response": ((C, S, K), "float32", ["channel", "seed", "response_channel"]),
    "made_with": ((C, S), "uint32", ["channel", "seed"]),
}


@pytest.mark.parametrize("name", SCHEMA)
def test_dataset_is_as_the_schema_says(name: str, atlas: Path) -> None:
    shape, dtype, axes = SCHEMA[name]
    with h5py.File(atlas) as file:
        group = file["toy"][LAYER]
        dataset = group[name]
        assert (dataset.shape, dataset.dtype) == (shape, dtype)
        if axes == [name]:
            assert h5py.h5ds.is_scale(dataset.id)
            return
        for axis, scale in enumerate(axes):
            assert h5py.h5ds.is_scale(group[scale].id)
            assert [dim.name for dim in dataset.dims[axis].values()] == [group[scale].name]


def test_root_model_and_layer_carry_their_attributes(atlas: Path) -> None:
    with h5py.File(atlas) as file:
        assert file.attrs["schema"] == "layer-atlas/1"
        assert file.attrs["created"][:2] == "20"
        assert file.attrs["config"] == "name: toy\n"
        assert json.loads(file.attrs["versions"]) == {"torch": "2"}
        model = dict(file["toy"].attrs)
        assert model["source"] == "toy"
        assert model["weights_sha256"] == IDENTITY.weights_sha256
        assert model["mean"].tolist() == [0.5, 0.5, 0.5]
        assert model["std"].tolist() == [0.25, 0.25, 0.25]
        assert model["input_size"] == 64
        assert set(file["toy"]) == {LAYER, "fc"}
        layer = dict(file["toy"][LAYER].attrs)
        assert (layer["module_type"], layer["n_channels"]) == ("Conv2d", 12)
        assert layer["activation_shape"].tolist() == [12, 4, 4]
        assert json.loads(layer["recipe"]) == plain(make_recipe())
        assert file["toy"]["fc"].attrs["activation_shape"].tolist() == [12]


def test_status_says_what_became_of_each_job(atlas: Path) -> None:
    with h5py.File(atlas) as file:
        status = file["toy"][LAYER]["status"]
        assert h5py.check_enum_dtype(status.dtype) == STATUS
        words = {code: word for word, code in STATUS.items()}
        told = [[words[code] for code in row] for row in status[()]]
    # Channels 6 and 7 are one shard, as are 9 and 10: they fail and are missing together.
    expected = ["ok", "ok", "dead", "ok", "failed", "failed", "missing", "missing", "ok"]
    assert told == [[word, word] for word in expected]


def test_every_made_job_is_in_its_place_and_no_other(atlas: Path) -> None:
    told = np.asarray([[10 * c + s for s in SEEDS] for c in CHANNELS], np.float32)
    made = np.asarray([c not in (6, 7, 9, 10) for c in CHANNELS])
    with h5py.File(atlas) as file:
        for layer in (LAYER, "fc"):
            group = file["toy"][layer]
            assert group["channel"][()].tolist() == list(CHANNELS)
            assert group["seed"][()].tolist() == list(SEEDS)
            assert group["trace_step"][()].tolist() == trace_steps(12)
            image = group["image"][()]
            assert np.array_equal(image[made][..., 0, 0, 0], told[made].astype(np.uint8))
            assert (image == image[:, :, :1, :1, :1]).all()
            assert (image[~made] == 0).all()
            columns = np.arange(K, dtype=np.float32) / 100
            expected = {
                "activation": told,
                "activation_robust": told - 0.5,
                "activation_max": told + 0.5,
                "high_frequency": told / 1000,
                "clipped": told / 2000,
                "trace": told[..., None] + np.arange(T, dtype=np.float32),
                "response": told[..., None] + columns,
            }
            for name, values in expected.items():
                assert np.array_equal(group[name][()][made], values[made]), name
                assert np.isnan(group[name][()][~made]).all(), name


def test_diverged_job_keeps_its_image_and_its_status(folder: OutputFolder) -> None:
    plan = make_plan()
    fill_store(folder, plan, {2: "diverged"})
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        group = file["toy"]["block.conv"]
        assert group["status"][2, 0] == STATUS["diverged"]
        assert (group["image"][2, 0] == 20).all()


def test_one_image_is_one_chunk_with_a_checksum(atlas: Path) -> None:
    with h5py.File(atlas) as file:
        image = file["toy"][LAYER]["image"]
        assert image.chunks == (1, 1, SIZE, SIZE, 3)
        assert (image.fletcher32, image.compression) == (True, None)
        # What is missing takes no room.
        made = int((file["toy"][LAYER]["status"][()] < STATUS["failed"]).sum())
        assert image.id.get_storage_size() == made * (SIZE * SIZE * 3 + 4)
        assert made < C * S


def test_xarray_gives_labelled_arrays(atlas: Path) -> None:
    with xarray.open_dataset(atlas, engine="h5netcdf", group=f"toy/{LAYER}") as data:
        assert dict(data.sizes) == {
            "channel": C,
            "seed": S,
            "y": SIZE,
            "x": SIZE,
            "rgb": 3,
            "trace_step": T,
            "response_channel": K,
            "environment": 1,
        }
        assert data["image"].dims == ("channel", "seed", "y", "x", "rgb")
        assert float(data["activation"].sel(channel=11, seed=5)) == 115.0
        assert float(data["trace"].sel(channel=4, seed=0, trace_step=11)) == 40.0 + T - 1
        assert float(data["response"].sel(channel=4, seed=5, response_channel=7)) == (
            pytest.approx(45.07)
        )
        assert np.isnan(float(data["activation"].sel(channel=10, seed=0)))
        assert int(data["status"].sel(channel=3, seed=0)) == STATUS["dead"]
        assert data["activation"].attrs["description"]


def test_corrupt_shard_is_set_aside_reported_and_missing(folder: OutputFolder) -> None:
    plan = make_plan(shard_size=2)
    paths = fill_store(folder, plan)
    damaged = bytearray(paths[1].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    paths[1].write_bytes(damaged)
    (view,) = collated(folder, plan)
    assert view.corrupt == [paths[1]]
    assert not paths[1].exists()
    assert [path.read_bytes() for path in paths[1].parent.glob("*.corrupt-*")] == [damaged]
    with h5py.File(folder.atlas) as file:
        status = file["toy"]["block.conv"]["status"][:, 0]
    assert status.tolist() == [STATUS["ok"]] * 2 + [STATUS["missing"]] * 2 + [STATUS["ok"]] * 2


def test_jobs_come_from_shards_of_any_cut(folder: OutputFolder) -> None:
    fill_store(folder, make_plan(channels=(1, 2, 5), shard_size=2))
    plan = make_plan(channels=(0, 1, 4, 5), shard_size=3)
    collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        group = file["toy"]["block.conv"]
        assert group["status"][:, 0].tolist() == [4, 0, 4, 0]
        assert group["activation"][()][[1, 3], 0].tolist() == [10.0, 50.0]


def test_atlas_without_a_single_job_is_all_missing(folder: OutputFolder) -> None:
    folder.root.mkdir()
    collated(folder)
    with h5py.File(folder.atlas) as file:
        assert (file["toy"][LAYER]["status"][()] == STATUS["missing"]).all()


def test_models_lie_side_by_side_whatever_they_are_called(folder: OutputFolder) -> None:
    labels = ("net", "timm/net", "timm_net", "..", ".")
    (model,) = make_plan(channels=(0,)).models
    plan = replace(make_plan(), models=tuple(replace(model, label=label) for label in labels))
    fill_store(folder, plan)
    views = collated(folder, plan)
    with h5py.File(folder.atlas) as file:
        groups = [name for name, item in file.items() if isinstance(item, h5py.Group)]
        assert len(groups) == len(labels)
        assert all(
            group["block.conv/status"][0, 0] == STATUS["ok"] for group in map(file.get, groups)
        )
        assert {view.group for view in views} == {f"{name}/block.conv" for name in groups}
        assert "net/block.conv" in file


def test_new_atlas_replaces_the_old_and_leaves_nothing_beside_it(folder: OutputFolder) -> None:
    plan = make_plan()
    fill_store(folder, plan)
    collated(folder, plan)
    collated(folder, plan)
    assert {path.name for path in folder.root.iterdir()} == {"atlas.h5", "store"}


def test_atlas_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        collated(OutputFolder(tmp_path / "file"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


WHOLE = replace(
    make_recipe(image_size=(16, 24)), objective=InterpolationObjective(images=3), snapshots=5
)
ALL_AXES = make_plan(
    layer_info("a", 6), seeds=(0, 1), channels=(8, 20), recipe=WHOLE, targets=TargetSpace((6, 6)),
    colours=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def all_axes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = OutputFolder(tmp_path_factory.mktemp("axes"))
    fill_store(folder, ALL_AXES)
    collated(folder, ALL_AXES)
    return folder.atlas


def test_every_further_axis_is_a_labelled_one(all_axes: Path) -> None:
    with xarray.open_dataset(all_axes, engine="h5netcdf", group="toy/a") as data:
        per_image = ("channel", "seed", "variant")
        picture = ("y", "x", "band")
        assert data["image"].dims == (*per_image, *picture)
        assert data["image"].shape == (2, 2, 3, 16, 24, 5)
        assert data["snapshot"].dims == (*per_image, "step", *picture)
        assert data["part_activation"].dims == (*per_image, "part")
        assert data["response"].dims == (*per_image, "response_channel")
        assert data["status"].dims == data["start"].dims == ("channel", "seed")
        assert data["step"].values.tolist() == [0, 5, 10, 12]
        assert all(data[name].dims for name in data.data_vars)
        assert not [axis for axis in data.sizes if axis not in data.coords]


def test_variants_steps_and_parts_are_found_by_what_they_are_called(all_axes: Path) -> None:
    with xarray.open_dataset(all_axes, engine="h5netcdf", group="toy/a") as data:
        halfway = data.sel(variant="0.5", channel=20, seed=1)
        assert float(halfway["activation"]) == 10 * 20 + 1 + 3
        assert halfway["snapshot"].sel(step=10)[0, 0, 4] == (10 * 20 + 1 + 3 + 40) % 256
        assert data["part_channel"].sel(channel=20).values.tolist() == [3, 2]
        assert data["part_layer"].values.tolist() == ["toy/a", "toy/a"]
        assert {"part_channel", "part_layer"} <= set(data.coords)
        assert float(halfway["part_activation"].sel(part=1)) == 10 * 20 + 1 + 3 + 7


def test_classes_are_found_by_their_names(folder: OutputFolder) -> None:
    names = ("owl", "Zürich", "cab", "tench", "a", "b")
    recipe = replace(make_recipe(), objective=LogitObjective())
    plan = make_plan(channels=(1, 3), recipe=recipe, targets=TargetSpace((6,), names))
    fill_store(folder, plan)
    collated(folder, plan)
    with xarray.open_dataset(folder.atlas, engine="h5netcdf", group="toy/block.conv") as data:
        assert data["channel_name"].values.tolist() == ["Zürich", "tench"]
        named = data.set_xindex("channel_name")
        assert float(named["activation"].sel(channel_name="tench").squeeze()) == 30.0


def test_every_picture_is_a_chunk_whatever_its_axes(all_axes: Path) -> None:
    with h5py.File(all_axes) as file:
        assert file["toy/a/snapshot"].chunks == (1, 1, 1, 1, 16, 24, 5)
        assert file["toy/a/image"].chunks == (1, 1, 1, 16, 24, 5)

"""Photographs from end to end: a folder as people have them, a sweep, and what the atlas says."""

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from bombs import lying_webp, png
from numpy.typing import NDArray
from PIL import Image
from runs import (
    TINY,
    assert_same_atlas,
    atlas,
    kill_group,
    opened,
    run_here,
    shards,
    start,
    wait_for_shards,
)

from layer_atlas import open_atlas
from layer_atlas.atlas.frames import column_name
from layer_atlas.cli import commands as commands
from layer_atlas.config.config import ModelConfig
from layer_atlas.datasets.evidence import agreement, make_reference
from layer_atlas.datasets.sources import FolderImages, read_view
from layer_atlas.errors import UserError
from layer_atlas.models.load import load_network

LAYERS = ("conv1", "conv2")
SHEETS = "montage=evidence"
ODD_NAMES = ("with space.png", 'it\'s "quoted".png', "two\nlines.png", "\udcff.png", "é.png")
BROKEN = ("text.jpg", "truncated.png", "empty.webp", "nowhere.png", "bomb.png", "lying.webp")


def picture(path: Path, seed: int, side: int = 40) -> None:
    """Coloured squares, of another size, shape and kind of file every time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    shape = (2 + seed % 5, 3 + seed % 4, 3)
    squares = Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8))
    mode = ("RGB", "RGB", "L", "RGB", "P")[seed % 5]
    squares.resize((side + seed % 7, side + seed % 11), Image.Resampling.BICUBIC).convert(
        mode if path.suffix == ".png" else "RGB"
    ).save(path)


def make_photographs(folder: Path) -> Path:
    """150 pictures in nested folders, some with odd names, and six files that are none."""
    for i in range(145):
        picture(folder / f"{i % 4}" / f"{i % 3}" / f"{i:03}.{('png', 'jpg', 'webp')[i % 3]}", i)
    for i, name in enumerate(ODD_NAMES, 200):
        picture(folder / "x.png", i)
        (folder / "x.png").rename(folder / name)
    (folder / "text.jpg").write_text("no picture")
    picture(folder / "truncated.png", 300)
    os.truncate(folder / "truncated.png", 60)
    (folder / "empty.webp").touch()
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "bomb.png").write_bytes(png(50_000, 50_000))
    (folder / "lying.webp").write_bytes(lying_webp(16_384, 16_384))
    return folder


@pytest.fixture(scope="module")
def dataset_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photographs(tmp_path_factory.mktemp("photographs"))


def shown(dataset_images: Path) -> tuple[str, ...]:
    """Overrides that show photographs."""
    folder = ("dataset=folder", f"dataset.path={dataset_images}")
    return (*TINY, *folder, "saliency=vanilla")


@pytest.fixture(scope="module")
def undisturbed(dataset_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a sweep by two worker processes, which nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    code, said = atlas("run", root, *shown(dataset_images), SHEETS)
    assert code == 0, said
    assert "Traceback" not in said
    return root / "demo"


@pytest.fixture
def copy(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be damaged."""
    return Path(shutil.copytree(undisturbed, tmp_path / "demo"))


def files(folder: Path, shelf: str, layer: str = "*") -> list[Path]:
    return sorted(folder.glob(f"store/demo/{layer}/{shelf}/*.safetensors"))


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# --- the numbers ---------------------------------------------------------------------------------


class BlockActivations:
    """What a layer of the demo network answers, computed again from the files, plainly."""

    def __init__(self, dataset_images: Path, layer: str) -> None:
        dataset = FolderImages(dataset_images)
        self.entries = list(dataset.entries())
        views = [read_view(dataset, i, entry, 32) for i, entry in enumerate(self.entries)]
        self.index = np.asarray([i for i, view in enumerate(views) if view.pixels is not None])
        self.sizes = {i: (views[i].width, views[i].height) for i in self.index.tolist()}
        network = load_network(ModelConfig("demo")).module
        maps: list[torch.Tensor] = []
        dict(network.named_modules())[layer].register_forward_hook(
            lambda module, inputs, output: maps.append(output)
        )
        pixels = np.stack([views[i].pixels for i in self.index])
        inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255.0 - 0.5) / 0.25
        with torch.no_grad():
            network(inputs)
        self.maps = maps[0].numpy()
        self.mean = self.maps.mean(axis=(2, 3))

    def of(self, channel: int, photograph: int) -> NDArray[Any]:
        """The map of a channel on a photograph."""
        return self.maps[np.flatnonzero(self.index == photograph)[0], channel]


@pytest.fixture(scope="module", params=LAYERS)
def both(
    request: pytest.FixtureRequest, undisturbed: Path, dataset_images: Path
) -> tuple[BlockActivations, h5py.Group]:
    """A layer computed again, and the atlas's."""
    return BlockActivations(dataset_images, request.param), h5py.File(undisturbed / "atlas.h5")[
        f"demo/{request.param}"
    ]


@pytest.mark.slow
def test_statistics_are_those_of_the_photographs(both: tuple[BlockActivations, h5py.Group]) -> None:
    seen, layer = both
    dataset = layer["dataset"]
    known = {
        "mean": seen.mean.mean(axis=0),
        "std": seen.mean.std(axis=0, ddof=1),
        "min": seen.mean.min(axis=0),
        "max": seen.mean.max(axis=0),
        "responding": (seen.maps.max(axis=(2, 3)) > 0).mean(axis=0),
        "quantile": np.quantile(seen.mean, dataset["level"][:], axis=0).T,
    }
    for name, values in known.items():
        np.testing.assert_allclose(dataset[name][:], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("name", "sign"), [("top", -1), ("bottom", 1)])
def test_the_strongest_and_weakest_are_told(
    both: tuple[BlockActivations, h5py.Group], name: str, sign: int
) -> None:
    seen, layer = both
    dataset = layer["dataset"]
    index, score = dataset[f"{name}_index"][:], dataset[f"{name}_score"][:]
    ordered = np.sort(sign * seen.mean, axis=0)[:9].T * sign
    np.testing.assert_allclose(score, ordered, rtol=1e-4, atol=1e-5)
    for k, n in np.ndindex(index.shape):
        answers, entry = seen.of(k, index[k, n]), seen.entries[index[k, n]]
        assert score[k, n] == pytest.approx(answers.mean(), rel=1e-4, abs=1e-5)
        path = dataset[f"{name}_path"].asstr()[k, n]
        assert path == entry.path.encode(errors="replace").decode()
        row, column = dataset[f"{name}_position"][k, n]
        assert answers[row, column] == pytest.approx(answers.max(), rel=1e-4, abs=1e-6)


def test_boxes_are_what_a_convolution_of_seven_pixels_and_stride_two_sees(
    undisturbed: Path, dataset_images: Path
) -> None:
    sizes = BlockActivations(dataset_images, "conv1").sizes
    with h5py.File(undisturbed / "atlas.h5") as file:
        dataset = file["demo/conv1/dataset"]
        row, column = np.moveaxis(dataset["top_position"][:], -1, 0)
        corners = (2 * column - 3, 2 * row - 3, 2 * column + 4, 2 * row + 4)
        expected = np.stack(corners, axis=-1).clip(0, 32)
        assert np.array_equal(dataset["top_view_box"][:], expected)
        for index, box in zip(
            dataset["top_index"][:].ravel(), dataset["top_box"][:].reshape(-1, 4), strict=True
        ):
            width, height = sizes[index]
            assert 0 <= box[0] < box[2] <= width
            assert 0 <= box[1] < box[3] <= height


def test_agreement_rank_and_percentile_are_those_of_the_photographs(
    both: tuple[BlockActivations, h5py.Group],
) -> None:
    seen, layer = both
    channels = layer["channel"][:]
    agrees, rank = agreement(make_reference(seen.mean), layer["response"][:, 0], channels)
    np.testing.assert_allclose(layer["agreement"][:, 0], agrees, atol=2e-3)
    assert (np.abs(layer["agreement_rank"][:, 0] - rank) <= 1).all()
    activation = layer["activation"][:, 0]
    below = (seen.mean < activation).mean(axis=0) + (seen.mean == activation).mean(axis=0) / 2
    live = layer["status"][:, 0] == 0
    np.testing.assert_allclose(layer["percentile"][live, 0], 100 * below[live], atol=0.8)
    assert layer["best_seed"][live].tolist() == [0] * live.sum()


def test_what_cannot_be_read_is_counted_and_named(undisturbed: Path) -> None:
    with h5py.File(undisturbed / "atlas.h5") as file:
        attributes = file["demo/conv2/dataset"].attrs
        assert attributes["photographs"] == 150
        assert attributes["unreadable"] == len(BROKEN)
        assert set(attributes["unreadable_paths"]) == set(BROKEN)


def test_pictures_are_views_of_the_strongest_with_maps_and_sheets(
    undisturbed: Path, dataset_images: Path
) -> None:
    dataset = FolderImages(dataset_images)
    entries = list(dataset.entries())
    with h5py.File(undisturbed / "atlas.h5") as file:
        group = file["demo/conv2/dataset"]
        assert group["top_saliency"].shape == (40, 4, 32, 32)
        assert group["top_saliency"][:].any(axis=(2, 3)).mean() > 0.9
        levels, bounds = group["top_activation"][:], group["top_activation_bounds"][:]
        row, column = np.moveaxis(group["top_position"][:, :4], -1, 0)
        k, n = np.indices(row.shape)
        assert (levels[k, n, row, column] == 255)[bounds[..., 1] > bounds[..., 0]].all()
        values = levels / 255 * np.diff(bounds)[..., None] + bounds[..., :1, None]
        means = values.mean(axis=(2, 3))
        assert means == pytest.approx(group["top_score"][:, :4], rel=0.02, abs=0.01)
        for name in ("top", "bottom"):
            for k, n in np.ndindex(40, 4):
                index = int(group[f"{name}_index"][k, n])
                view = read_view(dataset, index, entries[index], 32)
                apart = opened(group[f"{name}_jpeg"][k : k + 1, n])[0] - view.pixels.astype(float)
                assert np.abs(apart).mean() < 8  # of 255; a JPEG is not exact
    for layer in LAYERS:
        assert (undisturbed / "montages/demo" / f"{layer}.evidence-001.png").exists()


# --- the same bits -------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_worker_finds_what_two_find(
    undisturbed: Path, dataset_images: Path, tmp_path: Path
) -> None:
    assert run_here(tmp_path, *shown(dataset_images)) == 0
    assert_same_atlas(undisturbed / "atlas.h5", tmp_path / "demo" / "atlas.h5")


@pytest.mark.slow
def test_a_sweep_killed_while_photographs_are_shown_ends_in_the_same_atlas(
    undisturbed: Path, dataset_images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    for committed in (1, 6):
        before = shards(folder)
        process = start("run", tmp_path, *shown(dataset_images))
        wait_for_shards(folder, max(committed, len(before) + 1))
        kill_group(process)
        assert before.items() <= shards(folder).items(), "a committed file was lost or rewritten"
    assert not files(folder, "examples"), "the study was not what was killed"
    before = shards(folder)
    assert run_here(tmp_path, *shown(dataset_images)) == 0
    assert before.items() <= shards(folder).items(), "a committed file was made again"
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")
    assert not list(folder.rglob("*.tmp"))


def test_a_file_that_is_there_is_not_written_again_with_one_that_is_not(
    copy: Path, dataset_images: Path
) -> None:
    (field,) = (copy / "store/demo/conv2/fields").iterdir()
    field.unlink()
    before = shards(copy)
    assert run_here(copy.parent, *shown(dataset_images), SHEETS) == 0
    after = shards(copy)
    assert before.items() <= after.items(), "a committed file was made again"
    assert after.keys() - before.keys() == {str(field.relative_to(copy))}


def test_a_finished_sweep_computes_nothing(copy: Path, dataset_images: Path) -> None:
    before, atlas_file = shards(copy), (copy / "atlas.h5").stat().st_mtime_ns
    assert run_here(copy.parent, *shown(dataset_images), SHEETS) == 0
    assert shards(copy) == before
    assert (copy / "atlas.h5").stat().st_mtime_ns == atlas_file


@pytest.mark.slow
def test_a_further_layer_is_studied_alone(
    undisturbed: Path, dataset_images: Path, tmp_path: Path
) -> None:
    assert run_here(tmp_path, *shown(dataset_images), "layers=[conv1]") == 0
    before = shards(tmp_path / "demo")
    assert run_here(tmp_path, *shown(dataset_images)) == 0
    assert before.items() <= shards(tmp_path / "demo").items()
    assert_same_atlas(undisturbed / "atlas.h5", tmp_path / "demo" / "atlas.h5")


@pytest.mark.slow
def test_what_is_corrupt_is_set_aside_told_and_made_again_in_one_run(
    undisturbed: Path, copy: Path, dataset_images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files(copy, "study", "conv2")[0].unlink()  # to be merged again
    damaged = [
        files(copy, "photographs", "conv2")[1],
        files(copy, "fields", "conv2")[0],
        files(copy, "study", "conv1")[0],  # which only collation has still to read
        files(copy, "examples", "conv2")[0],
    ]
    for path in damaged:
        damage(path)
    (copy / "atlas.h5").unlink()
    assert run_here(copy.parent, *shown(dataset_images)) == 0
    for path in damaged:
        assert f"corrupt file set aside, to be computed again: {path}" in caplog.text
        assert list(path.parent.glob(f"{path.name}.corrupt-*"))
    assert_same_atlas(undisturbed / "atlas.h5", copy / "atlas.h5")


@pytest.mark.slow
def test_a_corrupt_study_that_collation_meets_is_in_the_atlas_of_the_same_run(
    undisturbed: Path, copy: Path, dataset_images: Path
) -> None:
    damage(files(copy, "study", "conv1")[0])
    (copy / "atlas.h5").unlink()
    assert run_here(copy.parent, *shown(dataset_images)) == 0
    assert_same_atlas(undisturbed / "atlas.h5", copy / "atlas.h5")


@pytest.mark.slow
def test_a_study_of_which_no_block_can_be_read_is_made_again(
    undisturbed: Path, copy: Path, dataset_images: Path
) -> None:
    files(copy, "study", "conv2")[0].unlink()
    for path in files(copy, "photographs", "conv2"):
        damage(path)
    (copy / "atlas.h5").unlink()
    assert run_here(copy.parent, *shown(dataset_images)) == 0
    assert_same_atlas(undisturbed / "atlas.h5", copy / "atlas.h5")


@pytest.mark.slow
def test_a_corrupt_study_that_examples_need_is_repaired(
    undisturbed: Path, copy: Path, dataset_images: Path
) -> None:
    damage(files(copy, "study", "conv2")[0])
    for path in files(copy, "examples", "conv2"):
        path.unlink()
    assert run_here(copy.parent, *shown(dataset_images)) == 0
    assert not list(copy.glob("failures/*")), "its examples are charged for it"
    assert_same_atlas(undisturbed / "atlas.h5", copy / "atlas.h5")


@pytest.mark.slow
def test_a_damaged_list_of_photographs_is_written_again(
    undisturbed: Path, copy: Path, dataset_images: Path
) -> None:
    (listing,) = (copy / "photographs").iterdir()
    listing.write_bytes(b"".join(listing.read_bytes().splitlines(True)[:-10]))
    shutil.rmtree(copy / "store/demo/conv2")
    (copy / "atlas.h5").unlink()
    assert run_here(copy.parent, *shown(dataset_images)) == 0
    assert_same_atlas(undisturbed / "atlas.h5", copy / "atlas.h5")


@pytest.mark.slow
def test_another_photograph_makes_another_study(
    copy: Path, dataset_images: Path, tmp_path: Path
) -> None:
    more = Path(shutil.copytree(dataset_images, tmp_path / "more", symlinks=True))
    picture(more / "z.png", 999)
    before = shards(copy)
    assert run_here(copy.parent, *shown(more)) == 0
    after = shards(copy)
    assert before.items() <= after.items()
    new = [name for name in after.keys() - before.keys() if "/photographs/" in name]
    assert len(new) == 2, "blocks without the new photograph are those that were there"
    with h5py.File(copy / "atlas.h5") as file:
        assert file["demo/conv1/dataset"].attrs["photographs"] == 151
        first = file["demo/conv1/dataset/top_path"].asstr()[:].ravel().tolist()
    assert run_here(copy.parent, *shown(dataset_images)) == 0
    with h5py.File(copy / "atlas.h5") as file:
        assert file["demo/conv1/dataset"].attrs["photographs"] == 150
        again = file["demo/conv1/dataset/top_path"].asstr()[:].ravel().tolist()
    assert "z.png" in first
    assert "z.png" not in again
    assert set(shards(copy)) == set(after)


# --- other sweeps --------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_start_from_the_photograph_that_the_channel_answers_to_most(
    dataset_images: Path, tmp_path: Path
) -> None:
    overrides = (*shown(dataset_images), "init=dataset", "layers=[conv1]", "saliency=none")
    still = ("parameterization=pixel", "transforms=none", "optimizer.learning_rate=1e-6")
    assert run_here(tmp_path, *overrides, *still) == 0
    with h5py.File(tmp_path / "demo" / "atlas.h5") as file:
        layer = file["demo/conv1"]
        made = layer["image"][:, 0].astype(float)
        apart = np.abs(made - opened(layer["dataset/top_jpeg"][:, 0])).mean(axis=(1, 2, 3))
        assert np.median(apart) < 12, "the images are not the photographs that they start from"


@pytest.mark.slow
def test_a_dataset_of_torchvision(tmp_path: Path) -> None:
    fake = ("dataset=torchvision", "dataset.dataset=FakeData", "layers=[conv1]")
    args = "dataset.args={{size: 100, image_size: [3,{0},{0}]}}"
    for side in (48, 40):
        assert run_here(tmp_path, *TINY, *fake, args.format(side)) == 0
        with h5py.File(tmp_path / "demo" / "atlas.h5") as file:
            dataset = file["demo/conv1/dataset"]
            assert dataset.attrs["photographs"] == 100
            assert f"[3, {side}, {side}]" in dataset["top_path"].asstr()[0, 0]
            assert (dataset["top_box"][..., 2:] <= side).all()
            assert dataset["top_box"][..., 2:].max() == side
    assert len(files(tmp_path / "demo", "study")) == 2


@pytest.mark.slow
def test_three_photographs_are_too_few_to_agree_with(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / "few" / f"{i}.png", i)
    assert run_here(tmp_path, *shown(tmp_path / "few"), SHEETS, "layers=[conv1]") == 0
    folder = tmp_path / "demo"
    with h5py.File(folder / "atlas.h5") as file:
        layer = file["demo/conv1"]
        assert "agreement" not in layer
        assert layer["dataset/top_jpeg"].shape[1] == 3
        assert layer["dataset/top_saliency"].shape[1] == 3
        assert (layer["dataset/top_index"][:, 3:] == -1).all()
        mean = layer["dataset/mean"][...]
        assert set(layer["dataset/top_path"].asstr()[:, 3:].ravel()) == {""}
    assert (folder / "montages/demo/conv1.evidence-001.png").exists()
    layer = open_atlas(folder)["conv1"]
    with layer.to_xarray() as data:
        assert {column_name(name) for name in layer.statistics} <= set(data.variables)
        assert "dataset_mean" in data
        data.to_netcdf(tmp_path / "layer.nc", engine="h5netcdf")
    assert layer.to_frame()["dataset_mean"].tolist() == mean.tolist()


def test_a_folder_in_which_nothing_can_be_read_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    for name in ("a.jpg", "b.png"):
        (tmp_path / "broken" / name).write_text("no picture")
    with pytest.raises(UserError, match=r"none of the photographs.*broken.*of 'a.jpg', .*JPEG"):
        run_here(tmp_path, *shown(tmp_path / "broken"))
    assert not (tmp_path / "demo").exists()


# --- commands ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_on_a_sweep_with_photographs(
    undisturbed: Path, copy: Path, dataset_images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = f"output_root={copy.parent}"
    before = shards(copy)
    for command, told in (
        ("status", "64 of 64 images done"),
        ("plan", "64, of which 0 are missing"),
        ("verify", "0 problems"),
    ):
        assert commands.main([command, where, *shown(dataset_images)]) == 0
        assert told in capfd.readouterr().out
    assert shards(copy) == before


@pytest.mark.slow
def test_collation_needs_neither_photographs_nor_network(undisturbed: Path, copy: Path) -> None:
    sheet = copy / "montages/demo/conv2.evidence-001.png"
    before = sheet.read_bytes()
    sheet.unlink()
    (copy / "atlas.h5").unlink()
    assert commands.main(["collate", f"output_root={copy.parent}", SHEETS]) == 0
    assert sheet.read_bytes() == before
    assert_same_atlas(undisturbed / "atlas.h5", copy / "atlas.h5")


@pytest.mark.slow
def test_collation_without_the_list_of_photographs_says_what_is_missing(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy / "photographs")
    assert commands.main(["collate", f"output_root={copy.parent}"]) == 2
    said = capfd.readouterr().err
    assert "cannot read the listing" in said
    assert "Traceback" not in said

"""Activation atlases from end to end: samples, maps, images of cells, atlas and pictures."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from runs import (
    assert_same_atlas,
    atlas,
    atlas_here,
    kill_group,
    run_here,
    shards,
    start,
    wait_for_shards,
)
from toys import composed

from layer_atlas import open_atlas
from layer_atlas.config.config import ModelConfig
from layer_atlas.datasets.activation_map import cells_of
from layer_atlas.datasets.sources import FolderImages, read_view
from layer_atlas.errors import UserError
from layer_atlas.models.load import load_network
from layer_atlas.presentation.layout.page import resampled
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import read_manifest
from layer_atlas.sweep.cleaning import KINDS, look_through

SIDE = 32
CLASSES = ("cats", "dogs", "trees")


def settings(photographs: Path, *more: str) -> tuple[str, ...]:
    """Overrides of a sweep of seconds."""
    return (
        *("objective=activation_atlas", "objective.projection=pca", "objective.grid=[2,3]"),
        *("dataset=folder", f"dataset.path={photographs}", "layers=[conv2,conv5]"),
        *("optimizer.steps=2", "optimizer.leaky_steps=1", "optimizer.starts=1"),
        *(f"image_size={SIDE}", "shard_size=4", "executor.devices=[cpu,cpu]", "collate.site=false"),
        *more,
    )


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 pictures of three classes, of which one cannot be read; more than a block of 64."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(70):
        folder = root / CLASSES[i % 3]
        folder.mkdir(exist_ok=True)
        squares = np.random.default_rng(i).integers(0, 256, (2 + i % 4, 3, 3), dtype=np.uint8)
        picture = Image.fromarray(squares).resize((40 + i % 5, 36), Image.Resampling.BICUBIC)
        picture.save(folder / f"{i:02}.png")
    (root / "trees" / "broken.png").write_text("no picture")
    return root


@pytest.fixture(scope="module")
def made(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    code, said = atlas_here("run", root, *settings(photographs))
    assert code == 0, said
    assert "cells of demo/conv5 are not known until the dataset was seen: at most 13 images" in said
    return root / "demo"


def whole_activations(photographs: Path, layer: str) -> tuple[list[str], NDArray[np.float32]]:
    """Paths of the readable pictures, and the activations (n, K, L) of a plain hook."""
    dataset = FolderImages(photographs)
    entries = list(dataset.entries())
    views = [read_view(dataset, i, entry, SIDE).pixels for i, entry in enumerate(entries)]
    net = load_network(ModelConfig(name="demo"))
    pixels = torch.from_numpy(np.stack([view for view in views if view is not None]))
    seen: list[torch.Tensor] = []
    hook = net.module.get_submodule(layer).register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        net.module.eval()(net.normalise(pixels.permute(0, 3, 1, 2).float() / 255))
    hook.remove()
    paths = [e.path for e, view in zip(entries, views, strict=True) if view is not None]
    return paths, seen[0].flatten(2).numpy()


@pytest.mark.parametrize("name", ["conv2", "conv5"])
def test_the_atlas_holds_what_plain_hooks_measure(made: Path, photographs: Path, name: str) -> None:
    layer = open_atlas(made)[name]
    paths, activations = whole_activations(photographs, name)
    assert list(layer.dataset("sample_path").asstr()[()]) == paths
    width = activations.shape[2] ** 0.5
    place = (layer["sample_row"] * width + layer["sample_column"]).astype(int)
    assert len(set(place.tolist())) > min(activations.shape[2], 30) / 3, "places are not random"
    vectors = activations[np.arange(len(paths)), :, place]
    points = np.stack([layer["sample_x"], layer["sample_y"]], axis=1)
    cells = cells_of(points, layer.grids)
    for row, cell in enumerate(layer.channels):
        held = (cells == cell).any(axis=1)
        assert layer["cell_count"][row] == held.sum()
        mean = vectors[held].mean(axis=0)
        assert np.allclose(layer["cell_mean"][row], mean, atol=1e-4)
        assert sorted(layer.members(cell)) == np.flatnonzero(held).tolist()
        closest = layer.members(cell)[: len(layer["cell_member"][row])]
        assert [k for k in layer["cell_member"][row] if k >= 0] == closest
        value = np.sort(mean)[::-1][:8]
        assert np.allclose(layer["cell_channel_value"][row], value, atol=1e-4)
        assert np.allclose(mean[layer["cell_channel"][row]], value, atol=1e-4)
        assert layer.labels[row] == f"{cell} {layer.channel_names[row]}"
    assert set(np.unique(layer["sample_cell"])) - {-1} == set(layer.channels)
    assert layer.cell_classes(layer.channels[0]), "the demo network has classes"


def test_boxes_of_samples_are_all_that_their_activations_depend_on(made: Path) -> None:
    net, seen = load_network(ModelConfig(name="demo")), list[torch.Tensor]()
    layer, boxes = open_atlas(made)["conv2"], open_atlas(made)["conv2"]["sample_view_box"]
    assert layer.facts["view_size"] == SIDE
    height, width = layer.facts["map_size"]
    net.module.eval().get_submodule("conv2").register_forward_hook(lambda m, a, o: seen.append(o))

    def known(sample: int, box: NDArray[np.int32]) -> bool:
        """Whether the activation is a number if only a box of the image has numbers."""
        pixels = torch.full((1, 3, SIDE, SIDE), torch.nan)
        left, top, right, bottom = box.tolist()
        pixels[..., top:bottom, left:right] = 0.5
        net.module(pixels)
        row, column = (int(layer[f"sample_{name}"][sample]) for name in ("row", "column"))
        assert seen[-1].shape[2:] == (height, width)
        return bool(seen[-1][0, :, row, column].isfinite().all())

    for sample in range(0, len(boxes), 9):
        assert known(sample, boxes[sample])
        for smaller in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, -1]):
            assert not known(sample, boxes[sample] + smaller)


def test_cells_have_their_place_in_a_grid(made: Path) -> None:
    layer = open_atlas(made)["conv5"]
    assert layer.grids == [2, 3]
    assert all(t in (-1, i) for i, t in enumerate(layer.cells(2).ravel()))
    assert all(t in (-1, 4 + i) for i, t in enumerate(layer.cells(3).ravel()))
    names = dict(zip(layer.channels, layer.channel_names, strict=True))
    for (row, column), target in np.ndenumerate(layer.cells(3)):
        assert target < 0 or names[int(target)] == f"3:r{row}c{column}"
    with pytest.raises(UserError, match=r"grid of demo/conv5.*4.*3"):
        layer.cells(4)


def test_the_map_shows_the_images_of_the_atlas(made: Path) -> None:
    layer = open_atlas(made)["conv5"]
    shown = Image.open(made / "montages/demo/conv5.map3.png").convert("RGB")
    assert shown.tobytes() == layer.map(3).tobytes()
    assert sorted(p.name for p in (made / "montages/demo").glob("*.map*")) == [
        f"{name}.map{side}.png" for name in ("conv2", "conv5") for side in (2, 3)
    ]
    counts, picture = dict(zip(layer.channels, layer["cell_count"], strict=True)), np.asarray(shown)
    tile = layer.dataset("image").shape[2]
    left = (shown.width - 3 * tile) // 2
    top = shown.height - 24 - 3 * tile
    full = [t for t in layer.cells(3).ravel() if t >= 0]
    middle = np.quantile([counts[int(t)] for t in full], 0.5)
    for (row, column), target in np.ndenumerate(layer.cells(3)):
        y, x = top + row * tile, left + column * tile
        cell = picture[y : y + tile, x : x + tile]
        if target < 0:
            assert (cell == 255).all(), "an empty cell is not blank"
        elif counts[int(target)] >= middle:
            expected = np.asarray(resampled(layer.pixels(int(target)), (tile, tile)))
            assert (cell[: tile // 2] == expected[: tile // 2]).all()  # below may be a label
        else:
            assert (cell[0] == 255).all(), "a thin cell fills its place"


def test_xarray_opens_it(made: Path) -> None:
    pytest.importorskip("h5netcdf")
    with open_atlas(made)["conv5"].to_xarray() as data:
        assert data["sample_cell"].dims == ("sample", "grid")
        assert data["cell_mean"].dims == ("channel", "response_channel")
        assert data["cell_class"].dims == ("channel", "cell_class_rank")


def test_members_come_with_their_pictures(made: Path, photographs: Path) -> None:
    layer = open_atlas(made)["conv2"]
    dataset = FolderImages(photographs)
    entries = list(dataset.entries())
    for row in range(0, len(layer.channels), 3):
        sample = int(layer["cell_member"][row, 0])
        index = int(layer["sample_image"][sample])
        stored = layer["cell_jpeg"][row, 0].tobytes()
        (made / "member.jpg").write_bytes(stored)
        with Image.open(made / "member.jpg") as opened:
            shown = np.asarray(opened).astype(int)
        (made / "member.jpg").unlink()
        view = read_view(dataset, index, entries[index], SIDE).pixels
        assert view is not None
        assert np.abs(shown - view).mean() < 6


def test_verify_measures_cells_again(made: Path) -> None:
    code, said = atlas_here("verify", made.parent)
    assert code == 0, said
    assert "0 problems" in said


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(made: Path, photographs: Path, tmp_path: Path) -> None:
    """Killed while images are optimized, and finished by one worker in blocks of another order."""
    process = start("run", tmp_path, *settings(photographs, "batch_size=3"))
    wait_for_shards(tmp_path / "demo", 8)  # samples of two blocks and two maps come before images
    kill_group(process)
    before = shards(tmp_path / "demo")
    assert run_here(tmp_path, *settings(photographs)) == 0
    assert before.items() <= shards(tmp_path / "demo").items(), "a committed file was made again"
    assert_same_atlas(made / "atlas.h5", tmp_path / "demo/atlas.h5")


@pytest.fixture(scope="module")
def duration(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that a sweep by the command line takes."""
    began = time.monotonic()
    code, said = atlas("run", tmp_path_factory.mktemp("timed"), *settings(photographs))
    assert code == 0, said
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("moment", range(5))
def test_the_bits_are_the_same_after_a_kill_at_a_random_moment(
    made: Path, photographs: Path, duration: float, tmp_path: Path, moment: int, workers: int
) -> None:
    """Killed at any moment: reading samples, laying out the map, optimizing, collating."""
    fraction = np.random.default_rng([moment, workers]).random()
    by = [f"executor.devices=[{','.join(['cpu'] * n)}]" for n in (workers, 3 - workers)]
    process = start("run", tmp_path, *settings(photographs, by[0]))
    time.sleep(fraction * duration)
    kill_group(process)
    code, said = atlas("run", tmp_path, *settings(photographs, by[1]))
    assert code == 0, said
    assert_same_atlas(made / "atlas.h5", tmp_path / "demo/atlas.h5")


def test_samples_of_other_settings_are_unneeded_and_those_of_the_map_are_not(
    made: Path, tmp_path: Path
) -> None:
    folder = OutputFolder(Path(shutil.copytree(made, tmp_path / "demo")))
    stale = folder.root / "store/demo/conv5/samples" / f"{'0' * 64}.safetensors"
    stale.write_bytes(b"")
    found = look_through(folder, read_manifest(folder))
    assert found.removable.pop("statistics of photographs") == [stale]
    assert not {kind for kind in found.removable if "store" in KINDS[kind]}


def test_a_damaged_map_is_made_again(made: Path, photographs: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "demo"))
    (path,) = (copy / "store/demo/conv5/map").iterdir()
    data = bytearray(path.read_bytes())
    whole = bytes(data)
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert run_here(tmp_path, *settings(photographs)) == 0
    assert path.read_bytes() == whole
    assert_same_atlas(made / "atlas.h5", copy / "atlas.h5")


@pytest.mark.slow
def test_another_layer_makes_no_image_again(made: Path, photographs: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "demo"))
    before = shards(copy)
    more = settings(photographs, "layers=[conv2,conv5,conv6]")
    assert run_here(tmp_path, *more) == 0
    after = shards(copy)
    images = [name for name in after if name.count("/") == 3]
    new = set(images) - set(before)
    assert new, "the third layer has images"
    assert all("/conv6/" in name for name in new)


@pytest.mark.slow
def test_a_class_has_an_atlas_of_its_own(photographs: Path, tmp_path: Path) -> None:
    overrides = settings(photographs, "layers=[conv5]", "objective.classes=[cats,trees]")
    assert run_here(tmp_path, *overrides) == 0
    layer = open_atlas(tmp_path / "demo")["conv5"]
    folders = {path.split("/")[0] for path in layer.dataset("sample_path").asstr()[()]}
    assert folders == {"cats", "trees"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("objective.classes=[cat]",), "class of objective.classes.*cats"),
        (("quality=natural",), "init=noise"),
        (("saliency=vanilla",), "saliency=none"),
        (("objective.grid=[3,3]",), "grid must differ"),
        (("channels=[99]",), "out of range"),
    ],
)
def test_mistakes_are_found_before_any_compute(
    photographs: Path, tmp_path: Path, wrong: tuple[str, ...], message: str
) -> None:
    code, said = atlas_here("run", tmp_path, *settings(photographs, *wrong))
    assert code == 2, said

    assert re.search(message, said, re.DOTALL), said
    assert not (tmp_path / "demo").exists()


def test_a_map_needs_a_dataset() -> None:
    with pytest.raises(UserError, match="maps photographs: add dataset=folder"):
        composed("objective=activation_atlas")


def test_cells_that_are_empty_cannot_be_chosen(photographs: Path, tmp_path: Path) -> None:
    overrides = settings(photographs, "layers=[conv5]", "objective.least=1000")
    code, said = atlas_here("run", tmp_path, *overrides)
    assert code == 2
    assert "0 of 13 are" in said
    assert "objective.least" in said


def test_a_plan_tells_how_many_images_there_may_be(photographs: Path, tmp_path: Path) -> None:
    code, said = atlas_here("plan", tmp_path, *settings(photographs))
    assert code == 0, said
    assert "at most 13 images per seed" in said

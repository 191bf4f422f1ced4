"""Tiles are in their places, whatever the size and number of images."""

import io
from base64 import b64decode
from pathlib import Path

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from numpy.typing import NDArray
from PIL import Image
from toys import make_recipe

from layer_atlas.atlas.reader import open_atlas
from layer_atlas.errors import UserError
from layer_atlas.presentation.site import files
from layer_atlas.presentation.site.files import (
    COLUMNS,
    PER_SHEET,
    TILE,
    DatasetImages,
    fitted,
    site_files,
    write_images,
    write_strip,
)


def written(root: Path, size: tuple[int, int], count: int, **more: object) -> tuple[Path, NDArray]:
    """The pictures of a layer whose channel k is of the grey 40 (k % 5), and its images."""
    file = made_up(root / "atlas", {"a": count}, recipe=make_recipe(image_size=size), **more)
    with open_atlas(file) as atlas, site_files(root / "site") as made:
        layer = atlas["toy/a"]
        write_images(made, "a", layer)
        write_strip(made, "a", layer, [(count - 1, 0), (1, 0)])
        return root / "site" / "a", layer["image"]


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_a_tile_is_where_its_channel_is_on_its_sheet(tmp_path: Path, size: tuple[int, int]) -> None:
    folder, images = written(tmp_path, size, 66, seeds=(0, 4))
    width, height = fitted(size, TILE)
    for channel, seed in ((0, 0), (9, 1), (63, 0), (64, 1), (65, 0)):
        sheet = pixels(folder / f"tiles-{seed}-0-{channel // PER_SHEET}.jpg")
        y, x = divmod(channel % PER_SHEET, COLUMNS)
        tile = sheet[y * height : (y + 1) * height, x * width : (x + 1) * width]
        assert abs(tile.mean() - images[channel, seed].mean()) < 2
    assert sheet.shape == (height, COLUMNS * width, 3)


@pytest.mark.parametrize("size", [(16, 16), (50, 80)])
def test_all_images_of_a_seed_are_there_in_small(tmp_path: Path, size: tuple[int, int]) -> None:
    folder, images = written(tmp_path, size, 10, seeds=(0, 4))
    preview = pixels(folder / "preview-1-0.jpg")
    width, height = fitted(size, 32)
    assert preview.shape == (3 * height, 4 * width, 3)
    for channel in (0, 3, 4, 9):
        y, x = divmod(channel, 4)
        tile = preview[y * height : (y + 1) * height, x * width : (x + 1) * width]
        assert abs(tile[2:-2, 2:-2].mean() - images[channel, 1].mean()) < 4


def test_images_have_files_that_are_named_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As stored where all images of a layer are few bytes; tiny ones of large layers have none."""
    folder, images = written(tmp_path, (200, 300), 2, seeds=(0, 7))
    assert pixels(folder / "tiles-0-0-0.jpg").shape == (107, COLUMNS * TILE, 3)
    assert np.array_equal(pixels(folder / "toy-a-1-seed7.png"), images[1, 1])
    monkeypatch.setattr(files, "_LOSSLESS_BYTES", 2**10)
    folder, images = written(tmp_path / "many", (200, 300), 2)
    picture = pixels(folder / "toy-a-1-seed0.jpg").astype(float)
    assert picture.shape == (200, 300, 3)
    assert abs(picture.mean() - images[1, 0].mean()) < 1
    small, _ = written(tmp_path / "small", (24, 24), 2)
    assert not list(small.glob("toy-*"))


def test_channels_without_an_image_are_left_out(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, (200, 200), 3, status={1: "missing"}, shard_size=1)
    assert sorted(path.name for path in folder.glob("toy-*")) == [
        "toy-a-0-seed0.png",
        "toy-a-2-seed0.png",
    ]


def test_a_strip_shows_the_channels_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    folder, images = written(tmp_path, (16, 16), 3)
    strip = pixels(folder / "strip.jpg")
    assert abs(strip[:, :16].mean() - images[2, 0].mean()) < 2
    assert abs(strip[:, 16:].mean() - images[1, 0].mean()) < 2


def test_photographs_are_the_files_of_the_atlas_and_saliency_is_on_a_sheet(tmp_path: Path) -> None:
    file = made_up(tmp_path / "atlas", {"a": 2})
    add_photographs(file, 3)
    with h5py.File(file, "a") as opened:
        dataset = opened["toy/a/dataset"]
        dataset["top_jpeg"][1, 2] = np.zeros(0, np.uint8)
        dataset["bottom_jpeg"] = dataset["top_jpeg"][:, :2]
        dataset["top_saliency"] = np.zeros((2, 3, 16, 16), np.uint8)
        dataset["top_score"] = np.asarray([[3.0, 2, 1], [6, 5, 4]], np.float32)
        dataset["top_view_box"] = np.tile(np.int32([[1, 2, 9, 8]]), (2, 3, 1))
        stored = dataset["top_jpeg"][1, 0].tobytes()
    with open_atlas(file) as atlas, site_files(tmp_path / "site") as made:
        dataset_images = DatasetImages(atlas["toy/a"])
        for row in (0, 1):
            dataset_images.write(made, "a", row)
        assert dataset_images.facts() == {"salient": 3, "map": []}
        told = dataset_images.records(1)
        assert [each["score"] for each in told["top"]] == [6, 5]
        assert [each["slot"] for each in told["bottom"]] == [0, 1]
        assert [each["salient"] for end in ("top", "bottom") for each in told[end]] == [
            True
        ] * 2 + [False] * 2
        assert [each["box"] for each in told["top"]] == [[1, 2, 9, 8]] * 2
        named = {each["file"] for end in ("top", "bottom") for each in told[end]}
    (one,) = (tmp_path / "site" / "photographs").iterdir()
    assert named == {f"photographs/{one.name}"}  # all are alike, and kept once
    assert one.read_bytes() == stored
    picture = pixels(tmp_path / "site" / "a" / "saliency-1.jpg")
    assert picture.shape == (128, 3 * 128, 3)
    greys = picture.reshape(128, 3, 128, 3).mean(axis=(0, 2, 3)).round()
    assert greys[:2] == pytest.approx(0.35 * 200 + 0.65 * 255, abs=2)
    assert greys[2] == 128


def test_what_is_no_picture_does_not_get_into_a_site(tmp_path: Path) -> None:
    file = made_up(tmp_path / "atlas", {"a": 1})
    add_photographs(file, 1)
    with h5py.File(file, "a") as opened:
        opened["toy/a/dataset/top_jpeg"][0, 0] = np.frombuffer(b"<svg/>", np.uint8)
    with (
        open_atlas(file) as atlas,
        pytest.raises(UserError, match="cannot be read"),
        site_files(tmp_path / "site") as made,
    ):
        DatasetImages(atlas["toy/a"]).write(made, "a", 0)
    assert not list((tmp_path / "site").rglob("*.jpg"))


def test_activation_maps_go_to_the_scripts_as_they_are(tmp_path: Path) -> None:
    file = made_up(tmp_path / "atlas", {"a": 3})
    add_photographs(file, 2)
    levels = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 5), np.uint8)
    bounds = np.tile(np.float32([-1, 2]), (3, 2, 1))
    bounds[1, 1] = np.nan
    with h5py.File(file, "a") as opened:
        opened["toy/a/dataset/top_activation"] = levels
        opened["toy/a/dataset/top_activation_bounds"] = bounds
    with open_atlas(file) as atlas:
        dataset_images = DatasetImages(atlas["toy/a"])
        facts, told = dataset_images.facts(), dataset_images.maps(range(1, 3))
    assert facts == {"salient": 0, "map": [4, 5]}
    assert (told["first"], told["bounds"][0]) == (1, [[-1, 2], [None, None]])
    found = [[np.frombuffer(b64decode(text), np.uint8) for text in row] for row in told["maps"]]
    assert np.array_equal(np.reshape(found, (2, 2, 4, 5)), levels[1:])

"""Tiles are in their places, whatever the size and number of images."""

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from numpy.typing import NDArray
from PIL import Image
from toys import make_recipe

from layer_atlas.atlas.reader import open_atlas
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
    with open_atlas(file) as atlas, site_files(root / "site") as files:
        layer = atlas["toy/a"]
        write_images(files, "a", layer)
        write_strip(files, "a", layer, [(count - 1, 0), (1, 0)])
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


def test_images_that_are_larger_than_tiles_are_there_on_their_own(tmp_path: Path) -> None:
    folder, images = written(tmp_path, (200, 300), 2)
    assert pixels(folder / "tiles-0-0-0.jpg").shape == (107, COLUMNS * TILE, 3)
    picture = pixels(folder / "image-1-0-0.jpg").astype(float)
    assert picture.shape == (200, 300, 3)
    assert abs(picture.mean() - images[1, 0].mean()) < 1
    small, _ = written(tmp_path / "small", (16, 16), 2)
    assert not list(small.glob("image-*"))


def test_channels_without_an_image_are_left_out(tmp_path: Path) -> None:
    folder, _ = written(tmp_path, (200, 200), 3, status={1: "missing"}, shard_size=1)
    assert sorted(path.name for path in folder.glob("image-*")) == [
        "image-0-0-0.jpg",
        "image-2-0-0.jpg",
    ]


def test_a_strip_shows_the_channels_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    folder, images = written(tmp_path, (16, 16), 3)
    strip = pixels(folder / "strip.jpg")
    assert abs(strip[:, :16].mean() - images[2, 0].mean()) < 2
    assert abs(strip[:, 16:].mean() - images[1, 0].mean()) < 2


def test_photographs_and_their_saliency_are_in_rows(tmp_path: Path) -> None:
    file = made_up(tmp_path / "atlas", {"a": 2})
    add_photographs(file, 3)
    with h5py.File(file, "a") as opened:
        dataset = opened["toy/a/dataset"]
        dataset["bottom_jpeg"] = dataset["top_jpeg"][:, :2]
        dataset["top_saliency"] = np.zeros((2, 3, 16, 16), np.uint8)
        dataset["top_score"] = np.asarray([[3.0, 2, 1], [6, 5, 4]], np.float32)
    with open_atlas(file) as atlas, site_files(tmp_path / "site") as files:
        dataset_images = DatasetImages(atlas["toy/a"])
        dataset_images.write(files, "a", 1)
        assert dataset_images.facts() == {
            "rows": ["top", "saliency", "bottom"],
            "across": 3,
            "tile": 128,
        }
        told = dataset_images.records(1)
        assert [each["score"] for each in told["top"]] == [6, 5, 4]
        assert [each["slot"] for each in told["bottom"]] == [0, 1]
        assert [each["salient"] for end in ("top", "bottom") for each in told[end]] == [
            True
        ] * 3 + [False] * 2
    picture = pixels(tmp_path / "site" / "a" / "photographs-1.jpg")
    assert picture.shape == (3 * 128, 3 * 128, 3)
    greys = picture.reshape(3, 128, 3, 128, 3).mean(axis=(1, 3, 4)).round()
    assert greys[0] == pytest.approx(200, abs=2)
    assert greys[1] == pytest.approx(0.35 * 200 + 0.65 * 255, abs=2)
    assert greys[2].tolist() == [200, 200, 128]

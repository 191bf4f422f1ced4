"""Dataset images cropped to the receptive field, against one found by changing single pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from atlases import add_photographs, made_up
from PIL import Image
from runs import run_here

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.config import ModelConfig
from layer_atlas.config.outputs import ImagesFigure
from layer_atlas.errors import UserError
from layer_atlas.models.load import load_network
from layer_atlas.presentation.figures.image_content import dataset_images_of
from layer_atlas.presentation.figures.make import KINDS

SIDE = 32
FIELD = {"conv1": 7, "conv2": 19}
"""Sides of receptive fields within an image: of a 7 x 7 kernel, and of pool and 3 x 3 behind it."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        large = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        large.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def atlas(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    root = tmp_path_factory.mktemp("run")
    small = ("optimizer.steps=1", f"image_size={SIDE}", "layers=[conv1,conv2]", "channels='0:3'")
    dataset = ("dataset=folder", f"dataset.path={photographs}", "collate.site=false")
    assert run_here(root, *small, *dataset) == 0
    return open_atlas(root / "demo")


def field(layer: str, pixels: np.ndarray, channel: int) -> tuple[int, int, int, int]:
    """The box of the pixels that change the position of a channel's largest response."""
    network = load_network(ModelConfig(name="demo", weights="default"))
    kept = {}
    network.module.get_submodule(layer).register_forward_hook(
        lambda module, args, output: kept.update(maps=output)
    )
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    image = (image - 0.5) / 0.25
    changed = image.repeat(SIDE * SIDE + 1, 1, 1, 1)
    for number in range(SIDE * SIDE):
        changed[number, :, number // SIDE, number % SIDE] += 3
    with torch.no_grad():
        network.module(changed)
    maps = kept["maps"]
    row, column = divmod(int(maps[-1, channel].argmax()), maps.shape[3])
    here = maps[:, :, row, column]
    reached = (here[:-1] != here[-1]).any(dim=1).reshape(SIDE, SIDE)
    rows, columns = (torch.nonzero(reached.any(dim=axis)).flatten().tolist() for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELD)
def test_a_crop_is_the_receptive_field_of_the_largest_response(
    atlas: Atlas, photographs: Path, name: str
) -> None:
    layer = atlas[name]
    sides = []
    for channel in layer.channels:
        whole, crops = layer.dataset_images(channel), dataset_images_of(layer, channel, crop=True)
        paths = layer["dataset/top_path"][layer.row(channel)]
        for pixels, crop, path in list(zip(whole, crops, paths, strict=False))[:2]:
            with Image.open(photographs / path.decode()) as picture:
                left, top, right, bottom = field(name, np.asarray(picture), channel)
            assert np.array_equal(crop, pixels[top:bottom, left:right])
            sides += [right - left, bottom - top]
    # Smaller ones are clipped at the border of the image.
    assert max(sides) == FIELD[name]


@pytest.mark.slow
def test_the_caption_says_that_images_are_cropped(atlas: Atlas) -> None:
    whole, cropped = (
        KINDS["images"](atlas, ImagesFigure(crop=crop)).caption for crop in (False, True)
    )
    assert "cropped to the receptive field of the largest response" in cropped
    assert "cropped" not in whole


def test_an_atlas_without_receptive_fields_is_refused(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"a": 3})
    add_photographs(file)
    layer = open_atlas(file)["toy/a"]
    assert dataset_images_of(layer, 1, crop=False)[0].shape == (16, 16, 3)
    with pytest.raises(UserError, match="has no receptive fields of toy/a"):
        dataset_images_of(layer, 1, crop=True)

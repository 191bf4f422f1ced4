"""Images within a mask over a fixed picture, and pictures that a recipe gives."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from images import (
    AREA,
    KEYS,
    MASK,
    PICTURE,
    dataset_images,
    every_member,
    every_shape,
    find,
    images_of,
    only_parameter,
    recipe_of,
)
from PIL import Image
from torch import Tensor

from layer_atlas.config.parameterizations import Fourier, Mask, Pixel
from layer_atlas.config.parameterizations import Parameterization as Config
from layer_atlas.config.recipe import DatasetInit, PhotographInit
from layer_atlas.datasets.image_files import read_picture
from layer_atlas.errors import UserError
from layer_atlas.visualization.parameterizations import check_parameterization
from layer_atlas.visualization.parameterizations.base import Shape


def mask_of(shape: Shape) -> Tensor:
    return torch.from_numpy(read_picture(find(AREA), 1, shape[1:]))[0, 0]


@every_member
@every_shape
def test_inside_is_the_image_outside_the_picture_and_between_a_mixture(
    config: Config, shape: Shape
) -> None:
    masked, bare = (images_of(config, shape, mask=mask)() for mask in (MASK, None))
    picture = torch.from_numpy(read_picture(find(PICTURE), shape[0], shape[1:]))
    mask = mask_of(shape)
    assert torch.equal(masked[..., mask == 0], picture.expand_as(bare)[..., mask == 0])
    assert torch.equal(masked[..., mask == 1], bare[..., mask == 1])
    assert torch.allclose(masked, mask * bare + (1 - mask) * picture)
    assert (mask[:, : shape[2] // 4] == 0).all()
    assert (mask[:, -shape[2] // 4 :] == 1).all()


@every_member
def test_no_gradient_comes_from_outside(config: Config) -> None:
    shape = (3, 16, 16)
    images = images_of(config, shape, mask=MASK)
    mask = mask_of(shape)
    for outside, reached in ((True, False), (False, True)):
        where = mask == 0 if outside else mask > 0
        weight = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * where
        rendered = images()
        (gradient,) = torch.autograd.grad((rendered * weight).sum(), only_parameter(images))
        assert bool(gradient.any()) is reached


def test_pixels_outside_never_move() -> None:
    images = images_of(Pixel(), (3, 16, 16), mask=MASK)
    (gradient,) = torch.autograd.grad(images().sum(), only_parameter(images))
    reached = gradient[:, : 3 * 256].view(-1, 3, 16, 16).abs().sum(dim=(0, 1)) > 0
    assert torch.equal(reached, mask_of((3, 16, 16)) > 0)


def test_starts_are_those_of_the_whole_image() -> None:
    wanted = dataset_images((3, 16, 16))
    masked, bare = (
        images_of(Fourier(), (3, 16, 16), KEYS, DatasetInit(), wanted, mask)
        for mask in (MASK, None)
    )
    assert torch.equal(masked.values(), bare.values())
    masked.encode(wanted)
    bare.encode(wanted)
    assert torch.equal(masked.values(), bare.values())


def test_blur_is_that_of_the_whole_image() -> None:
    masked, bare = (images_of(Fourier(), (3, 16, 16), mask=mask) for mask in (MASK, None))
    transfer = torch.linspace(1, 0.2, 9).expand(16, 9)
    for images in (masked, bare):
        images.blur_(transfer)
    assert torch.equal(masked.values(), bare.values())


# --- mistakes, told before anything is made ---


def checked(folder: Path, mask: Mask | None = None, start: PhotographInit | None = None) -> None:
    recipe = recipe_of(Fourier(), mask=mask)
    recipe = recipe if start is None else replace(recipe, init=start)
    check_parameterization(recipe, 3, lambda reference: folder / reference)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    grey = np.full((20, 30), 128, np.uint8)
    for name, pixels in {"grey": grey, "black": 0 * grey}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no picture")
    return tmp_path


@pytest.mark.parametrize("name", ["text.png", "none.png"])
def test_what_is_no_picture_is_told(name: str, folder: Path) -> None:
    checked(folder, Mask(area="grey.png", picture="grey.png"))
    for mask, start in (
        (Mask(area=name, picture="grey.png"), None),
        (Mask(area="grey.png", picture=name), None),
        (None, PhotographInit(photograph=name)),
    ):
        with pytest.raises(UserError, match=f"{name}' cannot be read"):
            checked(folder, mask, start)


def test_a_mask_that_shows_nothing_is_told(folder: Path) -> None:
    with pytest.raises(UserError, match=r"mask\.area is black everywhere"):
        checked(folder, Mask(area="black.png", picture="grey.png"))


def test_files_must_be_named() -> None:
    with pytest.raises(ValueError, match="picture must name an image file"):
        Mask(area="area.png")
    with pytest.raises(ValueError, match="photograph must name one"):
        PhotographInit()

"""Every parameterization at every kind of shape, for the tests of the family and of its members."""

import atexit
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from toys import make_recipe

from layer_atlas.config.parameterizations import (
    Cppn,
    Fourier,
    Generator,
    Maco,
    Mask,
    NaturalFourier,
    Pixel,
    Pyramid,
)
from layer_atlas.config.parameterizations import Parameterization as Config
from layer_atlas.config.recipe import Init, Recipe
from layer_atlas.visualization import rng
from layer_atlas.visualization.parameterizations import make_parameterization
from layer_atlas.visualization.parameterizations.base import Parameterization, Shape

KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in range(11, 19)])
"""Eight: on a CPU batches are filled up to multiples of that."""


# --- files that recipes refer to -----------------------------------------------------------------

_FOLDER = TemporaryDirectory(prefix="inputs-")
atexit.register(_FOLDER.cleanup)

WEIGHTS, AREA, PICTURE = "prior.safetensors", "area.png", "picture.png"


class Prior(nn.Module):
    """A small generator: a latent (Z) or (Z, 1, 1) to a picture (C, 7, 9) between -1 and 1."""

    def __init__(self, colours: int, latent: int = 12) -> None:
        super().__init__()
        self.shape = (colours, 7, 9)
        self.spots = nn.ConvTranspose2d(latent, 4, (4, 6))
        self.details = nn.ConvTranspose2d(4, colours, 4)

    def forward(self, latents: Tensor) -> Tensor:
        maps = latents.view(*latents.shape[:2], 1, 1)
        made: Tensor = torch.tanh(self.details(torch.relu(self.spots(maps))))
        return made


def hand_set(prior: nn.Module) -> dict[str, Tensor]:
    """Weights of a generator, the same every time."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.5
        for name, tensor in prior.state_dict().items()
    }


def find(reference: str) -> Path:
    """The files of `for_colours` and `MASK`, made when they are first asked for."""
    path = Path(_FOLDER.name) / reference
    if not path.exists():
        _write(path)
    return path


def _write(path: Path) -> None:
    if path.name.endswith(WEIGHTS):
        save_file(hand_set(Prior(int(path.name.split("-")[0]))), path)
    elif path.name == AREA:
        # Left black, right white, between them a slope.
        line = np.interp(np.arange(60), [24, 36], [0, 255]).astype(np.uint8)
        Image.fromarray(np.tile(line, (60, 1))).save(path)
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 60), Image.Resampling.BICUBIC).save(path)


MASK = Mask(area=AREA, picture=PICTURE)


# --- the family ----------------------------------------------------------------------------------

PRIOR = Generator(target="images.Prior", weights=WEIGHTS, latent=(12,))

FAMILY: Sequence[Config] = (
    Fourier(),
    Fourier(decay_power=0.0, contrast=3.0),
    NaturalFourier(),
    NaturalFourier(decay_power=0.0, contrast=3.0),
    Pixel(),
    Pixel(initial_sd=2.0),
    Maco(),
    Pyramid(),
    Pyramid(levels=3, decay_power=0.0, contrast=1.0),
    Cppn(layers=2, units=6),
    PRIOR,
    replace(PRIOR, latent=(12, 1, 1), bounds=None, step=1.0),
)
FROM_PICTURES = [config for config in FAMILY if not config.from_noise_alone]
SHAPES: Sequence[Shape] = ((3, 16, 16), (3, 17, 17), (1, 12, 18), (5, 15, 20))
"""Colours, height and width: even and odd, square and not, grey, coloured and more than that."""


def _id(config: Config) -> str:
    twins = [other for other in FAMILY if type(other) is type(config)]
    return config.name + ("" if twins[0] == config else str(twins.index(config) + 1))


every_member = pytest.mark.parametrize("config", FAMILY, ids=_id)
every_member_from_pictures = pytest.mark.parametrize("config", FROM_PICTURES, ids=_id)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def for_colours(config: Config, colours: int) -> Config:
    """A generator that makes images of so many colours; others do so anyhow."""
    if not isinstance(config, Generator):
        return config
    return replace(config, args={"colours": colours}, weights=f"{colours}-{config.weights}")


def recipe_of(config: Config, shape: Shape = (3, 16, 16), **changes: Any) -> Recipe:
    recipe = make_recipe(for_colours(config, shape[0]), image_size=shape[1:])
    return replace(recipe, **changes)


def images_of(
    config: Config,
    shape: Shape = (3, 16, 16),
    keys: Tensor = KEYS,
    init: Init | None = None,
    dataset_images: Tensor | None = None,
    mask: Mask | None = None,
) -> Parameterization:
    recipe = recipe_of(config, shape, mask=mask)
    recipe = recipe if init is None else replace(recipe, init=init)
    return make_parameterization(recipe, shape[0], keys, dataset_images, find)


def only_parameter(images: nn.Module) -> nn.Parameter:
    (parameter,) = images.parameters()
    return parameter


def dataset_images(shape: Shape) -> Tensor:
    """A picture per key, with black, white and everything between."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(len(KEYS), shape[0], 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return smooth.sub(0.5).mul(2.0).add(0.5).clamp(0, 1)

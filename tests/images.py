"""Every parameterization at every kind of shape, for the tests of the family and of its members."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import make_recipe

from pipeline import rng
from pipeline.parameterizations import make_parameterization
from pipeline.parameterizations.base import Parameterization, Shape
from pipeline.recipe import Fourier, Init, Maco, Pixel
from pipeline.recipe import Parameterization as Config

KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in (11, 22, 33)])

FAMILY: Sequence[Config] = (
    Fourier(),
    Fourier(decay_power=0.0, contrast=3.0),
    Pixel(),
    Pixel(initial_sd=2.0),
    Maco(),
)
SHAPES: Sequence[Shape] = ((3, 16, 16), (3, 17, 17), (1, 12, 18), (5, 15, 20))
"""Colours, height and width: even and odd, square and not, grey, coloured and more than that."""

every_member = pytest.mark.parametrize("config", FAMILY, ids=str)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


def images_of(
    config: Config,
    shape: Shape = (3, 16, 16),
    keys: Tensor = KEYS,
    init: Init | None = None,
    photographs: Tensor | None = None,
) -> Parameterization:
    recipe = make_recipe(config, image_size=shape[1:])
    recipe = recipe if init is None else replace(recipe, init=init)
    return make_parameterization(recipe, shape[0], keys, photographs)


def only_parameter(images: nn.Module) -> nn.Parameter:
    (parameter,) = images.parameters()
    return parameter


def photographs(shape: Shape) -> Tensor:
    """Three pictures with black, white and everything between."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, shape[0], 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return smooth.sub(0.5).mul(2.0).add(0.5).clamp(0, 1)

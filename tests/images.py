"""Every parameterization at every kind of shape, for the tests of the family and of its members."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pipeline import parameterizations, rng
from pipeline.parameterizations.base import Parameterization, Shape
from pipeline.recipe import Fourier, Init, Maco, NoiseInit, Pixel
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
    images = parameterizations._at_random(config, shape, keys)
    start = parameterizations._start(init or NoiseInit(), shape, keys, photographs)
    if start is not None:
        images.encode(start)
    return images


def only_parameter(images: nn.Module) -> nn.Parameter:
    (parameter,) = images.parameters()
    return parameter


def photographs(shape: Shape) -> Tensor:
    """Three pictures with black, white and everything between."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, shape[0], 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, shape[1:], mode="bicubic")
    return smooth.sub(0.5).mul(2.0).add(0.5).clamp(0, 1)

"""Images as small networks of their coordinates."""

import pytest
import torch
from images import KEYS, every_shape, images_of, only_parameter
from torch import Tensor
from torch.nn.functional import interpolate
from toys import composed

from layer_atlas.config.config import Config
from layer_atlas.config.parameterizations import Cppn
from layer_atlas.config.recipe import SpectrumInit
from layer_atlas.errors import UserError
from layer_atlas.models.pixels import fixed_contrast
from layer_atlas.visualization.parameterizations.base import Shape
from layer_atlas.visualization.parameterizations.cppn import (
    CppnImages,
    composite,
    coordinates,
    deviations,
)


def by_hand(config: Cppn, weights: Tensor, shape: Shape) -> Tensor:
    """The values of one image, pixel for pixel as the articles say; `weights` start at sd 1."""
    colours, height, width = shape
    half = 3**0.5
    pitch = 2 * half / min(height, width)
    y = (torch.arange(height) - (height - 1) / 2) * pitch
    x = (torch.arange(width) - (width - 1) / 2) * pitch
    seen = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    for number in range(config.layers + 1):
        units = config.units if number < config.layers else colours
        inputs = seen.shape[-1]
        matrix, weights = weights[: units * (inputs + 1)], weights[units * (inputs + 1) :]
        matrix = matrix.view(units, inputs + 1)
        seen = seen @ matrix[:, :-1].T / inputs**0.5 + 0.1 * matrix[:, -1]
        if number < config.layers:
            arctan = seen.atan()
            seen = torch.cat([arctan / 0.67, arctan**2 / 0.6], dim=-1)
    return fixed_contrast(seen.permute(2, 0, 1)[None], config.contrast)[0]


@every_shape
@pytest.mark.parametrize("step", [0.1, 1.0])
def test_the_network_is_that_of_the_articles(shape: Shape, step: float) -> None:
    config = Cppn(layers=3, units=5, step=step)
    images = CppnImages(config, shape, KEYS)
    for values, weights in zip(images.values(), images.weights.detach() * step, strict=True):
        assert torch.allclose(values, by_hand(config, weights, shape), atol=1e-3)


def test_a_step_of_one_moves_a_weight_by_so_much_of_its_deviation() -> None:
    # A unit step of the parameter is what the optimizer makes at a learning rate of 1.
    weights = [CppnImages(Cppn(step=step), (3, 16, 16), KEYS).weights.data for step in (0.1, 0.5)]
    assert torch.allclose(weights[0] * 0.1, weights[1] * 0.5)
    assert float(weights[0].std() * 0.1) == pytest.approx(1.0, rel=0.05)


def test_units_start_about_as_large_as_their_inputs() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = (200, 101)
    seen = composite(torch.randn(1, 50, 5_000, generator=generator))
    matrix = torch.randn(layer, generator=generator) * deviations(layer)
    units = matrix[:, :-1] @ seen[0] + matrix[:, -1:]
    assert float(units.square().mean().sqrt()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("size", [(64, 64), (48, 96)], ids=str)
def test_coordinates_are_those_of_square_pixels_around_the_middle(size: tuple[int, int]) -> None:
    places = coordinates(size)[:, : size[0] * size[1]].view(2, *size)
    assert torch.allclose(places, -places.flip(1, 2), atol=1e-6)
    across, down = places[0].diff(dim=1), places[1].diff(dim=0)
    assert torch.allclose(across, across[0, 0].expand_as(across), atol=1e-5)
    assert torch.allclose(down, across[0, 0].expand_as(down), atol=1e-5)
    assert float(places[1].std()) == pytest.approx(1.0, rel=0.02)


def test_an_image_can_be_drawn_at_any_size() -> None:
    small, large = (images_of(Cppn(), (3, side, side))() for side in (32, 128))
    shrunk = interpolate(large, (32, 32), mode="bilinear", antialias=True)
    assert (small - shrunk).abs().mean() < 0.02


def test_images_start_smooth_and_not_grey() -> None:
    rendered = images_of(Cppn(), (3, 64, 64))().detach()
    spread = rendered.std((1, 2, 3))
    assert (spread > 0.1).all()
    for axis in (2, 3):
        assert (rendered.diff(dim=axis).abs().mean((1, 2, 3)) < 0.2 * spread).all()


def test_weights_are_moved_apart_by_their_gradient() -> None:
    images = images_of(Cppn(), (3, 16, 16))
    (gradient,) = torch.autograd.grad(images()[:, 0].sum(), only_parameter(images))
    used = sum(units * inputs for units, inputs in images.layers)
    assert (gradient[:, :used] != 0).float().mean() > 0.99
    assert (gradient[:, used:] == 0).all()


def test_the_gradient_of_the_activation_is_the_true_one() -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.randn(2, 3, 4, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(composite, units)


def test_no_parameters_are_known_for_a_picture() -> None:
    with pytest.raises(ValueError, match="noise alone"):
        images_of(Cppn(), init=SpectrumInit())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["init=spectrum"], ["parameterization=cppn", "init=noise instead of init=spectrum"]),
        (["quality=natural", "dataset=folder"], ["init=dataset", "quality=natural"]),
        (["octaves=four"], ["octaves=none", "parameterization=cppn"]),
    ],
)
def test_a_config_that_wants_it_to_start_from_pictures_is_refused(
    overrides: list[str], words: list[str]
) -> None:
    assert isinstance(composed("parameterization=cppn"), Config)
    with pytest.raises(UserError) as told:
        composed("parameterization=cppn", *overrides)
    assert all(word in str(told.value) for word in words)

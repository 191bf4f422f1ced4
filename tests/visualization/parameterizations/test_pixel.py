"""Images as free pixels and as Laplacian pyramids."""

import math

import pytest
import torch
from images import KEYS, dataset_images, every_shape, images_of, only_parameter
from torch import Tensor

from layer_atlas.config.parameterizations import Pixel, Pyramid
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.models.pixels import fixed_contrast, from_colours, resized
from layer_atlas.visualization.parameterizations.base import Shape
from layer_atlas.visualization.parameterizations.pixel import PyramidImages, level_shapes


def test_it_starts_with_the_noise_it_is_told() -> None:
    narrow, wide = (
        images_of(Pixel(initial_sd=sd), (3, 24, 24))().detach().logit().std() for sd in (0.1, 0.4)
    )
    assert float(wide / narrow) == pytest.approx(4, rel=1e-3)


@every_shape
def test_a_photograph_is_given_back(shape: Shape) -> None:
    wanted = dataset_images(shape)
    images = images_of(Pixel(), shape, init=DatasetInit(), dataset_images=wanted)
    assert torch.allclose(images(), wanted, atol=0.003)


# --- pyramids -------------------------------------------------------------------------------------


def parts(images: PyramidImages) -> list[Tensor]:
    """The levels (B, C, h, w), cut from the parameters by hand; writing to them changes these."""
    found, start = [], 0
    for shape in images.shapes:
        stop = start + math.prod(shape)
        found.append(images.levels.data[:, start:stop].view(-1, *shape))
        start = stop
    return found


def test_levels_double_from_coarse_to_fine() -> None:
    assert level_shapes((1, 64, 96), 4) == [(1, 8, 12), (1, 16, 24), (1, 32, 48), (1, 64, 96)]
    assert level_shapes((5, 7, 3), 5)[:2] == [(5, 1, 1), (5, 1, 1)]


@every_shape
def test_an_image_is_the_sum_of_its_levels(shape: Shape) -> None:
    images = PyramidImages(Pyramid(levels=3, decay_power=1.0), shape, KEYS)
    coarse, middle, fine = parts(images)
    up = resized(resized(coarse, images.shapes[1][1:]) + middle / 2, shape[1:])
    assert torch.allclose(images.values(), fixed_contrast(up + fine / 4, 2.5), atol=1e-5)


def test_a_finest_value_is_one_pixel_and_a_coarser_one_a_spot_around_its_place() -> None:
    images = PyramidImages(Pyramid(levels=3), (3, 32, 32), KEYS)
    for number, (level, reach) in enumerate(zip(parts(images), (8, 3, 1), strict=True)):
        images.levels.data.zero_()
        side = level.shape[2]
        level[:, 1, side // 2, side // 4] = 1.0
        found = images.values().detach()
        assert (found[:, [0, 2]] == 0).all()
        y, x = torch.where(found[0, 1] > 1e-6)
        scale = 2 ** (2 - number)
        # The middle of the coarse pixel, seen from the middles of the fine ones.
        for places, wanted in ((y, side // 2), (x, side // 4)):
            middle = (wanted + 0.5) * scale - 0.5
            assert float(places.double().mean()) == pytest.approx(middle)
            assert float((places - middle).abs().max()) < reach


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_levels_count_by_the_power_of_their_frequency(power: float) -> None:
    images = PyramidImages(Pyramid(levels=3, decay_power=power), (3, 32, 32), KEYS)
    *_, middle, fine = parts(images)
    images.levels.data.zero_()
    # Half a wave per pixel is next to nothing on the middle level, so neither disturbs the other.
    middle[:] = 1.0
    fine[:] = torch.tensor([1.0, -1.0]).repeat(16)
    values = images.values().detach()
    found = float(values.std(dim=3).mean() / values.mean())
    assert found == pytest.approx(2**-power, rel=0.03)


@every_shape
@pytest.mark.parametrize("config", [Pyramid(), Pyramid(levels=3, contrast=1.0)], ids=str)
def test_a_photograph_is_given_back_up_to_contrast(config: Pyramid, shape: Shape) -> None:
    wanted = dataset_images(shape)
    images = images_of(config, shape, init=DatasetInit(), dataset_images=wanted)
    at_contrast = fixed_contrast(from_colours(wanted), config.contrast)
    assert torch.allclose(images.values(), at_contrast, atol=1e-4)
    used = only_parameter(images).detach()[:, : sum(math.prod(s) for s in images.shapes)]
    assert torch.allclose(used.square().mean(1).sqrt(), torch.tensor(config.initial_sd))


def test_the_levels_of_a_photograph_are_its_differences_between_scales() -> None:
    # Burt & Adelson 1983: plain areas leave nothing on the finer levels.
    values = torch.ones(len(KEYS), 3, 32, 32)
    values[:, :, :, 16:] = -1.0
    images = PyramidImages(Pyramid(levels=3), (3, 32, 32), KEYS)
    images.encode(values)
    coarse, middle, fine = parts(images)
    assert coarse.abs().min() > 0.1
    for level, edge in ((fine, slice(12, 20)), (middle, slice(4, 12))):
        elsewhere = level.clone()
        elsewhere[..., edge] = 0
        assert level.abs().max() > 0.1
        assert elsewhere.abs().max() < 1e-5

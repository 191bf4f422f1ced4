"""Images as free pixels."""

import pytest
import torch
from images import dataset_images, every_shape, images_of

from layer_atlas.config.parameterizations import Pixel
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.visualization.parameterizations.base import Shape


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

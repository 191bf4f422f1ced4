"""Colours: three are decorrelated as those of photographs, of other numbers nothing is known."""

import pytest
import torch
from images import dataset_images

from layer_atlas.models.colours import fixed_contrast, from_colours, to_colours

every_number = pytest.mark.parametrize("colours", [1, 3, 5])


@every_number
def test_zero_is_mid_grey(colours: int) -> None:
    grey = to_colours(torch.zeros(1, colours, 2, 2))
    assert torch.equal(grey, torch.full((1, colours, 2, 2), 0.5))


def test_three_colours_are_mixed_as_in_photographs() -> None:
    unit = torch.zeros(1, 3, 1, 1)
    unit[0, 0] = 1.0
    scale = (0.26**2 + 0.27**2 + 0.27**2) ** 0.5
    expected = torch.tensor([0.26, 0.27, 0.27]) / scale
    assert torch.allclose(to_colours(unit)[0, :, 0, 0], torch.sigmoid(expected))


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_other_numbers_of_colours_are_left_as_they_are(colours: int) -> None:
    values = torch.randn(2, colours, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(to_colours(values), torch.sigmoid(values))


@every_number
def test_the_way_back(colours: int) -> None:
    images = dataset_images((colours, 16, 12)).clamp(0.01, 0.99)
    assert torch.allclose(to_colours(from_colours(images)), images, atol=1e-5)
    extremes = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, colours, 2, 2)
    assert torch.allclose(to_colours(from_colours(extremes)), extremes, atol=0.003)


def test_contrast_is_fixed_and_its_gradient_the_true_one() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    scaled = fixed_contrast(values * 7 + 2, 1.5)
    assert torch.allclose(scaled.square().mean((1, 2, 3)).sqrt(), torch.tensor(1.5).double())
    assert torch.autograd.gradcheck(lambda x: fixed_contrast(x + 0.3, 1.5), values)

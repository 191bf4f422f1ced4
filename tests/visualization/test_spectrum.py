"""The mean spectrum of photographs, for images of any size and any number of colours."""

import math

import torch

from layer_atlas.visualization import spectrum


def test_magnitudes_fall_as_those_of_photographs_and_do_not_depend_on_the_size() -> None:
    # Field 1987: amplitude is about 1 / frequency.
    small, large = spectrum.magnitudes((64, 64)), spectrum.magnitudes((256, 256))
    assert torch.allclose(small[:, 5, 7], large[:, 20, 28], rtol=1e-5)
    assert torch.allclose(small[:, -5, 7], large[:, -20, 28], rtol=1e-5)
    falls = (large[:, 0, 64] / large[:, 0, 8]).log() / torch.tensor(8.0).log()
    assert ((falls > -1.4) & (falls < -0.9)).all()


def test_other_numbers_of_colours_have_the_mean_of_three() -> None:
    three = spectrum.magnitudes((12, 18))
    for colours in (1, 5):
        maps = spectrum.magnitudes((12, 18), colours)
        assert torch.allclose(maps, three.mean(0).expand(colours, 12, 10))


def test_a_spectrum_is_found_again_on_its_polar_grid() -> None:
    radius, angle = spectrum.polar_frequencies((512, 512))
    known = -1.2 * radius.clamp_min(1e-9).log() + 0.3 * torch.cos(2 * angle)
    grid = spectrum.polar_mean(known.expand(3, -1, -1)).float()
    across = torch.linspace(0, 1, spectrum.RADII)
    nodes = math.log(spectrum.LOWEST) + across * math.log(spectrum.HIGHEST / spectrum.LOWEST)
    turns = torch.arange(spectrum.ANGLES) * torch.pi / spectrum.ANGLES
    wanted = -1.2 * nodes[:, None] + 0.3 * torch.cos(2 * turns)
    inner = slice(4, -2)  # few coefficients are near the first nodes, none beyond the last
    assert torch.allclose(grid[:, inner], wanted[inner].expand(3, -1, -1), atol=0.06)

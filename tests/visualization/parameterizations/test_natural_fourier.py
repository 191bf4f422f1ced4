"""Natural Fourier images: every octave of every colour has the energy of photographs."""

import pytest
import torch
from images import every_shape, images_of, only_parameter
from torch import Tensor

from layer_atlas.config.parameterizations import NaturalFourier
from layer_atlas.visualization import spectrum
from layer_atlas.visualization.parameterizations.base import Shape
from layer_atlas.visualization.parameterizations.natural_fourier import Octaves, _NaturalContrast

LARGE = (3, 96, 128)


def octave_energy(values: Tensor) -> Tensor:
    """Energy of values (B, C, H, W) in hard rings of an octave, fine to coarse: (B, C, 4)."""
    fy, fx = (torch.fft.fftfreq(side) for side in values.shape[2:])
    radius = torch.hypot(fy[:, None], fx[None, :])
    energy = torch.fft.fft2(values, norm="ortho").abs().square()
    rings = [(radius <= 0.5 / 2**k) & (radius > 0.25 / 2**k) for k in range(4)]
    return torch.stack([(energy * ring).sum(dim=(2, 3)) for ring in rings], dim=2)


@pytest.mark.parametrize("factor", [1.0, 30.0])
@pytest.mark.parametrize("power", [0.0, 1.3, 3.0])
def test_octaves_have_the_energy_of_photographs_whatever_the_coefficients(
    factor: float, power: float
) -> None:
    images = images_of(NaturalFourier(decay_power=power), LARGE)
    with torch.no_grad():
        row = only_parameter(images)
        row.view(len(row), -1)[:, ::3] *= factor
    found = octave_energy(images.values().detach())
    magnitudes = spectrum.magnitudes(LARGE[1:], 3)
    radius, _ = spectrum.polar_frequencies((LARGE[1], LARGE[2]))
    magnitudes = magnitudes / (1.0 + (radius.float() / 0.5) ** 4)
    photographs = octave_energy(torch.fft.irfft2(magnitudes + 0j, norm="ortho", s=LARGE[1:])[None])
    ratio = found / found.sum() / (photographs / photographs.sum()) * len(found)
    assert torch.allclose(ratio, torch.ones_like(ratio), rtol=0.05)


@every_shape
@pytest.mark.parametrize("contrast", [1.0, 2.0])
def test_each_sample_is_held_at_its_contrast(shape: Shape, contrast: float) -> None:
    images = images_of(NaturalFourier(contrast=contrast), shape)
    with torch.no_grad():
        only_parameter(images).mul_(torch.logspace(-2, 2, 8)[:, None])
    rms = images.values().square().mean((1, 2, 3)).sqrt()
    assert rms.tolist() == pytest.approx([contrast] * 8, rel=1e-4)


@every_shape
def test_every_coefficient_belongs_to_one_octave(shape: Shape) -> None:
    octaves = Octaves(shape, torch.device("cpu"))
    together = torch.zeros(octaves.size[:2])
    for mask in octaves.masks:
        together[octaves.order[: len(mask)]] += mask
    assert torch.equal(together, torch.ones(octaves.size[:2]))
    assert octaves.natural.shape == (shape[0], len(octaves.masks))
    shared, own = octaves.natural[0, 0], octaves.natural[:, 1:]
    assert float(shared + own.sum()) == pytest.approx(shape[0], rel=1e-4)


def test_colours_share_the_energy_of_the_coarsest_octave_alone() -> None:
    images = images_of(NaturalFourier(), LARGE)
    height, columns = LARGE[1], LARGE[2] // 2 + 1
    used = only_parameter(images).data[:, : 3 * height * columns * 2]
    used.view(-1, 3, height, columns, 2)[:, 1].mul_(30.0)
    values = images.values().detach()
    share = octave_energy(values)[:, 1] / octave_energy(values).sum(dim=1)
    coarse = torch.fft.rfft2(values)[:, :, 0, :2].abs().square().sum(dim=2)
    assert (coarse[:, 1] / coarse.sum(dim=1) > 0.9).all()
    assert (share[:, 0] < 0.5).all()


@pytest.mark.slow
def test_the_gradient_is_that_of_the_scaling() -> None:
    octaves = Octaves((3, 10, 12), torch.device("cpu"))
    octaves.masks = [mask.double() for mask in octaves.masks]
    octaves.natural, octaves.weight = octaves.natural.double(), octaves.weight.double()
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(2, 3, 10, 7, 2, generator=generator, dtype=torch.float64)
    amplitude = torch.rand(10, 7, 2, generator=generator, dtype=torch.float64) + 0.5
    assert torch.autograd.gradcheck(
        lambda x: _NaturalContrast.apply(x, amplitude, octaves), coefficients.requires_grad_()
    )


def test_images_of_one_pixel_and_of_a_line_are_rendered() -> None:
    for shape in ((3, 1, 1), (1, 2, 3), (3, 1, 16)):
        assert torch.isfinite(images_of(NaturalFourier(), shape)()).all()

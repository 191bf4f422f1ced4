"""Images as Fourier coefficients, and the inverse FFT that they share with maco."""

import pytest
import torch
from images import dataset_images, every_shape, images_of, only_parameter
from torch import Tensor

from layer_atlas.config.parameterizations import Fourier
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.models.colours import fixed_contrast, from_colours, to_colours
from layer_atlas.visualization.parameterizations.base import Shape
from layer_atlas.visualization.parameterizations.fourier import inverse_fft


@pytest.mark.parametrize("contrast", [1.0, 2.5])
def test_each_sample_is_held_at_its_contrast(contrast: float) -> None:
    images = images_of(Fourier(contrast=contrast), (3, 24, 24))
    before = images()
    with torch.no_grad():
        only_parameter(images).mul_(torch.logspace(-2, 2, 8)[:, None])
    assert torch.allclose(images(), before, atol=1e-5)
    # Undo sigmoid and colours: what remains has the contrast as its root mean square.
    colours = to_colours(torch.eye(3)[:, :, None, None]).logit()[:, :, 0, 0]
    values = torch.einsum("ic,bihw->bchw", torch.linalg.inv(colours.T).T, before.logit())
    assert values.square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx(
        [contrast] * 8, rel=1e-3
    )


@pytest.mark.parametrize("power", [0.0, 1.5])
def test_amplitude_falls_with_frequency_by_the_power(power: float) -> None:
    shape = (3, 64, 48)
    images = images_of(Fourier(decay_power=power, contrast=0.1), shape)().detach()
    amplitude = torch.fft.fft2(images.logit()).abs().mean(dim=(0, 1))
    fy, fx = (torch.fft.fftfreq(side) for side in shape[1:])
    radius = torch.hypot(fy[:, None], fx[None, :])
    ring = (radius > 0.06) & (radius < 0.44)
    x, y = radius[ring].log(), amplitude[ring].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert float(slope) == pytest.approx(-power, abs=0.1)


def test_every_pixel_of_every_colour_can_be_moved() -> None:
    images = images_of(Fourier(), (3, 17, 17))
    rendered = images()
    for pixel in ((0, 0, 0), (1, 16, 16), (2, 8, 3)):
        (gradient,) = torch.autograd.grad(
            rendered[(0, *pixel)], only_parameter(images), retain_graph=True
        )
        assert gradient[0].abs().max() > 1e-4


@every_shape
@pytest.mark.parametrize("config", [Fourier(), Fourier(decay_power=0.5, contrast=1.0)], ids=str)
def test_a_photograph_is_given_back_up_to_contrast(config: Fourier, shape: Shape) -> None:
    wanted = dataset_images(shape)
    images = images_of(config, shape, init=DatasetInit(), dataset_images=wanted)
    at_contrast = fixed_contrast(from_colours(wanted), config.contrast)
    assert torch.allclose(images.values(), at_contrast, atol=1e-3)
    used = shape[0] * shape[1] * (shape[2] // 2 + 1) * 2
    size = only_parameter(images).detach()[:, :used].square().mean(1).sqrt()
    assert torch.allclose(size, torch.tensor(config.initial_sd))


@pytest.mark.parametrize("width", [6, 7])
def test_inverse_fft_and_its_gradient_are_those_of_torch(width: int) -> None:
    coefficients, amplitude = doubles(2, 3, 5, width // 2 + 1, 2), doubles(5, width // 2 + 1, 2)
    amplitude = amplitude.detach().abs()
    spectrum = torch.view_as_complex(coefficients * amplitude)
    expected = torch.fft.irfft2(spectrum, s=(5, width), norm="ortho")
    assert torch.allclose(inverse_fft(coefficients, amplitude, width), expected)
    assert torch.autograd.gradcheck(lambda x: inverse_fft(x, amplitude, width), coefficients)


def doubles(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

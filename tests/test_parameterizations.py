"""Parameterizations: what the family promises, checked on every member at once."""

import pytest
import torch
from torch import Tensor, nn
from toys import make_recipe

from pipeline import rng
from pipeline.parameterizations import (
    _FixedContrast,
    _InverseFFT,
    make_parameterization,
    to_colours,
)
from pipeline.recipe import Fourier, Pixel

KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in (11, 22, 33)])
FAMILY = [Fourier(), Fourier(decay_power=0.0, contrast=3.0), Pixel(), Pixel(initial_sd=2.0)]
SIZES = [16, 17, 24]

every_member = pytest.mark.parametrize("config", FAMILY, ids=str)
every_size = pytest.mark.parametrize("size", SIZES)


def images_of(config: Fourier | Pixel, size: int = 16, keys: Tensor = KEYS) -> nn.Module:
    return make_parameterization(make_recipe(config, image_size=size), keys)


def only_parameter(images: nn.Module) -> nn.Parameter:
    (parameter,) = images.parameters()
    return parameter


@every_member
@every_size
def test_renders_batches_of_images_in_range(config: Fourier | Pixel, size: int) -> None:
    images = images_of(config, size)
    rendered = images()
    assert rendered.shape == (3, 3, size, size)
    assert rendered.dtype == torch.float32
    assert rendered.std() > 0.01
    with torch.no_grad():
        only_parameter(images).mul_(1e4)
    for pictures in (rendered, images()):
        assert (pictures.min() >= 0) & (pictures.max() <= 1)
        assert torch.isfinite(pictures).all()


@every_member
@every_size
def test_parameters_are_one_row_of_whole_cache_lines_per_job(
    config: Fourier | Pixel, size: int
) -> None:
    parameter = only_parameter(images_of(config, size))
    assert parameter.ndim == 2
    assert len(parameter) == len(KEYS)
    assert parameter.shape[1] % 64 == 0
    assert parameter.requires_grad


@every_member
@every_size
def test_sample_comes_from_its_own_key_alone(config: Fourier | Pixel, size: int) -> None:
    together = images_of(config, size)()
    assert torch.equal(images_of(config, size, KEYS.flip(0))(), together.flip(0))
    for b in range(len(KEYS)):
        assert torch.equal(images_of(config, size, KEYS[b : b + 1])()[0], together[b])
    assert not torch.equal(together[0], together[1])


@every_member
@every_size
def test_sample_depends_on_its_own_row_alone(config: Fourier | Pixel, size: int) -> None:
    images = images_of(config, size)
    parameter = only_parameter(images)
    weight = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    for b, picture in enumerate(images()):
        (gradient,) = torch.autograd.grad((picture * weight).sum(), parameter, retain_graph=True)
        assert gradient[b].abs().sum() > 0
        gradient[b] = 0
        assert gradient.abs().sum() == 0


@every_member
def test_gradient_of_a_sample_has_the_same_bits_alone_and_in_company(
    config: Fourier | Pixel,
) -> None:
    def gradient(keys: Tensor) -> Tensor:
        images = images_of(config, keys=keys)
        images()[:, 0].square().sum().backward()
        return only_parameter(images).grad

    assert torch.equal(gradient(KEYS[1:2])[0], gradient(KEYS)[1])


@pytest.mark.parametrize("contrast", [1.0, 2.5])
def test_fourier_holds_each_sample_at_its_contrast(contrast: float) -> None:
    images = images_of(Fourier(contrast=contrast), 24)
    before = images()
    with torch.no_grad():
        only_parameter(images).mul_(torch.tensor([[0.01], [1.0], [100.0]]))
    assert torch.allclose(images(), before, atol=1e-5)
    # Undo sigmoid and colours: what remains has the contrast as its standard deviation.
    colours = to_colours(torch.eye(3)[:, :, None, None]).logit()[:, :, 0, 0]
    values = torch.einsum("ic,bihw->bchw", torch.linalg.inv(colours.T).T, before.logit())
    assert values.flatten(1).std(dim=1).tolist() == pytest.approx([contrast] * 3, rel=1e-3)


@pytest.mark.parametrize("power", [0.0, 1.5])
def test_fourier_amplitude_falls_with_frequency_by_the_power(power: float) -> None:
    images = images_of(Fourier(decay_power=power, contrast=0.1), 64)().detach()
    amplitude = torch.fft.fft2(images.logit()).abs().mean(dim=(0, 1))
    frequency = torch.fft.fftfreq(64, 1 / 64)
    radius = torch.hypot(frequency[:, None], frequency[None, :])
    ring = (radius > 3) & (radius < 28)
    x, y = radius[ring].log(), amplitude[ring].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert float(slope) == pytest.approx(-power, abs=0.1)


def test_fourier_can_move_every_pixel_of_every_colour() -> None:
    images = images_of(Fourier(), 17)
    rendered = images()
    for pixel in ((0, 0, 0), (1, 16, 16), (2, 8, 3)):
        (gradient,) = torch.autograd.grad(
            rendered[(0, *pixel)], only_parameter(images), retain_graph=True
        )
        assert gradient[0].abs().max() > 1e-4


def test_colours_of_known_values() -> None:
    grey = to_colours(torch.zeros(1, 3, 2, 2))
    assert torch.equal(grey, torch.full((1, 3, 2, 2), 0.5))
    unit = torch.zeros(1, 3, 1, 1)
    unit[0, 0] = 1.0
    scale = (0.26**2 + 0.27**2 + 0.27**2) ** 0.5
    expected = torch.tensor([0.26, 0.27, 0.27]) / scale
    assert torch.allclose(to_colours(unit)[0, :, 0, 0], torch.sigmoid(expected))


def test_pixel_starts_with_the_noise_it_is_told() -> None:
    narrow, wide = (
        images_of(Pixel(initial_sd=sd), 24)().detach().logit().std() for sd in (0.1, 0.4)
    )
    assert float(wide / narrow) == pytest.approx(4, rel=1e-3)


# --- gradients of our own ---


def doubles(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("width", [6, 7])
def test_inverse_fft_and_its_gradient_are_those_of_torch(width: int) -> None:
    coefficients, amplitude = doubles(2, 3, 5, width // 2 + 1, 2), doubles(5, width // 2 + 1, 2)
    amplitude = amplitude.detach().abs()
    spectrum = torch.view_as_complex(coefficients * amplitude)
    expected = torch.fft.irfft2(spectrum, s=(5, width), norm="ortho")
    values = _InverseFFT.apply(coefficients, amplitude, width)
    assert torch.allclose(values, expected)
    assert torch.autograd.gradcheck(lambda x: _InverseFFT.apply(x, amplitude, width), coefficients)


def test_contrast_is_fixed_and_its_gradient_the_true_one() -> None:
    values = doubles(2, 3, 4, 5)
    scaled = _FixedContrast.apply(values * 7 + 2, 1.5)
    assert torch.allclose(scaled.flatten(1).std(dim=1, correction=0), torch.tensor(1.5).double())
    assert torch.autograd.gradcheck(lambda x: _FixedContrast.apply(x + 0.3, 1.5), values)

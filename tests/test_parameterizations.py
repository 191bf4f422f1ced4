"""Parameterizations: what the family promises, checked on every member at once."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import make_recipe

from pipeline import rng, spectrum
from pipeline.colours import fixed_contrast, from_colours, to_colours
from pipeline.parameterizations import (
    MacoImages,
    Parameterization,
    _InverseFFT,
    make_parameterization,
)
from pipeline.recipe import DatasetInit, Fourier, Init, Maco, Pixel, SpectrumInit

KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in (11, 22, 33)])
Member = Fourier | Pixel | Maco
FAMILY: list[Member] = [
    Fourier(),
    Fourier(decay_power=0.0, contrast=3.0),
    Pixel(),
    Pixel(initial_sd=2.0),
    Maco(),
]
SIZES = [16, 17, 24]

every_member = pytest.mark.parametrize("config", FAMILY, ids=str)
every_size = pytest.mark.parametrize("size", SIZES)


def images_of(
    config: Member,
    size: int = 16,
    keys: Tensor = KEYS,
    init: Init | None = None,
    photographs: Tensor | None = None,
) -> Parameterization:
    recipe = make_recipe(config, image_size=size)
    recipe = recipe if init is None else replace(recipe, init=init)
    return make_parameterization(recipe, keys, photographs)


def only_parameter(images: nn.Module) -> nn.Parameter:
    (parameter,) = images.parameters()
    return parameter


@every_member
@every_size
def test_renders_batches_of_images_in_range(config: Member, size: int) -> None:
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
def test_parameters_are_one_row_of_whole_cache_lines_per_job(config: Member, size: int) -> None:
    parameter = only_parameter(images_of(config, size))
    assert parameter.ndim == 2
    assert len(parameter) == len(KEYS)
    assert parameter.shape[1] % 64 == 0
    assert parameter.requires_grad


@every_member
@every_size
def test_sample_comes_from_its_own_key_alone(config: Member, size: int) -> None:
    together = images_of(config, size)()
    assert torch.equal(images_of(config, size, KEYS.flip(0))(), together.flip(0))
    for b in range(len(KEYS)):
        assert torch.equal(images_of(config, size, KEYS[b : b + 1])()[0], together[b])
    assert not torch.equal(together[0], together[1])


@every_member
@every_size
def test_sample_depends_on_its_own_row_alone(config: Member, size: int) -> None:
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
    config: Member,
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
    # Undo sigmoid and colours: what remains has the contrast as its root mean square.
    colours = to_colours(torch.eye(3)[:, :, None, None]).logit()[:, :, 0, 0]
    values = torch.einsum("ic,bihw->bchw", torch.linalg.inv(colours.T).T, before.logit())
    assert values.square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx(
        [contrast] * 3, rel=1e-3
    )


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


# --- maco ---

every_shape = pytest.mark.parametrize("size", [(16, 16), (17, 17), (12, 18), (15, 20)], ids=str)


def maco(size: tuple[int, int]) -> MacoImages:
    return MacoImages(Maco(), size, KEYS)


def own_mirror_images(size: tuple[int, int]) -> Tensor:
    """Whether a real-FFT coefficient is its own mirror image, by the definition."""
    rows, columns = torch.arange(size[0])[:, None], torch.arange(size[1] // 2 + 1)[None, :]
    return (2 * rows % size[0] == 0) & (2 * columns % size[1] == 0)


@every_shape
def test_maco_has_the_magnitudes_of_photographs_whatever_its_phases(size: tuple[int, int]) -> None:
    images = maco(size)
    with torch.no_grad():
        only_parameter(images).mul_(3.7).add_(1.0)
    found = torch.fft.rfft2(images.values(), norm="ortho").abs()
    ratio = found / spectrum.magnitudes(size)
    free = ~own_mirror_images(size)
    for sample in ratio:
        factor = sample[:, free].mean()
        assert torch.allclose(sample[:, free], factor.expand_as(sample[:, free]), rtol=1e-3)
        assert (sample[:, ~free] <= factor * 1.001).all()


@every_shape
def test_maco_reaches_any_phases(size: tuple[int, int]) -> None:
    wanted = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0))
    images = maco(size)
    images.encode(wanted)
    free = ~own_mirror_images(size)
    made, asked = (torch.fft.rfft2(x)[..., free] for x in (images.values(), wanted))
    assert torch.allclose(made / made.abs(), asked / asked.abs(), atol=1e-3)


@every_shape
def test_maco_gradient_is_the_true_one(size: tuple[int, int]) -> None:
    images = maco(size).double()
    weight = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(0)).double()

    class Values(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.images = images

        def forward(self) -> Tensor:
            return self.images.values()

    def score(phases: Tensor) -> Tensor:
        values = torch.func.functional_call(Values(), {"images.phases": phases})
        return (values * weight).sum((1, 2, 3))

    phases = only_parameter(images).detach()
    slope = torch.randn(phases.shape, generator=torch.Generator().manual_seed(1)).double()
    (gradient,) = torch.autograd.grad(score(phases.requires_grad_()).sum(), phases)
    measured = (score(phases + 1e-6 * slope) - score(phases - 1e-6 * slope)) / 2e-6
    assert torch.allclose((gradient * slope).sum(1), measured, rtol=1e-5)


def test_maco_starts_from_phases_all_around() -> None:
    phases = only_parameter(maco((32, 32))).detach()[:, : 3 * 32 * 17]
    assert -torch.pi < phases.min() < -3.1
    assert 3.1 < phases.max() < torch.pi
    assert float(phases.cos().mean().abs()) < 0.03


def test_magnitudes_fall_as_those_of_photographs_and_do_not_depend_on_the_size() -> None:
    # Field 1987: amplitude is about 1 / frequency.
    small, large = spectrum.magnitudes((64, 64)), spectrum.magnitudes((256, 256))
    assert torch.allclose(small[:, 5, 7], large[:, 20, 28], rtol=1e-5)
    assert torch.allclose(small[:, -5, 7], large[:, -20, 28], rtol=1e-5)
    falls = (large[:, 0, 64] / large[:, 0, 8]).log() / torch.tensor(8.0).log()
    assert ((falls > -1.4) & (falls < -0.9)).all()


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


# --- starts ---


def photographs(size: int) -> Tensor:
    """Pictures with black, white and everything between."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    return smooth.sub(0.5).mul(2.0).add(0.5).clamp(0, 1)


def test_colours_and_their_inverse() -> None:
    images = photographs(16).clamp(0.01, 0.99)
    assert torch.allclose(to_colours(from_colours(images)), images, atol=1e-5)
    extremes = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert torch.allclose(to_colours(from_colours(extremes)), extremes, atol=0.003)


@every_size
def test_pixels_give_a_photograph_back(size: int) -> None:
    wanted = photographs(size)
    images = images_of(Pixel(), size, init=DatasetInit(), photographs=wanted)
    assert torch.allclose(images(), wanted, atol=0.003)


@every_size
@pytest.mark.parametrize("config", [Fourier(), Fourier(decay_power=0.5, contrast=1.0)], ids=str)
def test_fourier_gives_a_photograph_back_up_to_contrast(config: Fourier, size: int) -> None:
    wanted = photographs(size)
    images = images_of(config, size, init=DatasetInit(), photographs=wanted)
    at_contrast = fixed_contrast(from_colours(wanted), config.contrast)
    assert torch.allclose(images.values(), at_contrast, atol=1e-3)
    used = only_parameter(images).detach()[:, : 3 * size * (size // 2 + 1) * 2]
    assert torch.allclose(used.square().mean(1).sqrt(), torch.tensor(config.initial_sd))


def test_maco_gives_the_structure_of_a_photograph_back() -> None:
    # Phases alone carry it (Oppenheim & Lim 1981).
    wanted = photographs(24)
    images = images_of(Maco(), 24, init=DatasetInit(), photographs=wanted)
    made, asked = images.values().flatten(1), from_colours(wanted).flatten(1)
    own = torch.cosine_similarity(made, asked)
    others = torch.cosine_similarity(made, asked.roll(1, 0))
    assert (own > 0.5).all()
    assert (own > others + 0.3).all()


@every_member
def test_a_start_from_the_spectrum_has_that_of_photographs(config: Member) -> None:
    images = images_of(config, 16, init=SpectrumInit())
    found = torch.fft.rfft2(images.values(), norm="ortho").abs()[:, :, 1:8, 1:-1]
    for sample in found / spectrum.magnitudes((16, 16))[:, 1:8, 1:-1]:
        assert torch.allclose(sample, sample.mean().expand_as(sample), rtol=1e-2)
    alone = images_of(config, 16, KEYS[1:2], init=SpectrumInit())
    assert torch.equal(alone()[0], images()[1])
    assert not torch.equal(images()[0], images()[1])


@every_member
def test_a_start_depends_on_its_own_photograph_alone(config: Member) -> None:
    wanted = photographs(17)
    together = images_of(config, 17, init=DatasetInit(), photographs=wanted)()
    for b in range(3):
        one = slice(b, b + 1)
        alone = images_of(config, 17, KEYS[one], DatasetInit(), wanted[one])()
        assert torch.equal(alone[0], together[b])


def test_a_start_from_the_dataset_needs_photographs() -> None:
    with pytest.raises(ValueError, match="init=dataset"):
        images_of(Fourier(), init=DatasetInit())


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
    scaled = fixed_contrast(values * 7 + 2, 1.5)
    assert torch.allclose(scaled.square().mean((1, 2, 3)).sqrt(), torch.tensor(1.5).double())
    assert torch.autograd.gradcheck(lambda x: fixed_contrast(x + 0.3, 1.5), values)

"""Images as spectra: the inverse FFT, octaves with the energy of photographs, phases alone."""

import pytest
import torch
from images import KEYS, dataset_images, every_shape, images_of, only_parameter
from torch import Tensor, nn

from layer_atlas.config.parameterizations import Fourier, Maco, NaturalFourier
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.models.pixels import fixed_contrast, from_colours, to_colours
from layer_atlas.visualization import spectrum
from layer_atlas.visualization.parameterizations.base import Shape
from layer_atlas.visualization.parameterizations.fourier import (
    MacoImages,
    Octaves,
    _NaturalImages,
    inverse_fft,
)


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


# --- natural Fourier ------------------------------------------------------------------------------


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
def test_each_natural_sample_is_held_at_its_contrast(shape: Shape, contrast: float) -> None:
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
        together[octaves.order[: len(mask)], : mask.shape[1]] += mask
    assert torch.equal(together, octaves.multiplicity[:, 0].expand(octaves.size[:2]))
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
    octaves.natural = octaves.natural.double()
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(2, 3, 10, 7, 2, generator=generator, dtype=torch.float64)
    amplitude = torch.rand(10, 7, 2, generator=generator, dtype=torch.float64) + 0.5
    scale = amplitude * octaves.multiplicity / 2.0
    assert torch.autograd.gradcheck(
        lambda x: _NaturalImages.apply(x, scale, octaves, 2.5, 12), coefficients.requires_grad_()
    )


def test_images_of_one_pixel_and_of_a_line_are_rendered() -> None:
    for shape in ((3, 1, 1), (1, 2, 3), (3, 1, 16)):
        assert torch.isfinite(images_of(NaturalFourier(), shape)()).all()


# --- MACO -----------------------------------------------------------------------------------------


def maco(shape: Shape) -> MacoImages:
    return MacoImages(Maco(), shape, KEYS)


def own_mirror_images(shape: Shape) -> Tensor:
    """Whether a real-FFT coefficient is its own mirror image, by the definition."""
    _, height, width = shape
    rows, columns = torch.arange(height)[:, None], torch.arange(width // 2 + 1)[None, :]
    return (2 * rows % height == 0) & (2 * columns % width == 0)


@every_shape
def test_magnitudes_are_those_of_photographs_whatever_the_phases(shape: Shape) -> None:
    images = maco(shape)
    with torch.no_grad():
        only_parameter(images).mul_(3.7).add_(1.0)
    found = torch.fft.rfft2(images.values(), norm="ortho").abs()
    ratio = found / spectrum.magnitudes(shape[1:], shape[0])
    free = ~own_mirror_images(shape)
    for sample in ratio:
        factor = sample[:, free].mean()
        assert torch.allclose(sample[:, free], factor.expand_as(sample[:, free]), rtol=1e-3)
        assert (sample[:, ~free] <= factor * 1.001).all()


@every_shape
def test_any_phases_are_reached(shape: Shape) -> None:
    wanted = torch.randn(len(KEYS), *shape, generator=torch.Generator().manual_seed(0))
    images = maco(shape)
    images.encode(wanted)
    free = ~own_mirror_images(shape)
    made, asked = (torch.fft.rfft2(x)[..., free] for x in (images.values(), wanted))
    assert torch.allclose(made / made.abs(), asked / asked.abs(), atol=1e-3)


@every_shape
def test_the_gradient_is_the_true_one(shape: Shape) -> None:
    images = maco(shape).double()
    weight = torch.randn(len(KEYS), *shape, generator=torch.Generator().manual_seed(0)).double()

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


def test_phases_start_all_around() -> None:
    phases = only_parameter(maco((3, 32, 32))).detach()[:, : 3 * 32 * 17]
    assert -torch.pi < phases.min() < -3.1
    assert 3.1 < phases.max() < torch.pi
    assert float(phases.cos().mean().abs()) < 0.03


def test_the_structure_of_a_photograph_is_given_back() -> None:
    # Phases alone carry it (Oppenheim & Lim 1981).
    shape = (3, 24, 24)
    wanted = dataset_images(shape)
    images = images_of(Maco(), shape, init=DatasetInit(), dataset_images=wanted)
    made, asked = images.values().flatten(1), from_colours(wanted).flatten(1)
    own = torch.cosine_similarity(made, asked)
    others = torch.cosine_similarity(made, asked.roll(1, 0))
    assert (own > 0.5).all()
    assert (own > others + 0.3).all()


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 32, 32), (3, 45, 68), (3, 96, 96)], ids=str)
@pytest.mark.parametrize("config", [Fourier(), NaturalFourier()], ids=lambda c: c.name)
def test_images_and_gradients_have_the_same_bits_for_any_number_of_threads(
    config: Fourier | NaturalFourier, shape: Shape
) -> None:
    def rendered(threads: int) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(threads)
        images = images_of(config, shape)
        values = images.values()
        values.backward(torch.linspace(-1, 1, values.numel()).view_as(values))
        return values.detach().clone(), only_parameter(images).grad.clone()

    before = torch.get_num_threads()
    try:
        alone, together = rendered(1), rendered(4)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, alone, together))

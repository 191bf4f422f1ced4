"""Parameterizations: what is optimised, and how it becomes an image.

The contract of the family: a `Parameterization` made for a batch of B jobs,
- whose parameters are (B, P), and whose sample b depends on row b alone,
- whose `forward()` renders images (B, 3, H, W) in [0, 1], differentiably,
- whose initial values come from the job keys alone (`rng`), or
- from values (B, 3, H, W) that `encode` takes: rendering then gives them back, up to contrast.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import rng, spectrum
from pipeline.colours import fixed_contrast, from_colours, to_colours
from pipeline.recipe import DatasetInit, Fourier, Maco, Pixel, Recipe, SpectrumInit

_CACHE_LINE = 64


class Parameterization(nn.Module, ABC):
    """What the family promises; "values" are images in decorrelated colours before the sigmoid."""

    def forward(self) -> Tensor:
        """Render: images (B, 3, H, W) in [0, 1]."""
        return to_colours(self.values())

    @abstractmethod
    def values(self) -> Tensor:
        """The values of the images: (B, 3, H, W)."""

    @abstractmethod
    def encode(self, values: Tensor) -> None:
        """Set the parameters to those of given values (B, 3, H, W)."""

    @abstractmethod
    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place."""


def make_parameterization(
    recipe: Recipe, keys: Tensor, photographs: Tensor | None = None
) -> Parameterization:
    """The recipe's parameterization at its start.

    Args:
        recipe: which, and where it starts.
        keys: (B, 2) int64, random keys of the jobs.
        photographs: (B, 3, H, W) in [0, 1], which `init=dataset` starts from.
    Raises:
        ValueError: `init=dataset` without photographs.
    """
    size = recipe.image_size
    images = _at_random(recipe.parameterization, size, keys)
    if isinstance(recipe.init, SpectrumInit):
        images.encode(spectral_noise(size, keys))
    if isinstance(recipe.init, DatasetInit):
        if photographs is None:
            raise ValueError("init=dataset needs a photograph for every job.")
        images.encode(from_colours(photographs))
    return images


def _at_random(
    config: Fourier | Pixel | Maco, size: tuple[int, int], keys: Tensor
) -> Parameterization:
    if isinstance(config, Fourier):
        return FourierImages(config, size, keys)
    if isinstance(config, Maco):
        return MacoImages(config, size, keys)
    return PixelImages(config, size, keys)


class FourierImages(Parameterization):
    """Images as real-FFT coefficients, so that a gradient step moves all scales at once.

    Olah et al. 2017, "Feature Visualization", preconditioning. After the inverse FFT each sample is
    divided by its own root mean square: the optimizer can move contrast about, but not raise it,
    which keeps pixels out of the flat ends of the sigmoid and colours natural.

    Parameters: coefficients (B, P), of which the first 3 * H * (W // 2 + 1) * 2 are the real and
    imaginary parts of the spectrum.
    """

    amplitude: Tensor

    def __init__(self, config: Fourier, size: tuple[int, int], keys: Tensor) -> None:
        super().__init__()
        self.width, self.contrast, self.initial_sd = size[1], config.contrast, config.initial_sd
        self.shape = (3, size[0], size[1] // 2 + 1, 2)
        self.coefficients = _noise(keys, self.shape, config.initial_sd)
        self.register_buffer("amplitude", _decay(size, config.decay_power).to(keys.device))

    def values(self) -> Tensor:
        """The values of the images: (B, 3, H, W)."""
        coefficients = _rows(self.coefficients, self.shape)
        values: Tensor = _InverseFFT.apply(coefficients, self.amplitude, self.width)
        return fixed_contrast(values, self.contrast)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the coefficients to those of values (B, 3, H, W), at their initial size."""
        found = torch.view_as_real(torch.fft.rfft2(values, norm="ortho")) / self.amplitude
        size = found.square().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-12).sqrt()
        _rows(self.coefficients, self.shape).copy_(found * (self.initial_sd / size))

    @torch.no_grad()
    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place."""
        _rows(self.coefficients, self.shape).mul_(transfer.unsqueeze(-1))


class _InverseFFT(torch.autograd.Function):
    """Scaled real-FFT coefficients (B, 3, H, W // 2 + 1, 2) to values (B, 3, H, W).

    The same as torch's irfft2 in half its time on a CPU: two one-dimensional passes forward, and
    backward one rfft2 whose scaling is merged into that of the coefficients.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, amplitude: Tensor, width: int) -> Tensor:
        ctx.save_for_backward(amplitude)
        ctx.width = width
        spectrum = torch.view_as_complex(coefficients * amplitude)
        columns = torch.fft.ifft(spectrum, dim=-2, norm="ortho")
        values: Tensor = torch.fft.irfft(columns, n=width, norm="ortho")
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (amplitude,) = ctx.saved_tensors
        # A column of the half spectrum stands for its mirror image too, unless it is its own.
        weight = amplitude * _multiplicity(ctx.width, amplitude.device)
        return torch.view_as_real(torch.fft.rfft2(grads[0], norm="ortho")) * weight, None, None


@cache
def _multiplicity(width: int, device: torch.device) -> Tensor:
    """How many columns of the full spectrum each column of the half stands for: (K, 1)."""
    return torch.where(_alone(width // 2 + 1, width), 1.0, 2.0).unsqueeze(-1).to(device)


def _alone(count: int, period: int) -> Tensor:
    """Which of the first frequencies, in whole waves per period, are their own mirror images."""
    return torch.arange(count) * 2 % period == 0


def _mirrored(size: tuple[int, int]) -> Tensor:
    """1 where a real-FFT coefficient has its mirror image in its own column, else 0: (H, K)."""
    height, width = size
    return (~_alone(height, height)[:, None] & _alone(width // 2 + 1, width)[None, :]).float()


class PixelImages(Parameterization):
    """Images as free pixels, in decorrelated colours.

    Parameters: pixels (B, P), of which the first 3 * H * W are the values.
    """

    def __init__(self, config: Pixel, size: tuple[int, int], keys: Tensor) -> None:
        super().__init__()
        self.shape = (3, *size)
        self.pixels = _noise(keys, self.shape, config.initial_sd)

    def values(self) -> Tensor:
        """The values of the images: (B, 3, H, W)."""
        return _rows(self.pixels, self.shape)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the pixels to values (B, 3, H, W)."""
        self.values().copy_(values)

    @torch.no_grad()
    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place."""
        values = self.values()
        values.copy_(torch.fft.irfft2(torch.fft.rfft2(values) * transfer, s=self.shape[1:]))


class MacoImages(Parameterization):
    """Images as phases; the magnitudes of their spectra are those of photographs.

    MACO of Fel et al. 2023, "Unlocking Feature Visualization for Deeper Networks with MAgnitude
    Constrained Optimization" (arXiv 2306.06805): no step can add high frequencies, nor
    anything else that photographs do not have. Magnitudes are kept up to one factor per sample,
    the contrast. The four coefficients that are their own mirror images are real and have no phase;
    they range between plus and minus their magnitude, as the cosine of the parameter.

    Parameters: phases (B, P), of which the first 3 * H * (W // 2 + 1) are used.
    """

    magnitude: Tensor
    mirrored: Tensor

    def __init__(self, config: Maco, size: tuple[int, int], keys: Tensor) -> None:
        super().__init__()
        self.width, self.contrast = size[1], config.contrast
        self.shape = (3, size[0], size[1] // 2 + 1)
        self.phases = _uniform_phases(keys, self.shape)
        magnitude = spectrum.magnitudes(size).unsqueeze(-1)
        self.register_buffer("magnitude", magnitude.to(keys.device))
        self.register_buffer("mirrored", _mirrored(size).to(keys.device))

    def values(self) -> Tensor:
        """The values of the images: (B, 3, H, W)."""
        phases = _rows(self.phases, self.shape)
        # A column that is its own mirror image is made of pairs of opposite phase.
        phases = phases - self.mirrored * phases.flip(2).roll(1, dims=2)
        waves = torch.stack([phases.cos(), phases.sin()], dim=-1)
        values: Tensor = _InverseFFT.apply(waves, self.magnitude, self.width)
        return fixed_contrast(values, self.contrast)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the phases to those of values (B, 3, H, W); their magnitudes are lost."""
        # The angle in double, because torch rounds it by where in memory a number lies.
        found = torch.fft.rfft2(values).to(torch.complex128).angle().float()
        _rows(self.phases, self.shape).copy_(found / (1.0 + self.mirrored))

    def blur_(self, transfer: Tensor) -> None:
        """Nothing: `transfer` is above 0, so phases keep, and magnitudes are fixed."""


def spectral_noise(size: tuple[int, int], keys: Tensor) -> Tensor:
    """Random values (B, 3, H, W) with the spectrum of photographs and a contrast of 1."""
    return MacoImages(Maco(contrast=1.0), size, keys).values().detach()


def _decay(size: tuple[int, int], power: float) -> Tensor:
    """Amplitude of each real-FFT coefficient: frequency ** -power, (H, W // 2 + 1, 2)."""
    fy = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(size[1], dtype=torch.float64)[None, :]
    frequency = torch.sqrt(fy**2 + fx**2).clamp_min(1.0 / max(size))
    return (frequency**-power)[..., None].expand(-1, -1, 2).float().contiguous()


def _noise(keys: Tensor, shape: Sequence[int], sd: float) -> nn.Parameter:
    """Initial parameters (B, P): normal noise, P being the size of `shape` rounded up."""
    return _padded(rng.normal(keys, rng.INITIAL, math.prod(shape)) * sd)


def _uniform_phases(keys: Tensor, shape: Sequence[int]) -> nn.Parameter:
    """Initial parameters (B, P) in (-pi, pi), P being the size of `shape` rounded up."""
    return _padded(
        (rng.uniform(keys, rng.INITIAL, 1, math.prod(shape))[:, 0] * 2.0 - 1.0) * torch.pi
    )


def _padded(values: Tensor) -> nn.Parameter:
    """Parameters of which each row is rounded up to whole cache lines with zeros.

    Fused Adam treats the odd end of a tensor with other instructions, and where that end lies would
    depend on the batch size.
    """
    return nn.Parameter(nn.functional.pad(values, (0, -values.shape[1] % _CACHE_LINE)))


def _rows(parameters: Tensor, shape: Sequence[int]) -> Tensor:
    """The rows of parameters (B, P) as (B, *shape), without their padding."""
    return parameters[:, : math.prod(shape)].view(len(parameters), *shape)

"""Parameterizations: what is optimised, and how it becomes an image.

The contract of the family: an `nn.Module` made for a batch of B jobs,
- whose parameters are (B, P), and whose sample b depends on row b alone,
- whose `forward()` renders images (B, 3, H, W) in [0, 1], differentiably,
- whose initial values come from the job keys alone (`rng`).
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import rng
from pipeline.recipe import Fourier, Pixel, Recipe

# Square root of the covariance of ImageNet's RGB values (Olah et al. 2017, "Feature Visualization",
# appendix on preconditioning): its columns are the directions in which natural colours vary.
_COLOUR_DIRECTIONS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_CACHE_LINE = 64
_COLOUR_SCALE = max(sum(row[i] ** 2 for row in _COLOUR_DIRECTIONS) ** 0.5 for i in range(3))


def make_parameterization(recipe: Recipe, keys: Tensor) -> nn.Module:
    """The recipe's parameterization for the jobs whose random keys are given: (B, 2) int64."""
    config = recipe.parameterization
    size = (recipe.image_size, recipe.image_size)
    if isinstance(config, Fourier):
        return FourierImages(config, size, keys)
    return PixelImages(config, size, keys)


class FourierImages(nn.Module):
    """Images as real-FFT coefficients, so that a gradient step moves all scales at once.

    Olah et al. 2017, "Feature Visualization", preconditioning. After the inverse FFT each sample is
    divided by its own standard deviation: the optimizer can move contrast about, but not raise it,
    which keeps pixels out of the flat ends of the sigmoid and colours natural.

    Parameters: coefficients (B, P), of which the first 3 * H * (W // 2 + 1) * 2 are the real and
    imaginary parts of the spectrum.
    """

    amplitude: Tensor

    def __init__(self, config: Fourier, size: tuple[int, int], keys: Tensor) -> None:
        super().__init__()
        self.width, self.contrast = size[1], config.contrast
        self.shape = (3, size[0], size[1] // 2 + 1, 2)
        self.coefficients = _noise(keys, self.shape, config.initial_sd)
        self.register_buffer("amplitude", _decay(size, config.decay_power).to(keys.device))

    def forward(self) -> Tensor:
        """Render: images (B, 3, H, W) in [0, 1]."""
        coefficients = _rows(self.coefficients, self.shape)
        values: Tensor = _InverseFFT.apply(coefficients, self.amplitude, self.width)
        return to_colours(_FixedContrast.apply(values, self.contrast))


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
    columns = torch.arange(width // 2 + 1, device=device)
    alone = (columns == 0) | (2 * columns == width)
    return torch.where(alone, 1.0, 2.0).unsqueeze(-1)


class PixelImages(nn.Module):
    """Images as free pixels, in decorrelated colours.

    Parameters: values (B, P), of which the first 3 * H * W are the pixels.
    """

    def __init__(self, config: Pixel, size: tuple[int, int], keys: Tensor) -> None:
        super().__init__()
        self.shape = (3, *size)
        self.values = _noise(keys, self.shape, config.initial_sd)

    def forward(self) -> Tensor:
        """Render: images (B, 3, H, W) in [0, 1]."""
        return to_colours(_rows(self.values, self.shape))


def to_colours(values: Tensor) -> Tensor:
    """Decorrelated values (B, 3, H, W) to RGB images in [0, 1]: colour matrix, then sigmoid."""
    rgb: Tensor = _Sigmoid.apply(torch.matmul(_colour_matrix(values.device), values.flatten(2)))
    return rgb.view_as(values)


@cache
def _colour_matrix(device: torch.device) -> Tensor:
    # Kept, because a copy to a GPU at every step would make the loop wait for it.
    matrix: Tensor = torch.tensor(_COLOUR_DIRECTIONS, device=device) / _COLOUR_SCALE
    return matrix


class _Sigmoid(torch.autograd.Function):
    """1 / (1 + exp(-x)), with the same bits wherever in memory a number lies.

    torch's own CPU sigmoid rounds differently at the end of a chunk of memory, so that a sample's
    bits would depend on its place in the batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.neg(x).exp_().add_(1.0).reciprocal_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.sigmoid_backward(grads[0], y)
        return gradient


class _FixedContrast(torch.autograd.Function):
    """Values (B, 3, H, W) scaled so that each sample's standard deviation is the contrast."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, contrast: float) -> Tensor:
        # From the moments: torch.std is thirty times slower on a CPU.
        everything = (1, 2, 3)
        mean = values.mean(everything, keepdim=True)
        variance = values.square().mean(everything, keepdim=True) - mean.square()
        gain = contrast * variance.clamp_min(1e-12).rsqrt()
        scaled = values * gain
        ctx.save_for_backward(scaled, mean * gain, gain)
        ctx.contrast = contrast
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # What would only raise the contrast is taken out of the gradient.
        scaled, mean, gain = ctx.saved_tensors
        raise_contrast = (grads[0] * scaled).mean((1, 2, 3), keepdim=True) / ctx.contrast**2
        gradient = torch.addcmul(grads[0], scaled, raise_contrast, value=-1.0)
        return gradient.add_(mean * raise_contrast).mul_(gain), None


def _decay(size: tuple[int, int], power: float) -> Tensor:
    """Amplitude of each real-FFT coefficient: frequency ** -power, (H, W // 2 + 1, 2)."""
    fy = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(size[1], dtype=torch.float64)[None, :]
    frequency = torch.sqrt(fy**2 + fx**2).clamp_min(1.0 / max(size))
    return (frequency**-power)[..., None].expand(-1, -1, 2).float().contiguous()


def _noise(keys: Tensor, shape: Sequence[int], sd: float) -> nn.Parameter:
    """Initial parameters (B, P): normal noise, P being the size of `shape` rounded up.

    Rounded up to whole cache lines, because fused Adam treats the odd end of a tensor with other
    instructions, and where that end lies would depend on the batch size.
    """
    size = math.prod(shape)
    noise = rng.normal(keys, rng.INITIAL, size) * sd
    return nn.Parameter(nn.functional.pad(noise, (0, -size % _CACHE_LINE)))


def _rows(parameters: Tensor, shape: Sequence[int]) -> Tensor:
    """The rows of parameters (B, P) as (B, *shape), without their padding."""
    return parameters[:, : math.prod(shape)].view(len(parameters), *shape)

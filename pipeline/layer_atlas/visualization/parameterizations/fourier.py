"""Fourier parameterization: images as scaled real-FFT coefficients."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Fourier, NaturalFourier
from layer_atlas.config.records import implements
from layer_atlas.models.colours import fixed_contrast
from layer_atlas.visualization.parameterizations.base import Shape, ValueImages, normal, rows


def inverse_fft(coefficients: Tensor, amplitude: Tensor, width: int) -> Tensor:
    """Transform scaled real-FFT coefficients to images.

    Args:
        coefficients: (B, C, H, W // 2 + 1, 2), real and imaginary parts.
        amplitude: factor of each coefficient; broadcasts to them.
        width: width of the images, which the coefficients do not determine.
    Returns: (B, C, H, W).
    """
    values: Tensor = _InverseFFT.apply(coefficients, amplitude, width)
    return values


class _InverseFFT(torch.autograd.Function):
    """The same function as torch's irfft2, in half its time on a CPU.

    Two one-dimensional passes forward, and backward one rfft2 whose scaling is merged into that of
    the coefficients.
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
        # A column of the half spectrum also represents its conjugate, unless it is its own.
        weight = amplitude * multiplicity(ctx.width, amplitude.device)
        return torch.view_as_real(torch.fft.rfft2(grads[0], norm="ortho")) * weight, None, None


@cache
def multiplicity(width: int, device: torch.device) -> Tensor:
    """Return the number of columns of the full spectrum that each column represents: (K, 2).

    For real and imaginary parts alike: an operation that repeats one number for both is slow.
    """
    columns = torch.where(self_conjugate(width // 2 + 1, width), 1.0, 2.0)
    return columns.unsqueeze(-1).repeat(1, 2).to(device)


def mirrored(size: tuple[int, int]) -> Tensor:
    """Return 1 where a coefficient's conjugate is in its own column, else 0: (H, W // 2 + 1)."""
    height, width = size
    rows, columns = self_conjugate(height, height), self_conjugate(width // 2 + 1, width)
    return (~rows[:, None] & columns[None, :]).float()


def self_conjugate(count: int, period: int) -> Tensor:
    """Return which of the first frequencies, in whole waves per period, are self-conjugate."""
    return torch.arange(count) * 2 % period == 0


@implements(Fourier)
class FourierImages(ValueImages):
    """Images as real-FFT coefficients, so that a gradient step changes all scales at once.

    Olah et al. 2017, "Feature Visualization", preconditioning. After the inverse FFT each sample is
    divided by its own root mean square: the optimizer can redistribute contrast but not raise it,
    which keeps pixels out of the flat ends of the sigmoid and colours natural.

    Parameters: coefficients (B, P), of which the first C * H * (W // 2 + 1) * 2 are the real and
    imaginary parts of the spectrum.
    """

    amplitude: Tensor

    def __init__(
        self, config: Fourier | NaturalFourier, shape: Shape, keys: Tensor, find: Find = nowhere
    ) -> None:
        super().__init__()
        colours, height, self.width = shape
        self.contrast, self.initial_sd = config.contrast, config.initial_sd
        self.shape = (colours, height, self.width // 2 + 1, 2)
        self.coefficients = normal(keys, self.shape, config.initial_sd)
        amplitude = _decay((height, self.width), config.decay_power)
        self.register_buffer("amplitude", amplitude.to(keys.device))

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        coefficients = rows(self.coefficients, self.shape)
        return fixed_contrast(inverse_fft(coefficients, self.amplitude, self.width), self.contrast)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the coefficients to those of values (B, C, H, W), at their initial scale."""
        coefficients = torch.view_as_real(torch.fft.rfft2(values, norm="ortho")) / self.amplitude
        size = coefficients.square().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-12).sqrt()
        # The contrast is fixed anyway; the initial scale keeps the effect of a step the same.
        rows(self.coefficients, self.shape).copy_(coefficients * (self.initial_sd / size))

    @torch.no_grad()
    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place."""
        rows(self.coefficients, self.shape).mul_(transfer.unsqueeze(-1))


def _decay(size: tuple[int, int], power: float) -> Tensor:
    """Return each real-FFT coefficient's amplitude: frequency ** -power, (H, W // 2 + 1, 2)."""
    fy = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(size[1], dtype=torch.float64)[None, :]
    # Clamped: the zero frequency would have an infinite amplitude.
    frequency = torch.sqrt(fy**2 + fx**2).clamp_min(1.0 / max(size))
    return (frequency**-power)[..., None].expand(-1, -1, 2).float().contiguous()

"""Real-FFT coefficients: their symmetries and their inverse transform."""

from functools import cache
from typing import Any

import torch
from torch import Tensor


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
        weight = amplitude * _multiplicity(ctx.width, amplitude.device)
        return torch.view_as_real(torch.fft.rfft2(grads[0], norm="ortho")) * weight, None, None


@cache
def _multiplicity(width: int, device: torch.device) -> Tensor:
    """Return the number of columns of the full spectrum that each column represents: (K, 1)."""
    return torch.where(_self_conjugate(width // 2 + 1, width), 1.0, 2.0).unsqueeze(-1).to(device)


def mirrored(size: tuple[int, int]) -> Tensor:
    """Return 1 where a coefficient's conjugate is in its own column, else 0: (H, W // 2 + 1)."""
    height, width = size
    rows, columns = _self_conjugate(height, height), _self_conjugate(width // 2 + 1, width)
    return (~rows[:, None] & columns[None, :]).float()


def _self_conjugate(count: int, period: int) -> Tensor:
    """Return which of the first frequencies, in whole waves per period, are self-conjugate."""
    return torch.arange(count) * 2 % period == 0

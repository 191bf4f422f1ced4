"""Separable convolution with one symmetric kernel per sample.

It uses shifted additions: a grouped convolution with kernels per sample is slower on a CPU, and its
backward pass much slower. Sums of whole images also round alike for any batch, device and number of
threads.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor


def spread(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve images (B, C, H, W) along both axes with symmetric kernels, padding with zeros.

    Args:
        images: (B, C, H, W).
        kernel: (B, R + 1), each sample's weights at distances of 0 to R pixels.
    """
    convolved: Tensor = _Spread.apply(images, kernel)
    return convolved


class _Spread(torch.autograd.Function):
    """A symmetric convolution, which is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        return _along(_along(images, kernel, 3), kernel, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kernel,) = ctx.saved_tensors
        return _along(_along(grads[0], kernel, 3), kernel, 2), None


def reach(kernel: Tensor, n: int) -> Tensor:
    """Return the sum of each kernel's weights inside n pixels, for each of them: (B, n)."""
    return _along(kernel.new_ones(1, 1, 1, n), kernel, 3)[:, 0, 0]


def distances(radius: int, device: torch.device) -> Tensor:
    """Return 0 to radius: (radius + 1,) float32."""
    return _distances(radius, device)


@cache
def _distances(radius: int, device: torch.device) -> Tensor:
    return torch.arange(radius + 1, device=device, dtype=torch.float32)


def _along(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    weights = kernel[:, :, None, None, None].unbind(1)
    total, n = images * weights[0], images.shape[axis]
    for distance, weight in enumerate(weights[1:n], start=1):
        # The kernel is symmetric: each weight applies to both neighbours at this distance.
        overlap = n - distance
        total.narrow(axis, distance, overlap).addcmul_(images.narrow(axis, 0, overlap), weight)
        total.narrow(axis, 0, overlap).addcmul_(images.narrow(axis, distance, overlap), weight)
    return total

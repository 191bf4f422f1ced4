"""Spectrum: the energy of images in each octave of frequencies, against that of photographs."""

import torch
from torch import Tensor

_AT_ONCE = 32

OCTAVES = tuple((0.5 / 2 ** (k + 1), 0.5 / 2**k) for k in range(4, -1, -1))
"""Rings of spatial frequencies, coarse to fine, in cycles per pixel: (lower, upper]."""


def octave_energy(pixels: Tensor) -> Tensor:
    """Compute the spectral energy of the grey image, minus its mean, in each octave.

    Args:
        pixels: (N, H, W, C) uint8.
    Returns: (N, octaves) float32; corners of the spectrum beyond 1/2 belong to no octave.
    """
    return torch.cat([_energy(part) for part in pixels.split(_AT_ONCE)])


def _energy(pixels: Tensor) -> Tensor:
    grey = (pixels.float() / 255.0).mean(dim=3)
    energy = torch.fft.fft2(grey - grey.mean(dim=(1, 2), keepdim=True)).abs().square()
    height, width = grey.shape[1:]
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    rings = [(radius > low) & (radius <= high) for low, high in OCTAVES]
    return torch.stack([energy[:, ring].sum(dim=1) for ring in rings], dim=1)


def octave_ratios(pixels: Tensor, dataset_images: Tensor) -> Tensor:
    """Divide the mean energy of images by that of photographs of the same size, per octave.

    Args:
        pixels: (B, H, W, C) uint8.
        dataset_images: (N, H, W, C) uint8.
    Returns: (octaves,) float32, coarse to fine; 1 is the energy of photographs, and NaN an octave
        in which neither has any.
    """
    if pixels.shape[1:3] != dataset_images.shape[1:3]:
        sizes = f"{list(pixels.shape[1:3])} and {list(dataset_images.shape[1:3])}"
        raise ValueError(f"a frequency per pixel differs between images of {sizes} pixels.")
    return octave_energy(pixels).mean(dim=0) / octave_energy(dataset_images).mean(dim=0)

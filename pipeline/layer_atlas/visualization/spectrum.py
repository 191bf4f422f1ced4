"""Spectra of images: which frequencies are fine, and the mean spectrum of photographs.

The mean spectrum is what maco holds fixed and noise can start from. It was measured once by
`scripts/measure_spectrum.py` and is kept in the package on a polar grid, so that it can be had for
any image size. It is about decorrelated colours before the sigmoid (`colours.from_colours`), each
photograph scaled to a root mean square of 1.
"""

from functools import cache
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

LOWEST, HIGHEST = 1 / 128, 0.5
"""First and last radius of the grid, in cycles per pixel; beyond them magnitudes stay the same."""

RADII, ANGLES = 24, 12

HALF_NYQUIST = 0.25
"""Cycles per pixel above which structure is finer than most of what photographs hold."""


def magnitudes(size: tuple[int, int], colours: int = 3) -> Tensor:
    """Magnitude of each coefficient of an orthonormal real FFT of images of that size.

    Args:
        size: height H and width W of the image.
        colours: number C of its colours.
    Returns: (C, H, W // 2 + 1) float32. One map per decorrelated colour if there are three; else
        the mean of these for every colour.
    """
    maps = _colour_magnitudes(size)
    return maps if colours == len(maps) else maps.mean(dim=0).repeat(colours, 1, 1)


def _colour_magnitudes(size: tuple[int, int]) -> Tensor:
    kept = _kept()
    radius, angle = polar_frequencies(size)
    across = (radius.clamp(LOWEST, HIGHEST) / LOWEST).log() / _STEP
    # grid_sample counts from -1 to 1, here over half a turn and over all radii.
    grid = torch.stack([2.0 * angle / torch.pi, 2.0 * across / (RADII - 1)], dim=-1) - 1.0
    nodes = torch.cat([kept["log_magnitude"], kept["log_magnitude"][..., :1]], dim=-1).double()
    (maps,) = F.grid_sample(nodes[None], grid[None], padding_mode="border", align_corners=True)
    maps[:, 0, 0] = kept["mean"].double().log() + 0.5 * torch.tensor(size).prod().double().log()
    if size[1] % 2 == 0:  # the last column holds both of each pair of mirror images
        maps[:, :, -1] = (maps[:, :, -1] + maps[:, :, -1].flip(1).roll(1, dims=1)) / 2.0
    magnitude: Tensor = maps.exp().float()
    return magnitude


def fine_frequencies(size: tuple[int, int], device: torch.device) -> Tensor:
    """Which coefficients of a full FFT are above half the Nyquist frequency: (H, W) bool."""
    fy = torch.fft.fftfreq(size[0], device=device)[:, None]
    fx = torch.fft.fftfreq(size[1], device=device)[None, :]
    return torch.hypot(fy, fx) > HALF_NYQUIST


def polar_frequencies(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Radius in cycles per pixel and angle in [0, pi) of each real-FFT coefficient, float64."""
    fy = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(size[1], dtype=torch.float64)[None, :]
    return torch.hypot(fy, fx), torch.atan2(fy, fx).expand(size[0], -1) % torch.pi


def polar_mean(log_magnitude: Tensor) -> Tensor:
    """The grid of the spectrum that `magnitudes` reads.

    Each node is the mean over its neighbourhood, weighted by how near it is.

    Args:
        log_magnitude: (3, H, W // 2 + 1) of an orthonormal real FFT; large enough that every node
            has coefficients near it.
    Returns: (3, RADII, ANGLES), radii equally spaced in logarithm, angles in [0, pi).
    """
    height, half = log_magnitude.shape[1:]
    radius, angle = polar_frequencies((height, 2 * (half - 1)))
    across = (radius.clamp_min(1e-9) / LOWEST).log() / _STEP
    around = angle * ANGLES / torch.pi
    near_radius = (1 - (across.flatten() - torch.arange(RADII)[:, None]).abs()).clamp_min(0)
    apart = (around.flatten() - torch.arange(ANGLES)[:, None]).abs()
    near_angle = (1 - torch.minimum(apart, ANGLES - apart)).clamp_min(0)
    weight = near_radius[:, None] * near_angle[None]
    total = torch.einsum("ran,cn->cra", weight, log_magnitude.double().flatten(1))
    return total / weight.sum(dim=2)


_STEP = float(torch.tensor(HIGHEST / LOWEST).log()) / (RADII - 1)


@cache
def _kept() -> dict[str, Tensor]:
    """`log_magnitude` (3, RADII, ANGLES) and `mean` (3,): mean size of the colours' own means."""
    with as_file(files("layer_atlas") / "data" / "spectrum.safetensors") as path:
        return load_file(path)

"""Spectra of images: the high-frequency band, and the mean spectrum of photographs.

MACO keeps the mean spectrum fixed, and noise can start from it. `scripts/measure_spectrum.py`
measured it once; the package stores it on a polar grid, from which it is resampled for any image
size. It describes values in decorrelated colours before the sigmoid (`pixels.from_colours`), each
photograph scaled to a root mean square of 1.
"""

from functools import cache
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

LOWEST, HIGHEST = 1 / 128, 0.5
"""First and last radius of the grid, in cycles per pixel; magnitudes are constant beyond them."""

RADII, ANGLES = 24, 12

HALF_NYQUIST = 0.25
"""Cycles per pixel above which structure is finer than most content of photographs."""


def magnitudes(size: tuple[int, int], colours: int = 3) -> Tensor:
    """Return the mean magnitude of each coefficient of an orthonormal real FFT.

    Args:
        size: height H and width W of the image.
        colours: number C of its colours.
    Returns: (C, H, W // 2 + 1) float32. With three colours, one map per decorrelated colour;
        otherwise their mean for every colour.
    """
    maps = _colour_magnitudes(size)
    return maps if colours == len(maps) else maps.mean(dim=0).repeat(colours, 1, 1)


def _colour_magnitudes(size: tuple[int, int]) -> Tensor:
    stored = _stored_spectrum()
    radius, angle = polar_frequencies(size)
    across = (radius.clamp(LOWEST, HIGHEST) / LOWEST).log() / _STEP
    # grid_sample's coordinates run from -1 to 1, here over a rotation by pi and over all radii.
    grid = torch.stack([2.0 * angle / torch.pi, 2.0 * across / (RADII - 1)], dim=-1) - 1.0
    # The first angle is repeated at the end, because angles are periodic.
    nodes = torch.cat([stored["log_magnitude"], stored["log_magnitude"][..., :1]], dim=-1).double()
    (maps,) = F.grid_sample(nodes[None], grid[None], padding_mode="border", align_corners=True)
    # The zero frequency has no radius: its magnitude is stored separately.
    maps[:, 0, 0] = stored["mean"].double().log() + 0.5 * torch.tensor(size).prod().double().log()
    if size[1] % 2 == 0:  # the last column holds both members of each conjugate pair
        maps[:, :, -1] = (maps[:, :, -1] + maps[:, :, -1].flip(1).roll(1, dims=1)) / 2.0
    magnitude: Tensor = maps.exp().float()
    return magnitude


def fine_frequencies(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return which coefficients of a full FFT lie above half the Nyquist frequency: (H, W) bool."""
    fy = torch.fft.fftfreq(size[0], device=device)[:, None]
    fx = torch.fft.fftfreq(size[1], device=device)[None, :]
    return torch.hypot(fy, fx) > HALF_NYQUIST


def polar_frequencies(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return radius (cycles per pixel) and angle in [0, pi) of real-FFT coefficients, float64."""
    fy = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(size[1], dtype=torch.float64)[None, :]
    return torch.hypot(fy, fx), torch.atan2(fy, fx).expand(size[0], -1) % torch.pi


def polar_mean(log_magnitude: Tensor) -> Tensor:
    """Average a spectrum onto the polar grid that `magnitudes` reads.

    Each node is the mean over its neighbourhood, weighted by proximity (bilinear).

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
def _stored_spectrum() -> dict[str, Tensor]:
    """Load `log_magnitude` (3, RADII, ANGLES) and `mean` (3,), the zero frequency's magnitude."""
    with as_file(files("layer_atlas") / "data" / "spectrum.safetensors") as path:
        return load_file(path)

"""Transforms: random views of the images, drawn per sample and step, fused into one warp.

Scale, rotation and shift are composed into one affine map per sample and applied by a single
bilinear resampling; whatever falls outside the image is its mirror image, so no border appears.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline import rng
from pipeline.recipe import Transforms


def draw_views(config: Transforms, keys: Tensor, steps: int, size: int) -> Tensor:
    """Draw the random affine maps of all steps at once.

    Args:
        config: ranges of scale, rotation and jitter.
        keys: (B, 2) int64, random keys of the jobs.
        steps: number of steps.
        size: image size in pixels, which sets the unit of the jitter.
    Returns: (steps, B, 2, 3) float32, output coordinates in [-1, 1] to input coordinates.
    """
    # Drawn and computed on the CPU, so that every device warps by the same bits.
    u = rng.uniform(keys.cpu(), rng.WARP, steps, 4).double()
    low, high = config.scale
    scale = low * (high / low) ** u[..., 0]
    angle = math.radians(config.rotate) * (2.0 * u[..., 1] - 1.0)
    shift = (2.0 * config.jitter / size) * (2.0 * u[..., 2:] - 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([cos, -sin, shift[..., 0]], -1), torch.stack([sin, cos, shift[..., 1]], -1)]
    return torch.stack(rows, dim=-2).transpose(0, 1).float().contiguous().to(keys.device)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Resample each image (B, C, H, W) by its own affine map (B, 2, 3): (B, C, H, W)."""
    height, width = images.shape[-2:]
    y = _centres(height, images.device)[:, None]
    x = _centres(width, images.device)[None, :]
    m = maps[:, :, :, None, None]
    # Written out: affine_grid is a matrix product, and slower.
    grid = torch.stack([m[:, i, 0] * x + (m[:, i, 1] * y + m[:, i, 2]) for i in (0, 1)], dim=-1)
    return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)


def _centres(n: int, device: torch.device) -> Tensor:
    """Centres of n pixels that tile [-1, 1]: (n,)."""
    return (torch.arange(n, device=device, dtype=torch.float32) * 2.0 + 1.0) / n - 1.0

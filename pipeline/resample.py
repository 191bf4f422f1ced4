"""Resizing by two matrix products: antialiased, differentiable, the same bits every time.

torch's own resizing adds up its gradient in no fixed order on a GPU; a product with a fixed matrix,
rows first, then columns, does not.
"""

from functools import cache

import torch
from torch import Tensor


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) at another height and width: (B, C, *size)."""
    if tuple(images.shape[2:]) == size:
        return images
    down = resampling(images.shape[2], size[0], images.device)
    across = resampling(images.shape[3], size[1], images.device)
    return down @ (images @ across.mT)


@cache
def resampling(before: int, after: int, device: torch.device) -> Tensor:
    """The matrix (after, before) that resamples a line of pixels.

    Linear between pixels where it enlarges; where it shrinks, weights fall along a triangle as wide
    as two of the new pixels, as Pillow and torch do with antialiasing. Rows sum to 1.
    """
    scale = before / after
    support = max(scale, 1.0)
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(before, dtype=torch.float64) + 0.5
    weights = (1.0 - (pixels[None, :] - centres[:, None]).abs() / support).clamp_min(0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float().to(device)

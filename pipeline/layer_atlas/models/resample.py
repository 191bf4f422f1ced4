"""Resizing by two matrix products: antialiased, differentiable, the same bits every time.

torch's own resizing adds up its gradient in no fixed order on a GPU; a product with a fixed matrix,
rows first, then columns, does not.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

_CACHE_LINE = 16
"""Numbers in a cache line. What a product rounds on a CPU depends on where in one its matrices
begin, so lines of pixels are filled up to whole ones, lest it depend on a sample's place."""


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) at another height and width: (B, C, *size)."""
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    maps = pad(images.flatten(0, 1), (0, -width % _CACHE_LINE))
    # A product per map: the kernel of one large product would depend on how many there are.
    down = resampling(height, size[0], images.device).expand(len(maps), -1, -1)
    across = _in_whole_lines(width, size[1], images.device).expand(len(maps), -1, -1)
    made = torch.bmm(torch.bmm(down, maps), across)[..., : size[1]]
    return made.reshape(*images.shape[:2], *size)


@cache
def resampling(before: int, after: int, device: torch.device) -> Tensor:
    """The matrix (after, before) that resamples a line of pixels.

    Linear between pixels where it enlarges; where it shrinks, weights fall along a triangle as wide
    as two of the new pixels, as Pillow and torch do with antialiasing. Rows sum to 1. From 2 n
    pixels to n the weights are (1, 3, 3, 1) / 8, and back (1, 3) / 4.
    """
    scale = before / after
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(before, dtype=torch.float64) + 0.5
    distance = (pixels[None, :] - centres[:, None]).abs() / max(scale, 1.0)
    weights = (1.0 - distance).clamp_min(0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float().to(device)


@cache
def _in_whole_lines(before: int, after: int, device: torch.device) -> Tensor:
    """The transpose of that matrix, with zeros for what fills lines up."""
    matrix = resampling(before, after, device).mT
    return pad(matrix, (0, -after % _CACHE_LINE, 0, -before % _CACHE_LINE))


def sources(boxes: Tensor, size: tuple[int, int], resized_to: tuple[int, int]) -> Tensor:
    """What boxes of resized pixels depend on: boxes (N, 4) in pixels of the original.

    Both are left, top, right, bottom; right and bottom are not in the box.

    Args:
        boxes: (N, 4) int64.
        size: height and width of the original.
        resized_to: height and width of what the boxes are on.
    """
    rows, columns = (
        _reach(resampling(*lengths, torch.device("cpu")))
        for lengths in zip(size, resized_to, strict=True)
    )
    left, top, right, bottom = boxes.cpu().unbind(dim=1)
    edges = (columns[left, 0], rows[top, 0], columns[right - 1, 1], rows[bottom - 1, 1])
    return torch.stack(edges, dim=1)


def _reach(matrix: Tensor) -> Tensor:
    """The first column of each row that is not zero, and the one after the last: (after, 2)."""
    there = (matrix != 0).int()
    return torch.stack([there.argmax(dim=1), there.shape[1] - there.flip(1).argmax(dim=1)], dim=1)

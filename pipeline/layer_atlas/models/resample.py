"""Resizing by two matrix products: antialiased, differentiable, deterministic.

torch's own resizing accumulates its gradient in no fixed order on a GPU. A product with a fixed
matrix, first rows, then columns, does not.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

_CACHE_LINE = 16
"""Numbers in a cache line; lines of pixels are padded to whole ones.

The rounding of a CPU matrix product depends on the alignment of its matrices, and without padding
the alignment depends on a sample's index in the batch.
"""


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, C, H, W) to another height and width: (B, C, *size)."""
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    maps = pad(images.flatten(0, 1), (0, -width % _CACHE_LINE))
    # One product per map: the kernel of a single large product would depend on their number.
    down = resampling(height, size[0], images.device).expand(len(maps), -1, -1)
    across = _in_whole_lines(width, size[1], images.device).expand(len(maps), -1, -1)
    output = torch.bmm(torch.bmm(down, maps), across)[..., : size[1]]
    return output.reshape(*images.shape[:2], *size)


@cache
def resampling(before: int, after: int, device: torch.device) -> Tensor:
    """Return the matrix (after, before) that resamples a line of pixels.

    Enlarging is linear between pixels. Shrinking uses triangle weights as wide as two of the new
    pixels, as Pillow and torch do with antialiasing. Rows sum to 1. From 2 n pixels to n the
    weights are (1, 3, 3, 1) / 8, and back (1, 3) / 4.
    """
    scale = before / after
    # In double, rounded once: the matrix is cached and has the same bits on every device.
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    pixels = torch.arange(before, dtype=torch.float64) + 0.5
    distance = (pixels[None, :] - centres[:, None]).abs() / max(scale, 1.0)
    weights = (1.0 - distance).clamp_min(0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float().to(device)


@cache
def _in_whole_lines(before: int, after: int, device: torch.device) -> Tensor:
    """Return the transpose of that matrix, zero for the padding."""
    matrix = resampling(before, after, device).mT
    return pad(matrix, (0, -after % _CACHE_LINE, 0, -before % _CACHE_LINE))


def sources(boxes: Tensor, size: tuple[int, int], resized_to: tuple[int, int]) -> Tensor:
    """Map boxes of resized pixels to the boxes (N, 4) of original pixels that they depend on.

    Both are left, top, right, bottom; right and bottom are exclusive.

    Args:
        boxes: (N, 4) int64.
        size: height and width of the original.
        resized_to: height and width of the resized image.
    """
    rows, columns = (
        _reach(resampling(*lengths, torch.device("cpu")))
        for lengths in zip(size, resized_to, strict=True)
    )
    left, top, right, bottom = boxes.cpu().unbind(dim=1)
    edges = (columns[left, 0], rows[top, 0], columns[right - 1, 1], rows[bottom - 1, 1])
    return torch.stack(edges, dim=1)


def _reach(matrix: Tensor) -> Tensor:
    """Return the first nonzero column of each row, and one past the last: (after, 2)."""
    nonzero = (matrix != 0).int()
    return torch.stack(
        [nonzero.argmax(dim=1), nonzero.shape[1] - nonzero.flip(1).argmax(dim=1)], dim=1
    )

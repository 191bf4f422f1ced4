"""Resampling: images to the size that a network takes, by two fixed matrices.

Each row and each column of the result is a weighted mean of neighbouring rows and columns, so
resizing is two matrix products, there and back: fast, and without sums in no fixed order.
"""

import torch
from torch import Tensor


class Resize:
    """Resizes images of one size to another, bilinearly and without aliasing."""

    def __init__(
        self, size: tuple[int, int], to: tuple[int, int], device: torch.device | str = "cpu"
    ) -> None:
        """Build the matrices; `size` and `to` are height and width."""
        self.rows, self.columns = (
            weights(*lengths).to(device) for lengths in zip(size, to, strict=True)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, C, h, w); no sample depends on others, nor on how many."""
        planes = images.flatten(0, 1)
        rows = self.rows.expand(len(planes), -1, -1)
        columns = self.columns.mT.expand(len(planes), -1, -1)
        resized = torch.bmm(torch.bmm(rows, planes), columns)
        return resized.view(*images.shape[:2], *resized.shape[1:])

    def sources(self, boxes: Tensor) -> Tensor:
        """What boxes of resized pixels depend on: boxes (N, 4) in pixels of the original.

        Both are left, top, right, bottom; right and bottom are not in the box.
        """
        left, top, right, bottom = boxes.cpu().unbind(dim=1)
        columns, rows = _reach(self.columns), _reach(self.rows)
        edges = (columns[left, 0], rows[top, 0], columns[right - 1, 1], rows[bottom - 1, 1])
        return torch.stack(edges, dim=1)


def weights(n: int, to: int) -> Tensor:
    """What each of `to` samples is made of when n samples are resized: (to, n), rows of sum 1.

    A triangle as wide as two samples of the result or of the original, whichever are wider, around
    the place of the sample. That is bilinear interpolation with antialiasing, as Pillow and torch's
    `interpolate` do it.
    """
    scale = n / to
    centres = (torch.arange(to, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(n, dtype=torch.float64) + 0.5
    distances = (places - centres[:, None]).abs() / max(scale, 1.0)
    triangle = (1.0 - distances).clamp_min(0.0)
    return (triangle / triangle.sum(dim=1, keepdim=True)).float()


def _reach(matrix: Tensor) -> Tensor:
    """The first column of each row that is not zero, and the one after the last: (to, 2)."""
    there = (matrix != 0).cpu().int()
    return torch.stack([there.argmax(dim=1), there.shape[1] - there.flip(1).argmax(dim=1)], dim=1)

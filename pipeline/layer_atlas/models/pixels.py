"""Pixels: images as tensors, in 8 bits, in decorrelated colours, and resized.

"Values" are images (B, C, H, W) before the sigmoid, so that any real number is valid. With three
channels, values are coordinates along the decorrelated colour directions of natural images. For
other channel counts no statistics are known, and values are per channel.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# Square root of the covariance of ImageNet's RGB values (Olah et al. 2017, "Feature Visualization",
# appendix on preconditioning): its columns are the directions in which natural colours vary.
_COLOUR_DIRECTIONS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_RGB = len(_COLOUR_DIRECTIONS)
_EVERYTHING = (1, 2, 3)
_COLOUR_SCALE = max(sum(row[i] ** 2 for row in _COLOUR_DIRECTIONS) ** 0.5 for i in range(3))


def to_colours(values: Tensor) -> Tensor:
    """Map values to images in [0, 1], both (B, C, H, W): colour matrix if C is 3, then sigmoid."""
    if values.shape[1] == _RGB:
        mixed = torch.matmul(_colour_matrix(values.device), values.flatten(2)).view_as(values)
    else:
        mixed = values
    images: Tensor = _Sigmoid.apply(mixed)
    return images


def from_colours(images: Tensor) -> Tensor:
    """Map images in [0, 1] to values, both (B, C, H, W): the inverse of `to_colours`.

    Black and white would be infinite, so images are clamped to half an 8-bit step from both ends.
    """
    # In double, because the rounding of torch's logarithm depends on a number's memory address.
    logits = images.double().clamp(0.5 / 255.0, 254.5 / 255.0).logit().float()
    if images.shape[1] != _RGB:
        return logits
    # Inverted on the CPU, so that every device starts from the same bits.
    inverse = torch.linalg.inv(_colour_matrix(torch.device("cpu"))).to(images.device)
    return torch.matmul(inverse, logits.flatten(2)).view_as(images)


def to_bytes(images: Tensor) -> Tensor:
    """Convert images (B, C, H, W) in [0, 1] to 8-bit pixels (B, H, W, C)."""
    return (images.clamp(0, 1) * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_bytes(pixels: Tensor) -> Tensor:
    """Convert 8-bit pixels (B, H, W, C) to images (B, C, H, W) in [0, 1], float32."""
    return pixels.permute(0, 3, 1, 2).float().contiguous() / 255.0


def recoloured(images: Tensor, colours: int) -> Tensor:
    """Convert RGB images (B, 3, H, W) to the number of colours that a network takes: (B, C, H, W).

    For any number but 3, every channel is the luma of ITU-R 601, as in Pillow.
    """
    if colours == 3:
        return images
    grey = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    return grey.repeat(1, colours, 1, 1)


@cache
def _colour_matrix(device: torch.device) -> Tensor:
    # Cached, because a host-to-device copy at every step would stall the loop.
    matrix: Tensor = torch.tensor(_COLOUR_DIRECTIONS, device=device) / _COLOUR_SCALE
    return matrix


class _Sigmoid(torch.autograd.Function):
    """1 / (1 + exp(-x)), with bits that do not depend on a number's memory address.

    torch's own CPU sigmoid rounds differently at the end of a memory chunk, so that a sample's bits
    would depend on its index in the batch; that of a GPU treats every number alike.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # In place after the first operation: one allocation instead of four. On a GPU one pass.
        y = x.sigmoid() if x.is_cuda else torch.neg(x).exp_().add_(1.0).reciprocal_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.sigmoid_backward(grads[0], y)
        return gradient


def fixed_contrast(values: Tensor, contrast: float) -> Tensor:
    """Scale values (B, C, H, W) so that the root mean square of each sample equals `contrast`.

    The mean square is taken about mid-grey (0), not about the sample's own mean: otherwise an image
    of nearly one colour would be scaled up until it is white or black.
    """
    scaled: Tensor = _FixedContrast.apply(values, contrast)
    return scaled


class _FixedContrast(torch.autograd.Function):
    """The scaling, with a gradient without the component that would only change the contrast."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, contrast: float) -> Tensor:
        # Per sample, so that a sample's bits do not depend on its batch.
        energy = values.square().mean(_EVERYTHING, keepdim=True)
        gain = contrast * energy.clamp_min(1e-12).rsqrt()
        scaled = values * gain
        ctx.save_for_backward(scaled, gain)
        ctx.contrast = contrast
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        scaled, gain = ctx.saved_tensors
        # The exact derivative: tangent to the sphere of images with this contrast.
        raise_contrast = (grads[0] * scaled).mean(_EVERYTHING, keepdim=True) / ctx.contrast**2
        return torch.addcmul(grads[0], scaled, raise_contrast, value=-1.0).mul_(gain), None


# --- resizing by two matrix products --------------------------------------------------------------


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

"""Decorrelated colours: between the values that are optimised and the pixels that are seen.

"Values" are images (B, C, H, W) before the sigmoid, so that any real number is an image. Three
colours are those of photographs, and values are in colours that vary independently in these; of
other numbers of colours nothing is known, and values are theirs.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

# Square root of the covariance of ImageNet's RGB values (Olah et al. 2017, "Feature Visualization",
# appendix on preconditioning): its columns are the directions in which natural colours vary.
_COLOUR_DIRECTIONS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
_RGB = len(_COLOUR_DIRECTIONS)
_EVERYTHING = (1, 2, 3)
_COLOUR_SCALE = max(sum(row[i] ** 2 for row in _COLOUR_DIRECTIONS) ** 0.5 for i in range(3))


def to_colours(values: Tensor) -> Tensor:
    """Values to images in [0, 1], both (B, C, H, W): the colour matrix if C is 3, then sigmoid."""
    if values.shape[1] == _RGB:
        mixed = torch.matmul(_colour_matrix(values.device), values.flatten(2)).view_as(values)
    else:
        mixed = values
    images: Tensor = _Sigmoid.apply(mixed)
    return images


def from_colours(images: Tensor) -> Tensor:
    """Images in [0, 1] to values, both (B, C, H, W): the inverse of `to_colours`.

    Black and white lie infinitely far out; they are met half a step of 8 bits before.
    """
    # In double, because torch rounds logarithms by where in memory a number lies.
    logits = images.double().clamp(0.5 / 255.0, 254.5 / 255.0).logit().float()
    if images.shape[1] != _RGB:
        return logits
    inverse = torch.linalg.inv(_colour_matrix(torch.device("cpu"))).to(images.device)
    return torch.matmul(inverse, logits.flatten(2)).view_as(images)


def to_bytes(images: Tensor) -> Tensor:
    """Images (B, C, H, W) in [0, 1] to 8-bit pixels (B, H, W, C)."""
    return (images.clamp(0, 1) * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def from_bytes(pixels: Tensor) -> Tensor:
    """8-bit pixels (B, H, W, C) to images (B, C, H, W) in [0, 1], float32."""
    return pixels.permute(0, 3, 1, 2).float().contiguous() / 255.0


def recoloured(images: Tensor, colours: int) -> Tensor:
    """RGB images (B, 3, H, W) in as many colours as a network takes: (B, C, H, W).

    Of any number but 3 each is the grey that ITU-R 601 gives, as Pillow's.
    """
    if colours == 3:
        return images
    grey = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    return grey.repeat(1, colours, 1, 1)


@cache
def _colour_matrix(device: torch.device) -> Tensor:
    # Kept, because a copy to a GPU at every step would make the loop wait for it.
    matrix: Tensor = torch.tensor(_COLOUR_DIRECTIONS, device=device) / _COLOUR_SCALE
    return matrix


class _Sigmoid(torch.autograd.Function):
    """1 / (1 + exp(-x)), with the same bits wherever in memory a number lies.

    torch's own CPU sigmoid rounds differently at the end of a chunk of memory, so that a sample's
    bits would depend on its place in the batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.neg(x).exp_().add_(1.0).reciprocal_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        gradient: Tensor = torch.ops.aten.sigmoid_backward(grads[0], y)
        return gradient


def fixed_contrast(values: Tensor, contrast: float) -> Tensor:
    """Values (B, C, H, W) scaled so that each sample's root mean square is the contrast.

    About mid-grey, which is 0, rather than about the sample's own mean: else an image of nearly one
    colour would be scaled up until it is white or black.
    """
    scaled: Tensor = _FixedContrast.apply(values, contrast)
    return scaled


class _FixedContrast(torch.autograd.Function):
    """The scaling, and a gradient without what would only raise the contrast."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, contrast: float) -> Tensor:
        energy = values.square().mean(_EVERYTHING, keepdim=True)
        gain = contrast * energy.clamp_min(1e-12).rsqrt()
        scaled = values * gain
        ctx.save_for_backward(scaled, gain)
        ctx.contrast = contrast
        return scaled

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        scaled, gain = ctx.saved_tensors
        raise_contrast = (grads[0] * scaled).mean(_EVERYTHING, keepdim=True) / ctx.contrast**2
        return torch.addcmul(grads[0], scaled, raise_contrast, value=-1.0).mul_(gain), None

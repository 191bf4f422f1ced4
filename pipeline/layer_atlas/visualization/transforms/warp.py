"""The warp: one bilinear resampling of every image by its own map, and its way back.

Whatever falls outside the image is its mirror image, so no border appears.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_atlas.visualization.transforms.spread import distances, spread

_LITTLE_ZOOM = 1.2
"""Up to this magnification little of a view is missed if nothing is gathered."""

_BEHIND = 0.4
"""Opposite corners of a view have depths of 2 together, so none has 2 or more, and seen from the
image nothing in view has a depth of 1/2 or less."""

_BILINEAR: dict[str, Any] = {"mode": "bilinear", "align_corners": False}


def warp(images: Tensor, maps: Tensor, zoom: float = 1.0) -> Tensor:
    """Resample each image (B, C, H, W) by its own map: (B, C, H, W).

    The gradient is the inverse warp of what comes in, divided by the map's local determinant.
    Between pixels that is the exact adjoint of the resampling up to its interpolation; what the
    mirrored border would send back is left out. Unlike the scattered additions of the exact adjoint
    it is a resampling too: three times faster, and of the same bits every time on a GPU as well.

    Where a view magnifies much, many of its pixels were made of one of the image's, and the inverse
    warp would pick up one of them; so they are gathered first, by the tent that interpolated them.

    Args:
        images: (B, C, H, W).
        maps: affine maps (B, 2, 3) or homographies (B, 3, 3) of depth 1 at the centre, from
            coordinates of the view in [-1, 1] to coordinates of the image.
        zoom: the largest magnification of any of them.
    """
    warped: Tensor = _Warp.apply(images, maps, zoom)
    return warped


class _Warp(torch.autograd.Function):
    """The warp and, as its gradient, the inverse warp."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, maps: Tensor, zoom: float) -> Tensor:
        ctx.save_for_backward(maps)
        ctx.zoom = zoom
        return F.grid_sample(images, _grid(images, maps), padding_mode="reflection", **_BILINEAR)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        inverse, determinant = _inverted(ctx.saved_tensors[0])
        gradient = grads[0].contiguous()
        if ctx.zoom > _LITTLE_ZOOM:
            gradient = spread(gradient, _tent(determinant, ctx.zoom))
        gradient = F.grid_sample(gradient, _grid(gradient, inverse), **_BILINEAR)
        return gradient.div_(_area(gradient, inverse, determinant)), None, None


def _grid(images: Tensor, maps: Tensor) -> Tensor:
    """Where each pixel of the result (B, H, W) lies in the image: (B, H, W, 2)."""
    # Points of the plane as complex numbers x + iy: one broadcast addition makes the whole grid.
    plane = torch.view_as_complex(maps[:, :2].mT.contiguous())
    points = torch.view_as_real(_at_pixels(plane, images))
    if maps.shape[1] == 2:
        return points
    depth = _at_pixels(maps[:, 2], images).clamp_min(1e-3)
    return points.div_(depth.unsqueeze(-1))


def _at_pixels(coefficients: Tensor, images: Tensor) -> Tensor:
    """Linear functions a x + b y + c (B, 3), at each pixel's centre: (B, H, W)."""
    height, width = images.shape[-2:]
    right, down, shift = coefficients.unsqueeze(-1).unbind(1)
    columns = right * centres(width, images.device)
    rows = down * centres(height, images.device) + shift
    return rows[:, :, None] + columns[:, None, :]


def _area(images: Tensor, inverse: Tensor, determinant: Tensor) -> Tensor:
    """The area of the image that a pixel of the view covers, as the image has it at its pixels.

    Returns: (B, 1, 1, 1), or for homographies (B, 1, H, W), infinite behind the view.
    """
    everywhere = determinant.abs().view(-1, 1, 1, 1)
    if inverse.shape[1] == 2:
        return everywhere
    depth = _at_pixels(inverse[:, 2], images).unsqueeze(1)
    return (everywhere * depth**3).masked_fill_(depth < _BEHIND, math.inf)


def _inverted(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse maps of the same shape, and determinants (B,)."""
    if maps.shape[1] == 2:
        return _inverted_affine(maps)
    first, second, third = maps.unbind(1)
    columns = [torch.linalg.cross(*two) for two in _pairs(first, second, third)]
    determinant = (first * columns[0]).sum(dim=1)
    return torch.stack(columns, dim=2) / determinant.view(-1, 1, 1), determinant


def _pairs(first: Tensor, second: Tensor, third: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(second, third), (third, first), (first, second)]


def _inverted_affine(maps: Tensor) -> tuple[Tensor, Tensor]:
    a, b, c, d = maps[:, :, :2].flatten(1).unbind(1)
    determinant = a * d - b * c
    linear = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / determinant.view(-1, 1, 1)
    shift = -(linear * maps[:, None, :, 2]).sum(dim=2, keepdim=True)
    return torch.cat([linear, shift], dim=2), determinant


def _tent(determinant: Tensor, zoom: float) -> Tensor:
    """Weights that fall to 0 over the view's pixels to one of the image's: (B, R + 1), sum 1."""
    magnification = determinant.abs().rsqrt().clamp_min(1.0).unsqueeze(1)
    away = distances(math.ceil(zoom) - 1, determinant.device)
    weights = (1.0 - away / magnification).clamp_min(0.0)
    return weights / (2.0 * weights.sum(dim=1, keepdim=True) - 1.0)


@cache
def centres(n: int, device: torch.device) -> Tensor:
    """Centres of n pixels that tile [-1, 1]: (n,)."""
    return (torch.arange(n, device=device, dtype=torch.float32) * 2.0 + 1.0) / n - 1.0

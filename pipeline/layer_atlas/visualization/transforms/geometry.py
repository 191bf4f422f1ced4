"""What moves pixels: jitter, scale, rotation, crop, perspective and mirror image in one map.

A map takes the view's coordinates to the image's, both in [-1, 1] along each axis. The view is
made from the image in this order: a crop is cut out and fills the view; the view is shifted, turned
and magnified; it is looked at from an angle; it is mirrored.
"""

import math

import torch
from torch import Tensor

from layer_atlas.config.recipe import Transforms
from layer_atlas.visualization import rng
from layer_atlas.visualization.transforms.part import Part, Size, between
from layer_atlas.visualization.transforms.warp import warp

_CROPS_SPREAD = 0.3
"""Standard deviation of a crop's centre in [-1, 1]: 0.15 of the side, as in Horama and xplique."""


class Geometry(Part):
    """The warp of every sample by a map of its own, affine unless there is perspective."""

    def columns(self, config: Transforms) -> int:
        """Six numbers of a map (2, 3), or nine of a homography (3, 3)."""
        if config.perspective > 0:
            return 9
        moves = config.jitter > 0 or config.rotate > 0 or config.flip > 0
        return 6 if moves or config.scale != (1.0, 1.0) or config.crop != (1.0, 1.0) else 0

    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw and compose the maps, in double precision."""
        maps = _moved(config, keys, steps, size)
        if config.crop != (1.0, 1.0):
            maps = _cropped(maps, config, rng.uniform(keys, rng.CROP, steps, 3).double())
        if config.perspective > 0:
            u = rng.uniform(keys, rng.PERSPECTIVE, steps, 8).double()
            maps = _composed(maps, _perspective(config.perspective * u))
        if config.flip > 0:
            mirrored = rng.uniform(keys, rng.FLIP, steps, 1) < config.flip
            maps[..., 0] *= 1.0 - 2.0 * mirrored.double()
        return maps.float().flatten(2)

    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Resample the images, all moves at once."""
        zoom = config.scale[1] / config.crop[0] / (1.0 - config.perspective)
        return warp(images, numbers.view(len(numbers), -1, 3), zoom)


def _moved(config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
    """Maps (B, steps, 2, 3) of scale, rotation and jitter; these two in pixels of the view."""
    u = rng.uniform(keys, rng.WARP, steps, 4).double()
    (height, width), (low, high) = size, config.scale
    scale = low * (high / low) ** u[..., 0]
    angle = math.radians(config.rotate) * (2.0 * u[..., 1] - 1.0)
    right = (2.0 * config.jitter / width) * (2.0 * u[..., 2] - 1.0)
    down = (2.0 * config.jitter / height) * (2.0 * u[..., 3] - 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # One unit is half a side, so what a turn takes from one axis to the other changes its unit.
    x = torch.stack([cos, -sin * (height / width), right], dim=-1)
    y = torch.stack([sin * (width / height), cos, down], dim=-1)
    return torch.stack([x, y], dim=-2)


def _cropped(maps: Tensor, config: Transforms, u: Tensor) -> Tensor:
    """Maps (..., 2, 3) of views of a crop; u (..., 3) decides its side and its place.

    Places are normal about the middle, and moved inwards where the crop would leave the image.
    """
    side = between(config.crop, u[..., :1])
    centre = _CROPS_SPREAD * torch.special.ndtri(u[..., 1:])
    centre = torch.maximum(torch.minimum(centre, 1.0 - side), side - 1.0)
    maps = maps * side[..., None]
    maps[..., 2] += centre
    return maps


def _perspective(inwards: Tensor) -> Tensor:
    """Homographies (..., 3, 3) that show what lies between four points in the whole view.

    The points lie inwards of the image's corners, by up to half its sides along both axes; so far
    the range is that of torchvision's RandomPerspective, which moves the corners of the view to
    such points instead, and must fill what is left outside. Of Heckbert 1989, "Fundamentals of
    Texture Mapping and Image Warping", section 2.2.3, where the depth is 1 at the centre.

    Args:
        inwards: (..., 8) in [0, 1), x and y of each corner, clockwise from the upper left.
    """
    corners = inwards.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    p0, p1, p2, p3 = (corners * (1.0 - inwards.view(*inwards.shape[:-1], 4, 2))).unbind(-2)
    skew, left, up = p0 - p1 + p2 - p3, p1 - p2, p3 - p2
    span = _cross(left, up)
    g, h = _cross(skew, up) / span, _cross(left, skew) / span
    right, down = (p1 * (1.0 + g) - p0) / 2.0, (p3 * (1.0 + h) - p0) / 2.0
    numerators = torch.stack([right, down, p0 + right + down], dim=-1)
    denominator = torch.cat([g / 2.0, h / 2.0, 1.0 + g / 2.0 + h / 2.0], dim=-1)
    maps = torch.cat([numerators, denominator[..., None, :]], dim=-2)
    return maps / denominator[..., None, 2:]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :1] * b[..., 1:] - a[..., 1:] * b[..., :1]


def _composed(affine: Tensor, homography: Tensor) -> Tensor:
    """The product (..., 3, 3) of maps (..., 2, 3) and (..., 3, 3), the latter applied first."""
    right, down, shift = affine.unsqueeze(-1).unbind(-2)
    first, second, third = homography.unsqueeze(-3).unbind(-2)
    return torch.cat([right * first + down * second + shift * third, third], dim=-2)

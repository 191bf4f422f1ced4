"""Transforms: random, differentiable views of the images, drawn per sample and step.

`draw_views` draws all random numbers of an optimization at once, as one small tensor. `apply_views`
transforms the images by the numbers of one step. The transforms are a chain of parts: one warp for
everything that moves pixels, then colours, blur, noise and cutout. A part with neutral ranges takes
no numbers and no time.

Jitter, scale, rotation, crop, perspective and flip make one map, which takes the coordinates of the
view to those of the image, both in [-1, 1] along each axis. The view is made from the image in this
order: a crop fills the view; the view is shifted, rotated and scaled; perspective is applied; it is
flipped. One bilinear resampling applies the whole map. The image is continued by reflection, so no
border appears.
"""

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_atlas.config.recipe import Range, Transforms
from layer_atlas.visualization import rng

# --- the contract ---------------------------------------------------------------------------------


Size = tuple[int, int]
"""Height and width in pixels."""


class Part(ABC):
    """One transform of the images before the network.

    Its random numbers are a row per sample and step, drawn beforehand on the CPU from its own
    stream: so views have the same bits on every device, and the numbers of one part do not depend
    on the other active parts.
    """

    @abstractmethod
    def columns(self, config: Transforms) -> int:
        """Return the number of random numbers that it needs; 0 means that it is off."""

    @abstractmethod
    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw its numbers for images of that size: (B, steps, columns) float32.

        Args:
            config: the ranges.
            keys: (B, 2) int64 on the CPU, random keys of the jobs.
            steps: number of steps.
            size: height and width of the images in pixels.
        """

    @abstractmethod
    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Transform the images (B, C, H, W) by the numbers (B, columns) of one step.

        It is differentiable in the images, treats each by its own numbers alone, and never waits
        for the device.
        """


def between(limits: Range, u: Tensor) -> Tensor:
    """Map uniform numbers of (0, 1) to a range."""
    low, high = limits
    return low + (high - low) * u


# --- the map --------------------------------------------------------------------------------------


_NEGLIGIBLE_SCALE = 1.2
"""Up to this magnification, little of a view's gradient is lost without gathering."""

_LEAST_DEPTH = 1e-3
"""Lower bound of the depth of the image's pixels, seen from a view.

Opposite corners of a view have depths with a sum of 2, so each is below 2. Seen from the image,
everything in view therefore has a depth above 1/2.
"""

_BILINEAR: dict[str, Any] = {"mode": "bilinear", "align_corners": False}


def warp(images: Tensor, maps: Tensor, scale: float = 1.0) -> Tensor:
    """Resample each image (B, C, H, W) by its own map: (B, C, H, W).

    The gradient is the inverse warp of the incoming gradient, divided by the map's local
    determinant. Between pixels that is the exact adjoint of the resampling up to its interpolation;
    the gradient of the reflected border is omitted. Unlike the scattered additions of the exact
    adjoint it is a resampling too: three times faster, and deterministic on a GPU as well.

    Where a view magnifies strongly, many of its pixels are interpolated from one pixel of the
    image, and the inverse warp would sample only one of them. Their gradients are therefore
    gathered first, by the tent filter of the interpolation.

    Args:
        images: (B, C, H, W).
        maps: affine maps (B, 2, 3) or homographies (B, 3, 3) of depth 1 at the centre, from
            coordinates of the view in [-1, 1] to coordinates of the image.
        scale: the largest magnification of any of them.
    """
    warped: Tensor = _Warp.apply(images, maps, scale)
    return warped


class _Warp(torch.autograd.Function):
    """The warp, with the inverse warp as its gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, maps: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(maps)
        ctx.scale = scale
        grid = _grid(_points(images, maps))
        return F.grid_sample(images, grid, padding_mode="reflection", **_BILINEAR)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        inverse, determinant = _inverted(ctx.saved_tensors[0])
        gradient = grads[0].contiguous()
        if ctx.scale > _NEGLIGIBLE_SCALE:
            gradient = spread(gradient, _tent(determinant, ctx.scale))
        points = _points(gradient, inverse)
        # The area of the image that a pixel of the view covers, at the image's pixels.
        area = determinant.abs().view(-1, 1, 1, 1)
        if points.shape[1] == 3:
            # Points at the horizon have no position, and those behind it are none of the view's.
            # With this depth both lie outside of the view, where the gradient is zero.
            area = area * points[:, 2:].clamp_min_(_LEAST_DEPTH) ** 3
        gradient = F.grid_sample(gradient, _grid(points), **_BILINEAR)
        return gradient.div_(area), None, None


def _points(images: Tensor, maps: Tensor) -> Tensor:
    """Map each pixel's centre: x, y and for homographies their depth, (B, 2 or 3, H, W)."""
    height, width = images.shape[-2:]
    right, down, shift = maps.unsqueeze(-1).unbind(2)
    columns = right * centres(width, images.device)
    rows = down * centres(height, images.device) + shift
    return rows[..., None] + columns[..., None, :]


def _grid(points: Tensor) -> Tensor:
    """Return the position of each point (B, H, W, 2), in the memory of the points."""
    position, depth = points[:, :2], points[:, 2:]
    return (position.div_(depth) if depth.shape[1] else position).permute(0, 2, 3, 1)


def _inverted(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return inverse maps of the same shape, and determinants (B,)."""
    if maps.shape[1] == 2:
        return _inverted_affine(maps)
    first, second, third = maps.unbind(1)
    # By cross products, the adjugate: torch.linalg.inv waits for the device to check for errors.
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


def _tent(determinant: Tensor, scale: float) -> Tensor:
    """Return weights that fall to 0 over the view's pixels per image pixel: (B, R + 1), sum 1."""
    magnification = determinant.abs().rsqrt().clamp_min(1.0).unsqueeze(1)
    away = distances(math.ceil(scale) - 1, determinant.device)
    weights = (1.0 - away / magnification).clamp_min(0.0)
    return weights / (2.0 * weights.sum(dim=1, keepdim=True) - 1.0)


@cache
def centres(n: int, device: torch.device) -> Tensor:
    """Return the centres of n pixels that tile [-1, 1]: (n,)."""
    return (torch.arange(n, device=device, dtype=torch.float32) * 2.0 + 1.0) / n - 1.0


_CROPS_SPREAD = 0.3
"""Standard deviation of a crop's centre in [-1, 1]: 0.15 of the side, as in Horama and xplique."""


class Geometry(Part):
    """The warp of every sample by its own map, affine unless perspective is on."""

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
            # A flip negates the view's x axis: the first column of the map.
            maps[..., 0] *= 1.0 - 2.0 * mirrored.double()
        return maps.float().flatten(2)

    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Resample the images once for all moves."""
        # An upper bound from the ranges: reading the drawn maps would wait for the device.
        scale = config.scale[1] / config.crop[0] / (1.0 - config.perspective)
        return warp(images, numbers.view(len(numbers), -1, 3), scale)


def _moved(config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
    """Return maps (B, steps, 2, 3) of scale, rotation and jitter."""
    u = rng.uniform(keys, rng.WARP, steps, 4).double()
    (height, width), (low, high) = size, config.scale
    # Uniform in the logarithm: halving is as likely as doubling.
    scale = low * (high / low) ** u[..., 0]
    angle = math.radians(config.rotate) * (2.0 * u[..., 1] - 1.0)
    right = 2.0 * config.jitter * (2.0 * u[..., 2] - 1.0)
    down = 2.0 * config.jitter * (2.0 * u[..., 3] - 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    # One unit is half a side, so a rotation must convert between the units of both axes.
    x = torch.stack([cos, -sin * (height / width), right], dim=-1)
    y = torch.stack([sin * (width / height), cos, down], dim=-1)
    return torch.stack([x, y], dim=-2)


def _cropped(maps: Tensor, config: Transforms, u: Tensor) -> Tensor:
    """Compose maps (..., 2, 3) with crops; u (..., 3) determines their side and centre.

    Centres are normal about the middle, and clamped where the crop would leave the image.
    """
    side = between(config.crop, u[..., :1])
    centre = _CROPS_SPREAD * torch.special.ndtri(u[..., 1:])
    centre = torch.maximum(torch.minimum(centre, 1.0 - side), side - 1.0)
    maps = maps * side[..., None]
    maps[..., 2] += centre
    return maps


def _perspective(inwards: Tensor) -> Tensor:
    """Return homographies (..., 3, 3) that map the quadrilateral of four points to the whole view.

    The points lie inwards of the image's corners, by up to half its sides along both axes. The
    range is that of torchvision's RandomPerspective, which moves the corners of the view to such
    points instead, and must fill the area outside. Formulas of Heckbert 1989, "Fundamentals of
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
    """Return the product (..., 3, 3) of maps (..., 2, 3) and (..., 3, 3), the latter first."""
    right, down, shift = affine.unsqueeze(-1).unbind(-2)
    first, second, third = homography.unsqueeze(-3).unbind(-2)
    return torch.cat([right * first + down * second + shift * third, third], dim=-2)


def spread(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve images (B, C, H, W) along both axes with symmetric kernels, padding with zeros.

    On a CPU it uses shifted additions: a grouped convolution with kernels per sample is slower
    there. Sums of whole images also round alike for any batch and number of threads. On a GPU it is
    two such convolutions, of which each reads and writes the images once.

    Args:
        images: (B, C, H, W).
        kernel: (B, R + 1), each sample's weights at distances of 0 to R pixels.
    """
    convolved: Tensor = _Spread.apply(images, kernel)
    return convolved


class _Spread(torch.autograd.Function):
    """A symmetric convolution, which is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(kernel)
        along = _convolved if images.is_cuda else _along
        return along(along(images, kernel, 3), kernel, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(grads[0], *ctx.saved_tensors), None


def reach(kernel: Tensor, n: int) -> Tensor:
    """Return the sum of each kernel's weights inside n pixels, for each of them: (B, n)."""
    return _along(kernel.new_ones(1, 1, 1, n), kernel, 3)[:, 0, 0]


@cache
def distances(radius: int, device: torch.device) -> Tensor:
    """Return 0 to radius: (radius + 1,) float32."""
    return torch.arange(radius + 1, device=device, dtype=torch.float32)


def _along(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    weights = kernel[:, :, None, None, None].unbind(1)
    total, n = images * weights[0], images.shape[axis]
    for distance, weight in enumerate(weights[1:n], start=1):
        # The kernel is symmetric: each weight applies to both neighbours at this distance.
        overlap = n - distance
        total.narrow(axis, distance, overlap).addcmul_(images.narrow(axis, 0, overlap), weight)
        total.narrow(axis, 0, overlap).addcmul_(images.narrow(axis, distance, overlap), weight)
    return total


def _convolved(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """As `_along`, by a convolution with a group for each colour of each sample."""
    weights = torch.cat([kernel.flip(1), kernel[:, 1:]], dim=1)
    weights = weights.repeat_interleave(images.shape[1], dim=0).unsqueeze(1).unsqueeze(5 - axis)
    radius = kernel.shape[1] - 1
    padding = (0, radius) if axis == 3 else (radius, 0)
    maps = images.flatten(0, 1).unsqueeze(0)
    return F.conv2d(maps, weights, padding=padding, groups=maps.shape[1]).view_as(images)


# --- colours, blur, noise and cutout --------------------------------------------------------------


_UNCHANGED: Range = (1.0, 1.0)
_NONE: Range = (0.0, 0.0)


class Colours(Part):
    """Brightness, contrast and saturation, in this order, by the factors b, c and s.

        x <- b x
        x <- c x + (1 - c) m    m the mean of the grey image
        x <- s x + (1 - s) g    g the grey image; only where there are three colours

    The formulas of torchvision's ColorJitter without its clamp. Grey is 0.299 R + 0.587 G + 0.114 B
    (ITU-R BT.601); for any other number of colours it is the mean.
    """

    def columns(self, config: Transforms) -> int:
        """Three factors."""
        ranges = (config.brightness, config.contrast, config.saturation)
        return 3 if any(limits != _UNCHANGED for limits in ranges) else 0

    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw the factors, uniform in their ranges."""
        brightness, contrast, saturation = rng.uniform(keys, rng.COLOURS, steps, 3).unbind(2)
        factors = [
            between(config.brightness, brightness),
            between(config.contrast, contrast),
            between(config.saturation, saturation),
        ]
        return torch.stack(factors, dim=2)

    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Change the colours by one matrix for each image, and by its mean grey."""
        brightness, contrast, saturation = numbers[:, :, None, None].unbind(1)
        same, grey = _mixtures(images.shape[1], images.device, images.dtype)
        factors = brightness * contrast
        saturated = torch.lerp(grey, same, saturation) if len(same) == 3 else same
        mixed: Tensor = _Mixed.apply(images, factors * saturated, (brightness - factors) * grey[:1])
        return mixed


class _Mixed(torch.autograd.Function):
    """Colours M x + w m of colours x (C,) whose mean over the image is m: every colour gets w m.

    Images are (B, C, H, W), M is (B, C, C) and w (B, 1, C).
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, matrix: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, weight)
        # Axis by axis: torch splits a full reduction among threads.
        means = images.mean(dim=3).mean(dim=2, keepdim=True)
        mixed = torch.bmm(matrix, images.flatten(2)).add_(weight @ means)
        return mixed.view_as(images)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (matrix, weight), gradient = ctx.saved_tensors, grads[0]
        means = gradient.mean(dim=3).mean(dim=2, keepdim=True).sum(dim=1, keepdim=True)
        back = torch.bmm(matrix.mT, gradient.flatten(2)).add_(weight.mT * means)
        return back.view_as(gradient), None, None


@cache
def _mixtures(colours: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the matrices that leave colours as they are and make all of them grey: (C, C)."""
    weights = [0.299, 0.587, 0.114] if colours == 3 else [1.0 / colours] * colours
    grey = torch.tensor([weights] * colours, dtype=dtype)
    return torch.eye(colours, dtype=dtype).to(device), grey.to(device)


class Blur(Part):
    """A Gaussian of some width in pixels, truncated at three widths.

    At the border, the weights inside the image are normalized to a sum of 1.
    """

    def columns(self, config: Transforms) -> int:
        """One width in pixels."""
        return int(config.blur != _NONE)

    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw the widths, uniform in their range."""
        return between(config.blur, rng.uniform(keys, rng.BLUR, steps, 1))

    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Blur each image."""
        distance = distances(math.ceil(3.0 * config.blur[1]), images.device)
        # In double: the last bit of an exponential may depend on its index in the batch.
        kernel = torch.exp(-0.5 * (distance / numbers.double().clamp_min(1e-3)) ** 2).to(
            images.dtype
        )
        rows, columns = (reach(kernel, n) for n in images.shape[2:])
        return spread(images, kernel) / (rows[:, None, :, None] * columns[:, None, None, :])


class Noise(Part):
    """Additive normal noise, independent for all pixels and colours and redrawn at each step."""

    def columns(self, config: Transforms) -> int:
        """The standard deviation, and the noise's key in 16-bit words, exact in float32."""
        return 5 if config.noise != _NONE else 0

    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw standard deviations, uniform in their range, and keys."""
        deviation = between(config.noise, rng.uniform(keys, rng.NOISE_SD, steps, 1))
        words = rng.step_keys(keys, rng.NOISE_KEY, steps)
        halves = torch.cat([words >> 16, words & 0xFFFF], dim=2)
        return torch.cat([deviation, halves.float()], dim=2)

    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Add the noise."""
        high, low = numbers[:, 1:3].long(), numbers[:, 3:].long()
        # Drawn here and not beforehand: noise for all steps would exceed the memory.
        grain = rng.quick_normal((high << 16) | low, images[0].numel())
        return torch.addcmul(images, numbers[:, 0, None, None, None], grain.view_as(images))


class Cutout(Part):
    """A rectangle of mid-grey (DeVries & Taylor 2017, arXiv 1708.04552).

    As in the paper, its centre may be anywhere in the image, so part of it may lie outside.
    """

    def columns(self, config: Transforms) -> int:
        """Height and width as fractions of the image's, and the centre in [-1, 1], y first."""
        return 4 if config.cutout != _NONE else 0

    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw both sides, uniform in their range, and the centre."""
        u = rng.uniform(keys, rng.CUTOUT, steps, 4)
        return torch.cat([between(config.cutout, u[..., :2]), 2.0 * u[..., 2:] - 1.0], dim=2)

    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Cut out the rectangles."""
        sides, middle = numbers[:, :2], numbers[:, 2:]
        down, across = (
            (centres(n, images.device) - middle[:, axis, None]).abs() < sides[:, axis, None]
            for axis, n in enumerate(images.shape[2:])
        )
        return images.masked_fill((down[:, :, None] & across[:, None, :]).unsqueeze(1), 0.5)


# --- the chain of parts ---------------------------------------------------------------------------


_PARTS: tuple[Part, ...] = (Geometry(), Colours(), Blur(), Noise(), Cutout())
"""Parts in the order of image formation: scene, illumination, lens, sensor; then cutout."""


def draw_views(config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
    """Draw the random numbers of all steps at once.

    Args:
        config: the ranges.
        keys: (B, 2) int64, random keys of the jobs.
        steps: number of steps.
        size: height and width of the images in pixels.
    Returns: (steps, B, P) float32 on the device of the keys; the meaning of the P numbers depends
        on the active parts and is internal to `apply_views`.
    """
    on = [part for part in _PARTS if part.columns(config)]
    # Drawn on the CPU, where uniform numbers become maps with the same bits for every device.
    drawn = [part.draw(config, keys.cpu(), steps, size) for part in on]
    numbers = torch.cat([torch.empty(len(keys), steps, 0), *drawn], dim=2)
    return numbers.transpose(0, 1).contiguous().to(keys.device)


def apply_views(config: Transforms, images: Tensor, view: Tensor) -> Tensor:
    """Transform the images to their views at one step.

    Args:
        config: the ranges that the view was drawn from.
        images: (B, C, H, W) in [0, 1].
        view: (B, P), one step of `draw_views`.
    Returns: (B, C, H, W); colours and noise may leave [0, 1], because clamping would remove their
        gradient.
    """
    columns = [part.columns(config) for part in _PARTS]
    for part, numbers in zip(_PARTS, torch.split(view, columns, dim=1), strict=True):
        if numbers.shape[1]:
            images = part.apply(config, images, numbers)
    return images

"""Photometric transforms: colours, blur, noise and cutout."""

import math

import torch
from torch import Tensor

from layer_atlas.config.recipe import Range, Transforms
from layer_atlas.visualization import rng
from layer_atlas.visualization.transforms.geometry import (
    Part,
    Size,
    between,
    centres,
    distances,
    reach,
    spread,
)

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
        """Change the colours; skip a factor that is always 1."""
        brightness, contrast, saturation = numbers[:, :, None, None, None].unbind(1)
        if config.brightness != _UNCHANGED:
            images = images * brightness
        if config.contrast != _UNCHANGED:
            # Axis by axis: torch splits a full reduction among threads.
            mean = _grey(images).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
            images = torch.lerp(mean, images, contrast)
        if config.saturation != _UNCHANGED and images.shape[1] == 3:
            images = torch.lerp(_grey(images), images, saturation)
        return images


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


def _grey(images: Tensor) -> Tensor:
    """Return the grey image of each: (B, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = torch.split(images, 1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue

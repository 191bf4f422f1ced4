"""What changes pixels where they are: colours, blur, noise, a hole."""

import math

import torch
from torch import Tensor

from layer_atlas.config.transforms import Range, Transforms
from layer_atlas.visualization import rng
from layer_atlas.visualization.transforms.geometry import centres
from layer_atlas.visualization.transforms.part import Part, Size, between
from layer_atlas.visualization.transforms.spread import distances, reach, spread

_AS_IT_IS: Range = (1.0, 1.0)
_NONE: Range = (0.0, 0.0)


class Colours(Part):
    """Brightness, contrast and saturation, in this order, by the factors b, c and s.

        x <- b x
        x <- c x + (1 - c) m    m the mean of the grey image
        x <- s x + (1 - s) g    g the grey image; only where there are three colours

    The formulas of torchvision's ColorJitter without its clamp. Grey is 0.299 R + 0.587 G + 0.114 B
    (ITU-R BT.601); of any other number of colours it is the mean.
    """

    def columns(self, config: Transforms) -> int:
        """Three factors."""
        ranges = (config.brightness, config.contrast, config.saturation)
        return 3 if any(limits != _AS_IT_IS for limits in ranges) else 0

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
        """Change the colours; a factor that is always 1 is passed over."""
        brightness, contrast, saturation = numbers[:, :, None, None, None].unbind(1)
        if config.brightness != _AS_IT_IS:
            images = images * brightness
        if config.contrast != _AS_IT_IS:
            # Axis by axis: a sum that leaves one number is split among threads.
            mean = _grey(images).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
            images = torch.lerp(mean, images, contrast)
        if config.saturation != _AS_IT_IS and images.shape[1] == 3:
            images = torch.lerp(_grey(images), images, saturation)
        return images


class Blur(Part):
    """A Gaussian of some width in pixels; beyond three widths it is cut off.

    At the border, the weights that fall outside are shared by those that fall inside.
    """

    def columns(self, config: Transforms) -> int:
        """The width."""
        return int(config.blur != _NONE)

    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw the widths, uniform in their range."""
        return between(config.blur, rng.uniform(keys, rng.BLUR, steps, 1))

    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """Blur each image."""
        away = distances(math.ceil(3.0 * config.blur[1]), images.device)
        # In double: the last bit of an exponential may depend on where in a batch it stands.
        kernel = torch.exp(-0.5 * (away / numbers.double().clamp_min(1e-3)) ** 2).to(images.dtype)
        rows, columns = (reach(kernel, n) for n in images.shape[2:])
        return spread(images, kernel) / (rows[:, None, :, None] * columns[:, None, None, :])


class Noise(Part):
    """Additive normal noise, independent in all pixels and colours and drawn anew at each step."""

    def columns(self, config: Transforms) -> int:
        """The standard deviation, and the noise's key in words of 16 bits, exact in float32."""
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
        grain = rng.quick_normal((high << 16) | low, images[0].numel())
        return torch.addcmul(images, numbers[:, 0, None, None, None], grain.view_as(images))


class Cutout(Part):
    """A rectangle of mid-grey (DeVries & Taylor 2017, arXiv 1708.04552).

    As there, its centre may be anywhere in the image, so part of it may lie outside.
    """

    def columns(self, config: Transforms) -> int:
        """Height and width as a share of the image's, and the centre in [-1, 1], y first."""
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
    """The grey image of each: (B, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    red, green, blue = torch.split(images, 1, dim=1)
    return 0.299 * red + 0.587 * green + 0.114 * blue

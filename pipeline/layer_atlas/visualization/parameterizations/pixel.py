"""Pixel parameterizations: one value per pixel, or a Laplacian pyramid of them."""

import math

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Pixel, Pyramid
from layer_atlas.config.records import implements
from layer_atlas.models.pixels import fixed_contrast, resized
from layer_atlas.visualization.parameterizations.base import Shape, ValueImages, normal, rows, split


@implements(Pixel)
class PixelImages(ValueImages):
    """Images as free pixels, in decorrelated colours.

    Parameters: pixels (B, P), of which the first C * H * W are the values.
    """

    def __init__(self, config: Pixel, shape: Shape, keys: Tensor, find: Find = nowhere) -> None:
        super().__init__()
        self.shape = shape
        self.pixels = normal(keys, shape, config.initial_sd)

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        return rows(self.pixels, self.shape)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the pixels to values (B, C, H, W)."""
        # `values()` is a view of the parameters here.
        self.values().copy_(values)

    @torch.no_grad()
    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place."""
        values = self.values()
        values.copy_(torch.fft.irfft2(torch.fft.rfft2(values) * transfer, s=self.shape[1:]))


@implements(Pyramid)
class PyramidImages(ValueImages):
    """Images as sums of levels, each with twice the resolution of the previous one.

    The Laplacian pyramid of Burt & Adelson 1983, "The Laplacian Pyramid as a Compact Image Code",
    as in lucid's `laplacian_pyramid_image`: a step changes coarse and fine structure at once, but
    unlike a Fourier coefficient a level's value has a position. Contrast is fixed as in Fourier
    images.

    Parameters: levels (B, P), of which the first are the coarsest, (C, h, w), then the next, up to
    (C, H, W).
    """

    def __init__(self, config: Pyramid, shape: Shape, keys: Tensor, find: Find = nowhere) -> None:
        super().__init__()
        self.contrast, self.initial_sd = config.contrast, config.initial_sd
        self.shapes = level_shapes(shape, config.levels)
        self.gains = [2.0 ** (-config.decay_power * level) for level in range(config.levels)]
        self.used = sum(math.prod(level) for level in self.shapes)
        self.levels = normal(keys, (self.used,), config.initial_sd)

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        return fixed_contrast(self._collapsed(), self.contrast)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the levels to those of values (B, C, H, W), at their initial scale."""
        self._decompose(values)
        used = rows(self.levels, (self.used,))
        size = used.square().mean(dim=1, keepdim=True).clamp_min(1e-12).sqrt()
        used.mul_(self.initial_sd / size)

    @torch.no_grad()
    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place.

        Different levels can have the same sum; they become those that `encode` computes.
        """
        values = self._collapsed()
        self._decompose(torch.fft.irfft2(torch.fft.rfft2(values) * transfer, s=values.shape[2:]))

    def _collapsed(self) -> Tensor:
        """Return the sum of all levels: (B, C, H, W)."""
        coarsest, *finer = self._levels()
        values: Tensor = coarsest * self.gains[0]
        for level, gain in zip(finer, self.gains[1:], strict=True):
            values = resized(values, _size(level)) + level * gain
        return values

    def _decompose(self, values: Tensor) -> None:
        """Set each level to the difference between values (B, C, H, W) and the coarser levels."""
        # The levels are views of the parameters, so that copies into them set the parameters.
        levels = self._levels()
        for number in reversed(range(1, len(levels))):
            coarse = resized(values, _size(levels[number - 1]))
            detail = values - resized(coarse, _size(values))
            levels[number].copy_(detail / self.gains[number])
            values = coarse
        levels[0].copy_(values / self.gains[0])

    def _levels(self) -> list[Tensor]:
        """Return the levels (B, C, h, w), coarse to fine."""
        return split(self.levels, self.shapes)


def level_shapes(shape: Shape, levels: int) -> list[Shape]:
    """Return colours, height and width of each level, coarse to fine; the finest is the image's.

    >>> level_shapes((3, 20, 33), 3)
    [(3, 5, 9), (3, 10, 17), (3, 20, 33)]
    """
    colours, height, width = shape
    scales = [2**level for level in reversed(range(levels))]
    return [(colours, -(-height // scale), -(-width // scale)) for scale in scales]


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]

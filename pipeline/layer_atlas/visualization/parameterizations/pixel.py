"""Pixel parameterization: images as free pixels."""

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Pixel
from layer_atlas.config.records import implements
from layer_atlas.visualization.parameterizations.base import Shape, ValueImages, normal, rows


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

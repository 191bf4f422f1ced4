"""Masked parameterization: images inside a mask over a fixed background."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find
from layer_atlas.config.parameterizations import Mask
from layer_atlas.datasets.pictures import read_picture
from layer_atlas.visualization.parameterizations.base import Parameterization, Shape


def input_image(reference: str, shape: Shape, device: torch.device, find: Find) -> Tensor:
    """Return an image in the shape of the optimized ones: (1, C, H, W) in [0, 1]; do not modify it.

    Raises:
        UserError: the file is not an image.
    """
    return _read(find(reference), shape, device)


@lru_cache(maxsize=8)
def _read(path: Path, shape: Shape, device: torch.device) -> Tensor:
    # Cached, because every batch starts with it.
    return read_picture(path, shape[0], shape[1:]).to(device)


class MaskedImages(Parameterization):
    """mask * image + (1 - mask) * background, for images of any parameterization.

    The score's gradient reaches an image only where the mask is not black. Values and initial
    images are those of the whole image, of which the mask shows a part.
    """

    mask: Tensor
    around: Tensor

    def __init__(
        self, config: Mask, images: Parameterization, shape: Shape, keys: Tensor, find: Find
    ) -> None:
        super().__init__()
        self.images = images
        mask = input_image(config.area, (1, *shape[1:]), keys.device, find)
        background = input_image(config.picture, shape, keys.device, find)
        self.register_buffer("mask", mask)
        # Precomputed, because it is constant over all steps.
        self.register_buffer("around", (1.0 - mask) * background)

    def forward(self) -> Tensor:
        """Render images (B, C, H, W) in [0, 1]."""
        rendered: Tensor = self.mask * self.images() + self.around
        return rendered

    def values(self) -> Tensor:
        """Return the values of the whole images: (B, C, H, W)."""
        return self.images.values()

    def encode(self, values: Tensor) -> None:
        """Set the parameters from values (B, C, H, W) of whole images."""
        self.images.encode(values)

    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the whole images' values by `transfer`, in place."""
        self.images.blur_(transfer)

    def constrain_(self) -> None:
        """Project the parameters onto their permitted range after a step, in place."""
        self.images.constrain_()

"""Parameterizations: the optimized parameters, and their map to images.

The contract of a `Parameterization` for a batch of B jobs:
- Its parameters are (B, P), and sample b depends on row b alone.
- `forward()` renders images (B, C, H, W) in [0, 1], differentiably.
- Its initial parameters depend on the job keys alone (`rng`), or
- `encode` sets them from values (B, C, H, W), which rendering reproduces up to contrast.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layer_atlas.models.pixels import from_colours, to_colours
from layer_atlas.visualization import rng

Shape = tuple[int, int, int]
"""Colours, height and width of an image."""

_CACHE_LINE = 64


class Parameterization(nn.Module, ABC):
    """Base class; "values" are images in decorrelated colours before the sigmoid."""

    @abstractmethod
    def forward(self) -> Tensor:
        """Render images (B, C, H, W) in [0, 1]."""

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        return from_colours(self())

    def encode(self, values: Tensor) -> None:
        """Set the parameters from values (B, C, H, W).

        Raises:
            ValueError: the parameterization cannot represent given images; the config rejects such
                recipes before.
        """
        raise ValueError(f"{type(self).__name__} can start from noise alone.")

    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place.

        By default nothing happens: the parameters are not linear in the values.
        """

    def constrain_(self) -> None:
        """Project the parameters onto their permitted range after a step, in place.

        By default nothing happens: the parameters are unbounded.
        """


class ValueImages(Parameterization):
    """Parameterizations of values, rendered by the colour matrix and the sigmoid."""

    def forward(self) -> Tensor:
        """Render images (B, C, H, W) in [0, 1]."""
        return to_colours(self.values())

    @abstractmethod
    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""


def normal(keys: Tensor, shape: Sequence[int], sd: float) -> nn.Parameter:
    """Draw normal noise as parameters (B, P), P being the size of `shape` rounded up."""
    return padded(rng.normal(keys, rng.INITIAL, math.prod(shape)) * sd)


def padded(values: Tensor) -> nn.Parameter:
    """Pad each row with zeros to whole cache lines, and return it as a parameter.

    Fused Adam processes the odd end of a tensor with other instructions, and its position would
    depend on the batch size.
    """
    # One parameter per batch: a single kernel updates all samples.
    return nn.Parameter(nn.functional.pad(values, (0, -values.shape[1] % _CACHE_LINE)))


def rows(parameters: Tensor, shape: Sequence[int]) -> Tensor:
    """View the rows of parameters (B, P) as (B, *shape), without their padding."""
    return parameters[:, : math.prod(shape)].view(len(parameters), *shape)


def split(parameters: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """View the rows of parameters (B, P) as several tensors (B, *shape), in order."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = torch.split(parameters[:, : sum(sizes)], sizes, dim=1)
    return [part.view(len(part), *shape) for part, shape in zip(parts, shapes, strict=True)]

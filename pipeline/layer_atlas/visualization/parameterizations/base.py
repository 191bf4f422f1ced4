"""Parameterizations: what is optimised, and how it becomes an image.

The contract of the family: a `Parameterization` made for a batch of B jobs,
- whose parameters are (B, P), and whose sample b depends on row b alone,
- whose `forward()` renders images (B, C, H, W) in [0, 1], differentiably,
- whose initial values come from the job keys alone (`rng`), or
- from values (B, C, H, W) that `encode` takes: rendering then gives them back, up to contrast.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layer_atlas.models.colours import from_colours, to_colours
from layer_atlas.visualization import rng

Shape = tuple[int, int, int]
"""Colours, height and width of an image."""

_CACHE_LINE = 64


class Parameterization(nn.Module, ABC):
    """What the family promises; "values" are images in decorrelated colours before the sigmoid."""

    @abstractmethod
    def forward(self) -> Tensor:
        """Render: images (B, C, H, W) in [0, 1]."""

    def values(self) -> Tensor:
        """The values of the images: (B, C, H, W)."""
        return from_colours(self())

    def encode(self, values: Tensor) -> None:
        """Set the parameters to those of given values (B, C, H, W).

        Raises:
            ValueError: no parameters can be found for given images; a config that wants them is
                refused.
        """
        raise ValueError(f"{type(self).__name__} can start from noise alone.")

    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place.

        Nothing, where parameters are not linear in the values.
        """

    def constrain_(self) -> None:
        """After a step, bring parameters back to where they may be, in place.

        Nothing, where they may be anywhere.
        """


class ValueImages(Parameterization):
    """Images that are made of values."""

    def forward(self) -> Tensor:
        """Render: images (B, C, H, W) in [0, 1]."""
        return to_colours(self.values())

    @abstractmethod
    def values(self) -> Tensor:
        """The values of the images: (B, C, H, W)."""


def normal(keys: Tensor, shape: Sequence[int], sd: float) -> nn.Parameter:
    """Normal noise as parameters (B, P), P being the size of `shape` rounded up."""
    return padded(rng.normal(keys, rng.INITIAL, math.prod(shape)) * sd)


def padded(values: Tensor) -> nn.Parameter:
    """Parameters of which each row is rounded up to whole cache lines with zeros.

    Fused Adam treats the odd end of a tensor with other instructions, and where that end lies would
    depend on the batch size.
    """
    return nn.Parameter(nn.functional.pad(values, (0, -values.shape[1] % _CACHE_LINE)))


def rows(parameters: Tensor, shape: Sequence[int]) -> Tensor:
    """The rows of parameters (B, P) as (B, *shape), without their padding."""
    return parameters[:, : math.prod(shape)].view(len(parameters), *shape)


def split(parameters: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """The rows of parameters (B, P) as several (B, *shape), one after the other."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = torch.split(parameters[:, : sum(sizes)], sizes, dim=1)
    return [part.view(len(part), *shape) for part, shape in zip(parts, shapes, strict=True)]

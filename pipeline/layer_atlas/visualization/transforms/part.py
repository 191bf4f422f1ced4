"""The contract of the parts of the transforms."""

from abc import ABC, abstractmethod

from torch import Tensor

from layer_atlas.config.recipe import Range, Transforms

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

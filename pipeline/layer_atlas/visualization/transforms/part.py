"""What every part of the transforms keeps to."""

from abc import ABC, abstractmethod

from torch import Tensor

from layer_atlas.config.recipe import Range, Transforms

Size = tuple[int, int]
"""Height and width in pixels."""


class Part(ABC):
    """One thing that happens to the images on their way to the network.

    All that is random in it is a row of numbers per sample and step, drawn beforehand on the CPU
    from a stream of its own: so views are of the same bits on every device, and what one part
    draws does not depend on which others are on.
    """

    @abstractmethod
    def columns(self, config: Transforms) -> int:
        """How many numbers it needs; 0 means that it is off."""

    @abstractmethod
    def draw(self, config: Transforms, keys: Tensor, steps: int, size: Size) -> Tensor:
        """Draw its numbers for images of that size: (B, steps, columns) float32.

        Args:
            config: the ranges.
            keys: (B, 2) int64 on the CPU, random keys of the jobs.
            steps: number of steps.
            size: height and width of the images.
        """

    @abstractmethod
    def apply(self, config: Transforms, images: Tensor, numbers: Tensor) -> Tensor:
        """What becomes of the images (B, C, H, W) by the numbers (B, columns) of one step.

        Differentiable in the images, each by its own numbers alone, without waiting for the device.
        """


def between(limits: Range, u: Tensor) -> Tensor:
    """Uniform numbers of a range, from uniform numbers of (0, 1)."""
    low, high = limits
    return low + (high - low) * u

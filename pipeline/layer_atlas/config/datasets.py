"""Records of what is done with photographs: whence they come, what is kept, how they are mapped."""

from dataclasses import dataclass
from typing import Any

from layer_atlas.config.ranges import one_or_more, require, within

MOST_PHOTOGRAPHS = 9
"""Of a kind that a sheet of evidence shows of a channel."""

_MOST_KEPT = 1000
"""Photographs of a channel at either end; there is room for them in every block of a dataset."""


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """What is kept of the photographs of a dataset, whichever it is."""

    top: int = 9
    """How many photographs are kept of those that excite a channel most."""
    bottom: int = 9
    """How many are kept of those that excite it least."""
    reference: int = 10_000
    """Of so many photographs, evenly spread over the dataset, all responses are kept: quantiles
    and agreement come from them."""
    examples: int = 4
    """How many of the strongest and weakest photographs are kept as pictures."""

    def __post_init__(self) -> None:
        within(1, _MOST_KEPT, top=self.top)
        within(0, _MOST_KEPT, bottom=self.bottom)
        require(self.reference >= 100, f"reference must be 100 or more, not {self.reference}.")
        within(0, MOST_PHOTOGRAPHS, examples=self.examples)


@dataclass(frozen=True, kw_only=True)
class FolderDataset(DatasetSettings):
    """Every image of a folder, at any nesting."""

    name: str = "folder"
    path: str
    """The folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.path.strip()), "path must not be empty.")


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(DatasetSettings):
    """A dataset of torchvision."""

    name: str = "torchvision"
    dataset: str
    """Name of a class of `torchvision.datasets`."""
    args: dict[str, Any] | None = None
    """Keyword arguments of that class, such as root, train, split and download."""


DatasetConfig = FolderDataset | TorchvisionDataset


@dataclass(frozen=True)
class VanillaSaliency:
    """Saliency by the gradient itself (Simonyan et al. 2014, arXiv 1312.6034)."""

    name: str = "vanilla"
    dataset_images: int = 4
    """Maps are made for so many of each channel's strongest photographs."""

    def __post_init__(self) -> None:
        one_or_more(dataset_images=self.dataset_images)


@dataclass(frozen=True)
class SmoothGrad:
    """Saliency by the mean gradient over noisy copies (Smilkov et al. 2017, arXiv 1706.03825)."""

    name: str = "smoothgrad"
    dataset_images: int = 4
    """Maps are made for so many of each channel's strongest photographs."""
    samples: int = 16
    """Noisy copies per map."""
    noise: float = 0.1
    """Standard deviation of the noise, as a share of the photograph's range of values; much of it
    silences some channels of deep layers, whose maps are then zeros."""

    def __post_init__(self) -> None:
        one_or_more(dataset_images=self.dataset_images, samples=self.samples)
        within(0, 1, noise=self.noise)


@dataclass(frozen=True)
class IntegratedGradients:
    """Saliency by what the pixels add to the score on the way from a black image to the photograph.

    Sundararajan et al. 2017, arXiv 1703.01365.
    """

    name: str = "integrated_gradients"
    dataset_images: int = 4
    """Maps are made for so many of each channel's strongest photographs."""
    steps: int = 32
    """Points on the way at which gradients are taken."""

    def __post_init__(self) -> None:
        one_or_more(dataset_images=self.dataset_images, steps=self.steps)


SaliencyMethod = VanillaSaliency | SmoothGrad | IntegratedGradients

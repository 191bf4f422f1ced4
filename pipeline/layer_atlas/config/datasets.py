"""Datasets of images to compare with, what is kept of them, and saliency maps."""

from dataclasses import dataclass
from typing import Any

from layer_atlas.config.objectives import SIMONYAN_2014
from layer_atlas.config.records import Choice, Reference, register, setting

SMILKOV_2017 = Reference(
    "Smilkov et al. 2017", "SmoothGrad: removing noise by adding noise. arXiv:1706.03825."
)
SUNDARARAJAN_2017 = Reference(
    "Sundararajan et al. 2017",
    "Axiomatic attribution for deep networks. ICML, arXiv:1703.01365.",
)

MOST_PHOTOGRAPHS = 9
"""Largest number of strongest, or of weakest, dataset images of a channel on a sheet of evidence.
"""

_MOST_KEPT = 1000
"""Largest number of dataset images per channel at either end; every block of a dataset has room
for them."""


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(Choice, family="dataset"):
    """Base of the datasets: how much of the channels' responses is kept."""

    top: int = setting(9, at_least=1, at_most=_MOST_KEPT)
    """Number of dataset images per channel that are kept of those with the largest responses."""
    bottom: int = setting(9, at_least=0, at_most=_MOST_KEPT)
    """Number of dataset images per channel that are kept of those with the smallest responses."""
    reference: int = setting(10_000, at_least=100)
    """Number of dataset images, evenly spread, of which all responses are kept. Quantiles and
    agreement come from them."""
    examples: int = setting(4, at_least=0, at_most=MOST_PHOTOGRAPHS)
    """Number of the strongest and of the weakest dataset images that are kept as pictures."""

    @property
    def source(self) -> str:
        """Where the images come from, for people."""
        return self.name


@register("folder", kw_only=True)
class FolderDataset(DatasetConfig):
    """Every .jpeg, .jpg, .png and .webp image of a folder, at any nesting."""

    path: str = setting(needs="not be empty")
    """The folder of images."""

    @property
    def source(self) -> str:
        """The folder."""
        return self.path


@register("torchvision", kw_only=True)
class TorchvisionDataset(DatasetConfig):
    """A dataset of torchvision."""

    dataset: str
    """Name of a class of `torchvision.datasets`."""
    args: dict[str, Any] | None = None
    """Keyword arguments of that class, such as `{root: data, train: false, download: true}`."""

    @property
    def source(self) -> str:
        """The class of torchvision."""
        return self.dataset


@dataclass(frozen=True)
class SaliencyMethod(Choice, family="saliency"):
    """Base of the methods that map where a channel looks in its strongest dataset images."""

    dataset_images: int = setting(4, at_least=1)
    """Number of each channel's strongest dataset images that get a map."""


@register("vanilla")
class VanillaSaliency(SaliencyMethod):
    """Saliency by the gradient itself."""

    references = (SIMONYAN_2014,)


@register("smoothgrad")
class SmoothGrad(SaliencyMethod):
    """Saliency by the mean gradient over noisy copies."""

    references = (SMILKOV_2017,)
    samples: int = setting(16, at_least=1)
    """Number of noisy copies per map."""
    noise: float = setting(0.1, at_least=0.0, at_most=1.0)
    """Standard deviation of the noise, as a fraction of the image's range of values. Strong noise
    silences some channels of deep layers, whose maps are then zeros."""


@register("integrated_gradients")
class IntegratedGradients(SaliencyMethod):
    """Saliency by the gradients on the way from a black image to the dataset image."""

    references = (SUNDARARAJAN_2017,)
    steps: int = setting(32, at_least=1)
    """Number of points on the way at which gradients are taken."""

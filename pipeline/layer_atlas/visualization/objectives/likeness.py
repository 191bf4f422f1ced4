"""Objectives about a photograph, and what a layer sees in it."""

from functools import cached_property

import torch
from torch import Tensor

from layer_atlas.config.objectives import (
    AccentuationObjective,
    CaricatureObjective,
    InversionObjective,
)
from layer_atlas.config.records import implements
from layer_atlas.datasets.pictures import read_picture
from layer_atlas.visualization.objectives.base import (
    LEAST_COSINE,
    Activations,
    Objective,
    ObjectiveContext,
    picked,
    total,
)


class _OfPhotograph(Objective):
    """Knows what the layer answers to a photograph.

    Raises:
        UserError: the file is no image.
    """

    def __init__(self, photograph: str, surroundings: ObjectiveContext) -> None:
        path = surroundings.find(photograph)
        self._image = read_picture(path, surroundings.colours, surroundings.size)
        self._surroundings = surroundings

    @cached_property
    def seen(self) -> Tensor:
        """The activations of the photograph: (1, K, L); a plan does without them."""
        # As many as fill a batch up, because a batch of one takes other kernels.
        images = self._image.to(self._surroundings.device).expand(8, -1, -1, -1).contiguous()
        with torch.no_grad():
            return self._surroundings.activations(images)[0][:1].float()

    @cached_property
    def energy(self) -> Tensor:
        """|r|**2, without dimensions."""
        return self.seen.square().sum().clamp_min(1e-12)


@implements(CaricatureObjective)
class Caricature(_OfPhotograph):
    """What the layer sees in a photograph, exaggerated: s = mean_k,l(a * r) * cos(a, r)**p.

    r are the activations of the photograph. Carter et al. 2019, "Activation Atlas", and Olah et al.
    2018, "The Building Blocks of Interpretability", visualise activations so; with all positions
    at once it is the caricature of lucid's notebooks.
    """

    def __init__(self, record: CaricatureObjective, surroundings: ObjectiveContext) -> None:
        super().__init__(record.photograph, surroundings)
        self.sizes, self.power = (1,), record.cosine_power

    @cached_property
    def length(self) -> Tensor:
        """|r|, without dimensions."""
        length: Tensor = self.seen.norm()
        return length.clamp_min(1e-12)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The score: (B, 1) float32."""
        activation = activations[0].float()
        product = total(activation * self.seen)
        score = product / self.seen.numel()
        if self.power > 0:
            norms = total(activation.square()).clamp_min(1e-12).sqrt() * self.length
            cosine = product / norms.clamp_min(1e-12)
            score = score * cosine.clamp_min(LEAST_COSINE) ** self.power
        return score[:, None]


@implements(InversionObjective)
class Inversion(_OfPhotograph):
    """An image that the layer takes for the photograph: s = -|a - r|**2 / |r|**2.

    Mahendran & Vedaldi 2015, "Understanding Deep Image Representations by Inverting Them", section
    2; what holds the image back is the recipe's.
    """

    def __init__(self, record: InversionObjective, surroundings: ObjectiveContext) -> None:
        super().__init__(record.photograph, surroundings)
        self.sizes = (1,)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The score: (B, 1) float32."""
        distance = total((activations[0].float() - self.seen).square())
        return -(distance / self.energy)[:, None]


@implements(AccentuationObjective)
class Accentuation(_OfPhotograph):
    """A channel brought out in a photograph: s = mean_l a[k, l], and s - w * d is climbed.

    d = |a - r|**2 / |r|**2 over all other channels, times |s|: the rest of the layer is to stay
    what it was in the photograph. After Hamblin et al. 2024, "Feature Accentuation" (arXiv
    2402.10039), who hold back a layer between image and channel instead. To be started from the
    photograph.
    """

    def __init__(self, record: AccentuationObjective, surroundings: ObjectiveContext) -> None:
        super().__init__(record.photograph, surroundings)
        self.sizes, self.weight = (surroundings.layers[0].n_channels,), record.faithfulness

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The channel at each position: (B, L) float32."""
        return picked(activations[0], targets)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and scores less distance (B,), float32."""
        score = self.score(activations, targets)
        apart = (activations[0].float() - self.seen).square()
        rest = total(apart) - picked(apart, targets).sum(dim=1)
        return score, score - self.weight * score.detach().abs() * rest / self.energy

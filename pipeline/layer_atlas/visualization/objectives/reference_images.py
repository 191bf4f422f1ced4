"""Objectives relative to the activations of a reference image."""

from functools import cached_property

import torch
from torch import Tensor

from layer_atlas.config.objectives import (
    AccentuationObjective,
    CaricatureObjective,
    InversionObjective,
)
from layer_atlas.config.records import implements
from layer_atlas.datasets.image_files import read_picture
from layer_atlas.visualization.objectives.base import (
    LEAST_COSINE,
    Activations,
    Objective,
    ObjectiveContext,
    picked,
    total,
)


class _ReferenceObjective(Objective):
    """Base of objectives that read a layer's activations for a reference image.

    Raises:
        UserError: the file is not an image.
    """

    def __init__(self, reference_image: str, context: ObjectiveContext) -> None:
        path = context.find(reference_image)
        self._image = torch.from_numpy(read_picture(path, context.colours, context.size))
        self._context = context

    @cached_property
    def reference(self) -> Tensor:
        """The activations of the reference image: (1, K, L), computed at first use."""
        # A full CPU batch of copies, because a batch of one uses other kernels.
        images = self._image.to(self._context.device).expand(8, -1, -1, -1).contiguous()
        with torch.no_grad():
            return self._context.activations(images)[0][:1].float()

    @cached_property
    def energy(self) -> Tensor:
        """|r|**2, zero-dimensional."""
        return self.reference.square().sum().clamp_min(1e-12)


@implements(CaricatureObjective)
class Caricature(_ReferenceObjective):
    """The features of a reference image, exaggerated: s = mean_k,l(a * r) * cos(a, r)**p.

    r are the activations of the reference image. Carter et al. 2019, "Activation Atlas", and Olah
    et al. 2018, "The Building Blocks of Interpretability", visualise activations this way. With all
    positions at once it is the caricature of lucid's notebooks.
    """

    def __init__(self, record: CaricatureObjective, context: ObjectiveContext) -> None:
        super().__init__(record.photograph, context)
        self.sizes, self.power = (1,), record.cosine_power

    @cached_property
    def length(self) -> Tensor:
        """|r|, zero-dimensional."""
        length: Tensor = self.reference.norm()
        return length.clamp_min(1e-12)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the score: (B, 1) float32."""
        activation = activations[0].float()
        product = total(activation * self.reference)
        score = product / self.reference.numel()
        if self.power > 0:
            norms = total(activation.square()).clamp_min(1e-12).sqrt() * self.length
            cosine = product / norms.clamp_min(1e-12)
            score = score * cosine.clamp_min(LEAST_COSINE) ** self.power
        return score[:, None]


@implements(InversionObjective)
class Inversion(_ReferenceObjective):
    """An image with the activations of the reference image: s = -|a - r|**2 / |r|**2.

    Mahendran & Vedaldi 2015, "Understanding Deep Image Representations by Inverting Them", section
    2. Regularizers are those of the recipe.
    """

    def __init__(self, record: InversionObjective, context: ObjectiveContext) -> None:
        super().__init__(record.photograph, context)
        self.sizes = (1,)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the score: (B, 1) float32."""
        distance = total((activations[0].float() - self.reference).square())
        return -(distance / self.energy)[:, None]


@implements(AccentuationObjective)
class Accentuation(_ReferenceObjective):
    """A channel enhanced in a reference image: s = mean_l a[k, l], maximizing s - w * d.

    d = |a - r|**2 / |r|**2 over all other channels, times |s|: it keeps the rest of the layer close
    to the reference image. After Hamblin et al. 2024, "Feature Accentuation" (arXiv 2402.10039),
    who constrain a layer between image and channel instead. The optimization should start from the
    reference image.
    """

    def __init__(self, record: AccentuationObjective, context: ObjectiveContext) -> None:
        super().__init__(record.photograph, context)
        self.sizes, self.weight = (context.layers[0].n_channels,), record.faithfulness

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and the scores minus the distance (B,), float32."""
        score = self.score(activations, targets)
        squared_difference = (activations[0].float() - self.reference).square()
        rest = total(squared_difference) - picked(squared_difference, targets).sum(dim=1)
        # |s| is detached: its gradient would reward lower scores.
        return score, score - self.weight * score.detach().abs() * rest / self.energy

"""Several images for one target that look at each other."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from layer_atlas.config.objectives import DiversityObjective, InterpolationObjective
from layer_atlas.config.records import implements
from layer_atlas.visualization.objectives.base import (
    Activations,
    Objective,
    ObjectiveContext,
    parts_of,
    picked,
    total,
)


@implements(DiversityObjective)
class Diversity(Objective):
    """Images for one channel that differ: s_v = mean_l a_v[k, l], and s_v - w * d_v is climbed.

    d_v is the mean, over the job's other images u, of the cosine between the Gram matrices
    G_v = A_v A_v' and G_u of all the layer's activations A (K, L), times the mean |s| of the job,
    so that a weight means the same in any layer. Olah et al. 2017, "Feature Visualization", section
    "Diversity".
    """

    def __init__(self, record: DiversityObjective, surroundings: ObjectiveContext) -> None:
        self.sizes = (surroundings.layers[0].n_channels,)
        self.variants, self.weight = record.variants, record.weight

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The channel at each position: (B, L) float32."""
        return picked(activations[0], targets)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and scores less likeness (B,), float32."""
        score = self.score(activations, targets)
        likeness = gram_cosines(activations[0].float(), self.variants)
        others = (likeness.sum(dim=2) - 1.0) / (self.variants - 1)
        return score, score - self.weight * strength(score, self.variants) * others.flatten()


@implements(InterpolationObjective)
class Interpolation(Objective):
    """Images on the way from channel i to channel j, each like its neighbours.

    With t from 0 to 1 along the variants, s_v = (1 - t) * mean_l a_v[i, l] + t * mean_l a_v[j, l],
    and s_v + w * n_v is climbed, n_v being the mean cosine between all the layer's activations of
    the image and those of its neighbours, times the mean |s| of the job. Olah et al. 2017, "Feature
    Visualization", section "How neurons interact", aligns neighbours for the same end.
    """

    def __init__(self, record: InterpolationObjective, surroundings: ObjectiveContext) -> None:
        n = surroundings.layers[0].n_channels
        self.sizes, self.variants, self.weight = (n, n), record.variants, record.alignment
        self.way = torch.linspace(0.0, 1.0, record.variants, device=surroundings.device)
        self.neighbours = torch.full_like(self.way, 2.0)
        self.neighbours[0] = self.neighbours[-1] = 1.0

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The weighted sum of both channels at each position: (B, L) float32."""
        first, second = parts_of(targets, self.sizes)
        way = self.way.repeat(len(targets) // self.variants)[:, None]
        return (1.0 - way) * picked(activations[0], first) + way * picked(activations[0], second)

    def parts(self, activations: Activations, targets: Tensor) -> Tensor:
        """The mean of each channel: (B, 2) float32."""
        channels = parts_of(targets, self.sizes)
        return torch.stack([picked(activations[0], c).mean(dim=1) for c in channels], dim=1)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and scores with likeness of neighbours (B,), float32."""
        score = self.score(activations, targets)
        alike = self._likeness_of_neighbours(activations[0].float())
        # Of the neighbour before and of the one after; those at the ends have one.
        both = pad(alike, (1, 0)) + pad(alike, (0, 1))
        likeness = (both / self.neighbours).flatten()
        return score, score + self.weight * strength(score, self.variants) * likeness

    def _likeness_of_neighbours(self, activation: Tensor) -> Tensor:
        """Cosines between (B, K, L) activations of neighbours: (B // V, V - 1)."""
        norms = total(activation.square()).clamp_min(1e-12).sqrt().view(-1, self.variants)
        # Sample by sample, so that the layout stays; what is rolled in from another job is cut off.
        products = total(activation * activation.roll(1, dims=0)).view(-1, self.variants)[:, 1:]
        return products / (norms[:, 1:] * norms[:, :-1])


def strength(score: Tensor, variants: int) -> Tensor:
    """The mean |score| of each sample's job, as a number without gradient: (B,)."""
    jobs = score.detach().abs().view(-1, variants)
    return jobs.mean(dim=1, keepdim=True).expand_as(jobs).flatten()


def gram_cosines(activation: Tensor, variants: int) -> Tensor:
    """Cosines between the Gram matrices of the variants of each job.

    Args:
        activation: (B, K, L) float32.
        variants: V per job.
    Returns: (B // V, V, V).
    """
    products = _gram_products(activation.reshape(-1, variants, *activation.shape[1:]))
    norms = products.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
    return products / (norms[:, :, None] * norms[:, None, :])


def _gram_products(maps: Tensor) -> Tensor:
    """Inner products of Gram matrices of (n, V, K, L), on the cheaper of two ways: (n, V, V)."""
    _, variants, channels, positions = maps.shape
    if channels**2 <= variants * positions**2:
        gram = (maps @ maps.mT).flatten(2)
        return gram @ gram.mT
    # <A A', B B'> = |A' B|**2
    across = maps.mT.unsqueeze(2) @ maps.unsqueeze(1)
    return across.square().sum(dim=(3, 4))

"""Objectives of several images per target that depend on each other."""

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
    """Different images of one channel: s_v = mean_l a_v[k, l], maximizing s_v - w * d_v.

    d_v is the mean, over the job's other images u, of the cosine between the Gram matrices G_v =
    A_v A_v' and G_u of all the layer's activations A (K, L), times the mean |s| of the job, so that
    a weight means the same in any layer. Olah et al. 2017, "Feature Visualization", section
    "Diversity".
    """

    def __init__(self, record: DiversityObjective, context: ObjectiveContext) -> None:
        self.sizes = (context.layers[0].n_channels,)
        self.variants, self.weight = record.variants, record.weight

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the channel at each position: (B, L) float32."""
        return picked(activations[0], targets)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and the scores minus the similarity (B,), float32."""
        score = self.score(activations, targets)
        similarity = gram_cosines(activations[0].float(), self.variants)
        # The diagonal is each image's cosine with itself, 1.
        others = (similarity.sum(dim=2) - 1.0) / (self.variants - 1)
        return score, score - self.weight * strength(score, self.variants) * others.flatten()


@implements(InterpolationObjective)
class Interpolation(Objective):
    """Images between channel i and channel j, each similar to its neighbours.

    With t from 0 to 1 along the variants, s_v = (1 - t) * mean_l a_v[i, l] + t * mean_l a_v[j, l],
    maximizing s_v + w * n_v. n_v is the mean cosine between all the layer's activations of the
    image and those of its neighbours, times the mean |s| of the job. Olah et al. 2017, "Feature
    Visualization", section "How neurons interact", aligns neighbours for the same purpose.
    """

    def __init__(self, record: InterpolationObjective, context: ObjectiveContext) -> None:
        n = context.layers[0].n_channels
        self.sizes, self.variants, self.weight = (n, n), record.variants, record.alignment
        self.mix = torch.linspace(0.0, 1.0, record.variants, device=context.device)
        self.neighbours = torch.full_like(self.mix, 2.0)
        self.neighbours[0] = self.neighbours[-1] = 1.0

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the weighted sum of both channels at each position: (B, L) float32."""
        first, second = parts_of(targets, self.sizes)
        mix = self.mix.repeat(len(targets) // self.variants)[:, None]
        return (1.0 - mix) * picked(activations[0], first) + mix * picked(activations[0], second)

    def parts(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the mean of each channel: (B, 2) float32."""
        channels = parts_of(targets, self.sizes)
        return torch.stack([picked(activations[0], c).mean(dim=1) for c in channels], dim=1)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and the scores plus the similarity of neighbours (B,), float32."""
        score = self.score(activations, targets)
        neighbour_cosines = self._neighbour_cosines(activations[0].float())
        # The previous neighbour plus the next one; images at the ends have a single neighbour.
        both = pad(neighbour_cosines, (1, 0)) + pad(neighbour_cosines, (0, 1))
        similarity = (both / self.neighbours).flatten()
        return score, score + self.weight * strength(score, self.variants) * similarity

    def _neighbour_cosines(self, activation: Tensor) -> Tensor:
        """Return cosines between (B, K, L) activations of neighbours: (B // V, V - 1)."""
        norms = total(activation.square()).clamp_min(1e-12).sqrt().view(-1, self.variants)
        # Per sample, so that the layout stays; the slice removes pairs across jobs.
        products = total(activation * activation.roll(1, dims=0)).view(-1, self.variants)[:, 1:]
        return products / (norms[:, 1:] * norms[:, :-1])


def strength(score: Tensor, variants: int) -> Tensor:
    """Return the mean |score| of each sample's job, detached: (B,)."""
    jobs = score.detach().abs().view(-1, variants)
    return jobs.mean(dim=1, keepdim=True).expand_as(jobs).flatten()


def gram_cosines(activation: Tensor, variants: int) -> Tensor:
    """Compute cosines between the Gram matrices of the variants of each job.

    Args:
        activation: (B, K, L) float32.
        variants: number V of variants per job.
    Returns: (B // V, V, V).
    """
    products = _gram_products(activation.reshape(-1, variants, *activation.shape[1:]))
    norms = products.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
    return products / (norms[:, :, None] * norms[:, None, :])


def _gram_products(maps: Tensor) -> Tensor:
    """Compute inner products of Gram matrices of (n, V, K, L) in the cheaper order: (n, V, V)."""
    _, variants, channels, positions = maps.shape
    if channels**2 <= variants * positions**2:
        gram = (maps @ maps.mT).flatten(2)
        return gram @ gram.mT
    # <A A', B B'> = |A' B|**2
    across = maps.mT.unsqueeze(2) @ maps.unsqueeze(1)
    return across.square().sum(dim=(3, 4))

"""Distribution alignment: activations distributed as in the target's strongest dataset images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_atlas.config.objectives import PrototypeObjective, StrongestImagesObjective
from layer_atlas.config.records import implements
from layer_atlas.models.numerics import filled_up
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.visualization.objectives.base import (
    Activations,
    Objective,
    ObjectiveContext,
    picked,
    total,
)

DEPTHS = (0.25, 0.5, 0.75)
"""Depths of the layers that are matched besides the target's own, as fractions of operations."""

_LARGEST_WEIGHT = 2**20


class StrongestImages(Objective):
    """A channel beside the activations of its strongest dataset images in several layers.

    The score stays the channel's response, as dataset images have it. The first layer is the
    target's own.
    """

    def __init__(self, record: StrongestImagesObjective, context: ObjectiveContext) -> None:
        self.sizes, self.n_layers = (context.layers[0].n_channels,), len(context.layers)
        self._context = context

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the channel at each position: (B, L) float32."""
        return picked(activations[0], targets)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Return the activations of images (N, C, H, W): (N, K, L) float32 per layer."""
        images = images.to(self._context.device)
        whole = images[filled_up(len(images), images.device)]
        return [a[: len(images)].float() for a in self._context.activations(whole)]

    def _positive(self, response: Tensor) -> Tensor:
        return response.nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)

    def _resampled(self, weights: Tensor, layer: LayerInfo) -> Tensor:
        """Return weights (B, L) of the target's positions at those of a layer."""
        own = self._context.layers[0]
        if layer.positions == own.positions:
            return weights
        maps = weights.view(-1, 1, *own.map_size)
        return F.interpolate(maps, layer.map_size, mode="bilinear").flatten(1)


@implements(PrototypeObjective)
class Prototype(StrongestImages):
    """An image like the target's strongest dataset images: s = mean_l a[k, l], maximizing -d.

    d is the mean, over the layers, of |sort(a) - r|**2 / |r|**2, where `sort` orders the values of
    each channel over positions and r is the sorted sample of that channel in the dataset images. So
    d compares how often each value occurs and not where: for each channel it is the squared
    Wasserstein distance of two distributions. After Goergun et al. 2025, "VITAL" (arXiv
    2503.22399), who weight channels by their relevance to the target. Here positions have weights:
    the sample is from all images together, in proportion to the target's response there, so that it
    is of what the target responds to and not of the background.
    """

    @torch.no_grad()
    def references(self, dataset_images: Tensor | None, targets: Tensor) -> tuple[Tensor, ...]:
        """Return the sorted samples of each job's images, by layer: (n, K, L) float32.

        Raises:
            ValueError: there are no dataset images.
        """
        if dataset_images is None:
            raise ValueError("objective=prototype needs dataset images.")
        # Job by job: the bits of one must not depend on how many others there are.
        pairs = zip(dataset_images, targets.tolist(), strict=True)
        rows = [self._samples(images, target) for images, target in pairs]
        return tuple(torch.stack(layer) for layer in zip(*rows, strict=True))

    def _samples(self, images: Tensor, target: int) -> list[Tensor]:
        """Return a sorted sample of the activations of images (N, C, H, W): (K, L) per layer."""
        maps, samples = self._maps(images), []
        response = self._positive(maps[0][:, target])
        for activation, layer in zip(maps, self._context.layers, strict=True):
            weights = self._resampled(response, layer)
            pooled = activation.transpose(0, 1).flatten(1)
            chosen = pooled[:, sampled(weights.flatten(), layer.positions)]
            samples.append(chosen.sort(dim=1).values)
        return samples

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and minus the distances (B,), float32."""
        own, references = activations[: self.n_layers], activations[self.n_layers :]
        pairs = zip(own, references, strict=True)
        distances = torch.stack([distance(a, reference) for a, reference in pairs])
        # Row by row: torch does not guarantee the order of a sum over a short axis.
        return self.score(own, targets), -sum(distances[1:], distances[0]) / self.n_layers


def distance(activation: Tensor, reference: Tensor) -> Tensor:
    """Return the distance of sorted activations from a reference, relative to its energy: (B,).

    Args:
        activation: (B, K, L), in any order of positions.
        reference: (B, K, M), ascending; resampled to L values where there are more or fewer.
    """
    if reference.shape[2] != activation.shape[2]:
        # With both ends aligned, the extremes of a distribution stay its extremes.
        length = activation.shape[2]
        reference = F.interpolate(reference, length, mode="linear", align_corners=True)
    wanted = matched(activation.detach(), reference)
    energy = total(reference.square()).clamp_min(1e-12)
    return total((activation.float() - wanted).square()) / energy


def matched(activation: Tensor, reference: Tensor) -> Tensor:
    """Give every position the value of its rank: (B, K, L), ordered as the activation is.

    Among all orders of the reference this is the one nearest to the activation. Equal activations
    are ranked by position, so that the result does not depend on how a device sorts.
    """
    order = activation.argsort(dim=2, stable=True)
    return torch.empty_like(activation, dtype=torch.float32).scatter_(2, order, reference)


def sampled(weights: Tensor, count: int) -> Tensor:
    """Sample indices of weights (M,) in proportion to them, evenly and without chance: (count,).

    All are equally likely where no weight is positive.
    """
    weights = torch.where(weights.amax() > 0.0, weights, torch.ones_like(weights))
    # Whole numbers, whose sums are exact in any order.
    ends = (weights / weights.amax() * _LARGEST_WEIGHT).round().long().cumsum(0)
    middles = (2 * torch.arange(count, device=ends.device) + 1) * ends[-1] // (2 * count)
    return torch.searchsorted(ends, middles, right=True)


def layers_at_depths(layer: LayerInfo, every: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Choose the layers that are matched besides a target's own, if none are named.

    For each depth it is the last layer with operations of its own, and several positions, that ends
    within that fraction of the operations up to the target's layer; where several end at once, the
    largest, which is a whole block.
    """
    before = [x for x in every if x.flops > 0 and x.positions > 1]
    chosen: dict[str, LayerInfo] = {}
    for depth in DEPTHS:
        within = [x for x in before if x.flops_before <= depth * layer.flops_before]
        if within:
            last = max(within, key=lambda x: (x.flops_before, x.flops))
            chosen[last.name] = last
    return list(chosen.values())

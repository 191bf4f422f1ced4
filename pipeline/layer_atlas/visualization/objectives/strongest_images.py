"""Objectives about the strongest dataset images of a target: their activations, their facets."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_atlas.config.objectives import (
    FacetsObjective,
    PrototypeObjective,
    StrongestImagesObjective,
)
from layer_atlas.config.records import implements
from layer_atlas.models.activations import filled_up
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
        super().__init__(record, context)
        self.n_layers, self._context = len(context.layers), context

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


# --- facets: an image for each cluster of the images ----------------------------------------------


_STARTS, _ROUNDS = 16, 30
_LEAST = 1e-6


@implements(FacetsObjective)
class Facets(StrongestImages):
    """A channel by the facets of its strongest images: s = mean_l a[k, l], maximizing s + w * f_v.

    The images are clustered by their features p: in each layer the activations are averaged over
    positions in proportion to the target's response there, so that the background does not count.
    f_v is the cosine of p - m and d_v, averaged over layers, times the mean |s| of the job. m is
    the mean of p over all the images, and d_v that of (p - m) / |p - m| over those of facet v. The
    target itself is no feature.

    Goh et al. 2021, "Multimodal Neurons", add the product of a lower layer's activations, their
    gradient and the weights of a linear probe of the facet. Here the target's response takes the
    place of the gradient, and the mean of a cluster that of the probe, so that a step needs no
    second backward pass and facets no labels.
    """

    def __init__(self, record: FacetsObjective, context: ObjectiveContext) -> None:
        super().__init__(record, context)
        self.variants, self.weight, self.seed = record.facets, record.weight, record.seed

    @torch.no_grad()
    def references(self, dataset_images: Tensor | None, targets: Tensor) -> tuple[Tensor, ...]:
        """Return what each job is compared with, by layer, and the facet of each image.

        Returns: m (n, 1, K) and the directions (n, V, K) of each layer, both float32; the number of
            the facet of each image (n, N) uint8.
        Raises:
            ValueError: there are no dataset images.
        """
        if dataset_images is None:
            raise ValueError("objective=facets needs dataset images.")
        # Job by job: the bits of one must not depend on how many others there are.
        pairs = zip(dataset_images, targets, strict=True)
        rows = [self._of_images(images, target) for images, target in pairs]
        return tuple(torch.stack(part) for part in zip(*rows, strict=True))

    def _of_images(self, images: Tensor, target: Tensor) -> list[Tensor]:
        maps = self._maps(images)
        features = self._features(maps, target.expand(len(images)))
        means = [rows.mean(dim=0, keepdim=True) for rows in features]
        # Layers count alike, and so do weak and strong responses.
        units = [F.normalize(rows - mean) for rows, mean in zip(features, means, strict=True)]
        members = clusters(torch.cat(units, dim=1), self.variants, self.seed)
        directions = [facet_directions(rows, members, self.variants) for rows in units]
        return [*means, *directions, members]

    def _features(self, activations: Activations, targets: Tensor) -> list[Tensor]:
        """Average activations (B, K, L) where the targets respond: (B, K) for each layer."""
        weights = self._positive(picked(activations[0], targets).detach())
        # Where a target responds nowhere, all positions count alike.
        weights = torch.where(weights.amax(dim=1, keepdim=True) > 0.0, weights, 1.0)
        features = []
        for activation, layer in zip(activations, self._context.layers, strict=True):
            here = self._resampled(weights, layer)
            here = here / here.sum(dim=1, keepdim=True).clamp_min(1e-12)
            features.append((activation.float() * here[:, None]).sum(dim=2))
        # The channel rises in all facets alike.
        is_target = F.one_hot(targets, features[0].shape[1]).bool()
        features[0] = features[0].masked_fill(is_target, 0.0)
        return features

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and the scores plus the similarity to the facet (B,), float32."""
        n = self.n_layers
        own, means, directions = (activations[start : start + n] for start in range(0, 3 * n, n))
        score = self.score(own, targets)
        rows = torch.arange(len(targets), device=targets.device)
        cosines = [
            cosine(features - mean[:, 0], direction[rows, rows % self.variants])
            for features, mean, direction in zip(
                self._features(own, targets), means, directions, strict=True
            )
        ]
        # Row by row: torch does not guarantee the order of a sum over a short axis.
        facet = sum(cosines[1:], cosines[0]) / n
        return score, score + self.weight * score.detach().abs() * facet

    def records(self, references: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the number of the facet of each dataset image: `facet` (n, N) uint8, from 1 on."""
        return {"facet": references[-1]}


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Compute cosines of rows (B, K): (B,); 0 where a row is zeros."""
    norms = left.square().sum(dim=1).clamp_min(_LEAST**2) * right.square().sum(dim=1)
    return (left * right).sum(dim=1) / norms.clamp_min(_LEAST**4).sqrt()


def facet_directions(features: Tensor, members: Tensor, count: int) -> Tensor:
    """Return the direction of the mean features of each facet, of length 1.

    Args:
        features: (N, K).
        members: (N,) the number of each row's facet, from 1 on.
        count: number of facets V.
    Returns: (V, K); zeros for facets without images.
    """
    is_member = F.one_hot(members.long() - 1, count).to(features.dtype)
    # A sum rather than a matrix product, whose rounding may depend on threads.
    return F.normalize((is_member[:, :, None] * features[:, None]).sum(dim=0))


def clusters(features: Tensor, count: int, seed: int) -> Tensor:
    """Cluster rows (N, D) by k-means from several starts; the same for the same rows.

    Nothing waits for the device: the number of rounds is fixed.

    Returns: (N,) uint8, the number of each row's cluster, from 1 on, that of the most rows first.
        Of equally large ones, that of the earliest row is first. With fewer different rows than
        clusters, some clusters have none.
    """
    rows = features.double()
    products, n = rows @ rows.mT, len(rows)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(_STARTS, count, generator=generator, dtype=torch.float64)
    assigned, errors = _k_means(products, draws.to(rows.device))
    (best,) = assigned.index_select(0, errors.argmin()[None])
    is_member = F.one_hot(best, count)
    sizes, first = is_member.sum(dim=0), is_member.argmax(dim=0)
    rank = (first - n * sizes).argsort(stable=True).argsort()
    return (rank[best] + 1).to(torch.uint8)


def _k_means(products: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Cluster rows by their inner products (N, N), from S starts: clusters (S, N), errors (S,).

    The first centres are rows, far ones more likely by the draws (S, k) in [0, 1): k-means++ of
    Arthur & Vassilvitskii 2007. A cluster that loses all its rows has its centre at zero.
    """
    n, count = len(products), draws.shape[1]
    chosen = (draws[:, :1] * n).long()
    for draw in draws.T[1:, :, None]:
        ends = _distances(products, F.one_hot(chosen, n).mT).amin(dim=2).cumsum(dim=1)
        last = torch.searchsorted(ends, draw * ends[:, -1:], right=True).clamp_max(n - 1)
        chosen = torch.cat([chosen, last], dim=1)
    is_member = F.one_hot(chosen, n).mT
    for _ in range(_ROUNDS):
        is_member = F.one_hot(_distances(products, is_member).argmin(dim=2), count)
    nearest, assigned = _distances(products, is_member).min(dim=2)
    return assigned, nearest.sum(dim=1)


def _distances(products: Tensor, is_member: Tensor) -> Tensor:
    """Squared distances (S, N, k) of rows from the means of clusters (S, N, k).

    Args:
        products: (N, N) inner products of the rows.
        is_member: 1 where a row is in a cluster, else 0.
    """
    weights = is_member / is_member.sum(dim=1, keepdim=True).clamp_min(1)
    weights = weights.to(products.dtype)
    across = products @ weights
    squares = products.diagonal()[:, None] - 2.0 * across
    squares = squares + (weights * across).sum(dim=1, keepdim=True)
    # Rounding must not make a row nearer to itself than 0.
    return squares.clamp_min(0.0)

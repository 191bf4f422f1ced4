"""Facets: one image for each cluster of the target's strongest dataset images."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from layer_atlas.config.objectives import FacetsObjective
from layer_atlas.config.records import implements
from layer_atlas.visualization.objectives.base import Activations, ObjectiveContext, picked
from layer_atlas.visualization.objectives.prototype import StrongestImages

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

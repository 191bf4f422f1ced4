"""Channels, neurons and classes: objectives of channels, and of several images per channel."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from layer_atlas.config.objectives import (
    ChannelObjective,
    DiversityObjective,
    InterpolationObjective,
    JointObjective,
    LayerObjective,
    LogitObjective,
    NeuronObjective,
    ProbabilityObjective,
)
from layer_atlas.config.records import implements
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.visualization.objectives.base import (
    Activations,
    Objective,
    ObjectiveContext,
    Signs,
    parts_of,
    picked,
    total,
)


@implements(ChannelObjective, LogitObjective)
class Channel(Objective):
    """Mean response of one channel: s = mean_l a[k, l], or its negative.

    The "channel" objective of Olah et al. 2017, "Feature Visualization", section "Optimization
    objectives". At a network's output it is the logit of a class, as in Simonyan et al. 2014,
    section 2.
    """

    def __init__(
        self, record: ChannelObjective | LogitObjective, context: ObjectiveContext
    ) -> None:
        super().__init__(record, context)
        self.signs = Signs(record.sign, context.device)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the channel at each position: (B, L) float32."""
        return self.signs(super().responses(activations, targets))


@implements(NeuronObjective)
class Neuron(Objective):
    """Response of one channel at one position: s = a[k, l], or its negative.

    The "neuron" objective of Olah et al. 2017, section "Optimization objectives".

    Raises:
        UserError: the position is outside the layer's map, or the layer has no map.
    """

    def __init__(self, record: NeuronObjective, context: ObjectiveContext) -> None:
        super().__init__(record, context)
        self.signs = Signs(record.sign, context.device)
        self.position = _position_index(record.position, context.layers[0])

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the channel at the position: (B, 1) float32."""
        row = picked(activations[0], targets)
        # A slice, not an index: the axis of positions must stay.
        return self.signs(row[:, self.position : self.position + 1])


def _position_index(position: tuple[int, int] | None, layer: LayerInfo) -> int:
    """Return the index of a position, counted row by row; None is the centre."""
    height, width = layer.map_size
    row, column = (height // 2, width // 2) if position is None else position
    if not (0 <= row < height and 0 <= column < width):
        raise UserError(
            f"objective.position={[row, column]} is outside the map of layer {layer.name!r}, which "
            f"has rows 0 to {height - 1} and columns 0 to {width - 1} at this image size."
        )
    return row * width + column


@implements(ProbabilityObjective)
class Probability(Objective):
    """Probability of one class: s = softmax_k(a)[k].

    The optimization maximizes its logarithm, which has its maximum at the same images: at a
    probability near 0 the probability itself has no gradient. Olah et al. 2017, section
    "Optimization objectives", has both.
    """

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the probability of the class at each position: (B, L) float32."""
        return picked(activations[0].float().softmax(dim=1), targets)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities (B,) and their logarithms (B,), float32."""
        # log_softmax, not log(softmax): the probability underflows to 0 long before.
        logarithms = picked(activations[0].float().log_softmax(dim=1), targets)
        return logarithms.exp().mean(dim=1), logarithms.mean(dim=1)


@implements(JointObjective)
class Joint(Objective):
    """Weighted sum of channels: s = sum_t w_t * mean_l a_t[k_t, l].

    For channels of one layer or of several, see Olah et al. 2017, "Feature Visualization", section
    "How neurons interact". For several networks, the image shows what they have in common or, with
    a negative weight, what distinguishes one from the other.
    """

    def __init__(self, record: JointObjective, context: ObjectiveContext) -> None:
        self.sizes = tuple(layer.n_channels for layer in context.layers)
        self.weights = [term.weight for term in record.terms]

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the sum: (B, 1) float32."""
        means = self.parts(activations, targets)
        # Term by term: torch does not guarantee the order of a sum over a short axis.
        total = means[:, 0] * self.weights[0]
        for term, weight in enumerate(self.weights[1:], 1):
            total = total + means[:, term] * weight
        return total[:, None]

    def parts(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the mean of each term's channel, without its weight: (B, terms) float32."""
        channels = parts_of(targets, self.sizes)
        pairs = zip(activations, channels, strict=True)
        return torch.stack([picked(a, c).mean(dim=1) for a, c in pairs], dim=1)


@implements(LayerObjective)
class WholeLayer(Objective):
    """Mean square of all activations: s = mean_k,l a[k, l]**2.

    DeepDream of Mordvintsev, Olah & Tyka 2015, "Inceptionism: Going Deeper into Neural Networks":
    it amplifies whatever the layer already detects. It is the "layer/DeepDream" objective of Olah
    et al. 2017, "Feature Visualization", section "Optimization objectives".
    """

    def __init__(self, record: LayerObjective, context: ObjectiveContext) -> None:
        self.sizes = (1,)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the mean square over the channels at each position: (B, L) float32."""
        return activations[0].float().square().mean(dim=1)


# --- several images per target that depend on each other ------------------------------------------


@implements(DiversityObjective)
class Diversity(Objective):
    """Different images of one channel: s_v = mean_l a_v[k, l], maximizing s_v - w * d_v.

    d_v is the mean, over the job's other images u, of the cosine between the Gram matrices G_v =
    A_v A_v' and G_u of all the layer's activations A (K, L), times the mean |s| of the job, so that
    a weight means the same in any layer. Olah et al. 2017, "Feature Visualization", section
    "Diversity".
    """

    def __init__(self, record: DiversityObjective, context: ObjectiveContext) -> None:
        super().__init__(record, context)
        self.variants, self.weight = record.variants, record.weight

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

"""Channels, neurons and classes: objectives of a single channel of a layer."""

import torch
from torch import Tensor

from layer_atlas.config.objectives import (
    ChannelObjective,
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
        self.sizes = (context.layers[0].n_channels,)
        self.signs = Signs(record.sign, context.device)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the channel at each position: (B, L) float32."""
        return self.signs(picked(activations[0], targets))


@implements(NeuronObjective)
class Neuron(Objective):
    """Response of one channel at one position: s = a[k, l], or its negative.

    The "neuron" objective of Olah et al. 2017, section "Optimization objectives".

    Raises:
        UserError: the position is outside the layer's map, or the layer has no map.
    """

    def __init__(self, record: NeuronObjective, context: ObjectiveContext) -> None:
        layer = context.layers[0]
        self.sizes = (layer.n_channels,)
        self.signs = Signs(record.sign, context.device)
        self.position = _position_index(record.position, layer)

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

    def __init__(self, record: ProbabilityObjective, context: ObjectiveContext) -> None:
        self.sizes = (context.layers[0].n_channels,)

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

"""Channels, neurons and classes: one row of a layer's activations."""

from torch import Tensor

from layer_atlas.config.objectives import (
    ChannelObjective,
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
        self, record: ChannelObjective | LogitObjective, surroundings: ObjectiveContext
    ) -> None:
        self.sizes = (surroundings.layers[0].n_channels,)
        self.signs = Signs(record.sign, surroundings.device)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The channel at each position: (B, L) float32."""
        return self.signs(picked(activations[0], targets))


@implements(NeuronObjective)
class Neuron(Objective):
    """Response of one channel at one position: s = a[k, l], or its negative.

    The "neuron" objective of Olah et al. 2017, section "Optimization objectives".

    Raises:
        UserError: a position that is not on the layer's map, or a layer without one.
    """

    def __init__(self, record: NeuronObjective, surroundings: ObjectiveContext) -> None:
        layer = surroundings.layers[0]
        self.sizes = (layer.n_channels,)
        self.signs = Signs(record.sign, surroundings.device)
        self.place = _place(record.position, layer)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The channel at the position: (B, 1) float32."""
        row = picked(activations[0], targets)
        return self.signs(row[:, self.place : self.place + 1])


def _place(position: tuple[int, int] | None, layer: LayerInfo) -> int:
    """The number of a position, counted row by row."""
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

    Its logarithm is climbed, which is highest at the same images: from a probability of 0 no
    gradient leads away. Olah et al. 2017, section "Optimization objectives", has both.
    """

    def __init__(self, record: ProbabilityObjective, surroundings: ObjectiveContext) -> None:
        self.sizes = (surroundings.layers[0].n_channels,)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The probability of the class at each position: (B, L) float32."""
        return picked(activations[0].float().softmax(dim=1), targets)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (B,) and their logarithms (B,), float32."""
        logarithms = picked(activations[0].float().log_softmax(dim=1), targets)
        return logarithms.exp().mean(dim=1), logarithms.mean(dim=1)

"""Joint objective: channels of several layers and networks in one image."""

import torch
from torch import Tensor

from layer_atlas.config.objectives import JointObjective
from layer_atlas.config.records import implements
from layer_atlas.visualization.objectives.base import (
    Activations,
    Objective,
    ObjectiveContext,
    parts_of,
    picked,
)


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

"""Objective of a whole layer (DeepDream)."""

from torch import Tensor

from layer_atlas.config.objectives import LayerObjective
from layer_atlas.config.records import implements
from layer_atlas.visualization.objectives.base import Activations, Objective, ObjectiveContext


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

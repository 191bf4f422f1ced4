"""Channel responses: the activations of layers to dataset images, reduced over positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_atlas.models.activations import reduce_layers
from layer_atlas.models.load import Network
from layer_atlas.models.numerics import filled_up
from layer_atlas.plan.jobs import LayerInfo


@dataclass(frozen=True, eq=False)
class ChannelActivations:
    """The responses of every channel of a layer to every image of a batch."""

    mean: Tensor
    """(B, K) fp32: mean over the layer's positions."""
    peak: Tensor
    """(B, K) fp32: the largest response at any position."""
    place: Tensor
    """(B, K) int64: the first position with this response, positions counted row by row."""


class Observer:
    """Computes the channel responses of layers.

    The responses to a sample have the same bits whatever else is in its batch: CPU batches are
    padded as in the optimization. A network in channels-last layout is the fastest.
    """

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo]) -> None:
        self.network, self.layers = network, list(layers)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> dict[str, ChannelActivations]:
        """Return the responses by layer name.

        Args:
            inputs: normalised images (B, C, H, W).
        Raises:
            RuntimeError: this pass did not call one of the layers.
        """
        count = len(inputs)
        whole = filled_up(count, inputs.device)
        # Indexing copies, and most batches need no padding.
        batch = inputs[whole] if len(whole) > count else inputs
        responses = reduce_layers(self.network, self.layers, batch, _reduce_positions)
        if silent := [layer.name for layer in self.layers if layer.name not in responses]:
            raise RuntimeError(f"layer {silent[0]!r} was not called for these images.")
        return {
            name: ChannelActivations(r.mean[:count], r.peak[:count], r.place[:count])
            for name, r in responses.items()
        }


def normalised(pixels: Tensor, network: Network) -> Tensor:
    """Convert views (B, H, W, C) uint8 to channels-last inputs (B, C, H, W) of a network.

    The bits equal the inputs that `DeviceModel` gives to a network in fp32.
    """
    batch, height, width, colours = pixels.shape
    mean, std = (
        torch.tensor(values, device=pixels.device).repeat(width)
        for values in (network.mean, network.std)
    )
    # Whole rows at a time: three channels are too few to fill a vector register.
    rows = pixels.reshape(batch, height, width * colours).float().div_(255.0)
    rows.sub_(mean).div_(std)
    return rows.view(batch, height, width, colours).permute(0, 3, 1, 2)


def _reduce_positions(activation: Tensor) -> ChannelActivations:
    """Reduce an activation (B, K, L) over its positions."""
    activation = activation.float()
    # Max pooling over all positions returns the index as well, many times faster than Tensor.max.
    rows = activation.unsqueeze(2)
    peak, place = F.max_pool2d(rows, (1, rows.shape[3]), return_indices=True)
    return ChannelActivations(activation.mean(dim=2), peak.flatten(1), place.flatten(1))

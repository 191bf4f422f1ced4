"""Observation: what some layers answer to photographs, in one forward pass for all of them."""

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
    """What every channel of a layer answers to every image of a batch."""

    mean: Tensor
    """(B, K) fp32: mean over the layer's positions."""
    peak: Tensor
    """(B, K) fp32: the largest answer at any position."""
    place: Tensor
    """(B, K) int64: the first position that has it, positions counted row by row."""


class Observer:
    """Observes some layers of a network.

    A sample's answers have the same bits whatever else is in its batch: on a CPU, batches are
    filled up as they are in the ascent. A network in channels-last layout is the fastest.
    """

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo]) -> None:
        self.network, self.layers = network, list(layers)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> dict[str, ChannelActivations]:
        """Answers of every layer, by its name.

        Args:
            inputs: normalised images (B, C, H, W).
        Raises:
            RuntimeError: a layer that this pass did not call.
        """
        count = len(inputs)
        whole = filled_up(count, inputs.device)
        # Indexing copies, and most batches are whole.
        batch = inputs[whole] if len(whole) > count else inputs
        found = reduce_layers(self.network, self.layers, batch, _answer)
        if silent := [layer.name for layer in self.layers if layer.name not in found]:
            raise RuntimeError(f"layer {silent[0]!r} was not called for these images.")
        return {
            name: ChannelActivations(answer.mean[:count], answer.peak[:count], answer.place[:count])
            for name, answer in found.items()
        }


def normalised(pixels: Tensor, network: Network) -> Tensor:
    """Views (B, H, W, C) uint8 as inputs (B, C, H, W) of a network, in channels-last layout.

    The same bits as the workbench gives to a network in fp32.
    """
    batch, height, width, colours = pixels.shape
    mean, std = (
        torch.tensor(values, device=pixels.device).repeat(width)
        for values in (network.mean, network.std)
    )
    # Whole rows at a time: three colours are too few to fill a vector register.
    rows = pixels.reshape(batch, height, width * colours).float().div_(255.0)
    rows.sub_(mean).div_(std)
    return rows.view(batch, height, width, colours).permute(0, 3, 1, 2)


def _answer(activation: Tensor) -> ChannelActivations:
    """An activation (B, K, L), reduced over its positions."""
    activation = activation.float()
    # Max pooling over all positions: with its place, and many times faster than Tensor.max.
    rows = activation.unsqueeze(2)
    peak, place = F.max_pool2d(rows, (1, rows.shape[3]), return_indices=True)
    return ChannelActivations(activation.mean(dim=2), peak.flatten(1), place.flatten(1))

"""Receptive fields: the input pixels that each position of a layer can depend on.

They are measured, so they hold for any architecture: a NaN in the input makes everything computed
from it NaN, whatever the weights (including a product with 0). The more lines of an image are NaN
from one side, the more positions of a layer are reached. The number of lines that reaches a
position is found by bisection, for all layers at once. Deep layers have few distinct fields and
need few passes. The passes for other layers are cheaper, because a pass ends at the last layer in
question.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layer_atlas.models.activations import reduce_layers
from layer_atlas.plan.jobs import LayerInfo

_MAX_BATCH, _MAX_BATCH_PIXELS = 32, 2**22

_SIDES = 4
"""Number of sides: left, top, right, bottom."""

_Probe = tuple[int, int]
"""A side of the image, and the number of NaN lines from there."""


@torch.no_grad()
def receptive_fields(
    network: nn.Module, layers: Sequence[LayerInfo], example: Tensor
) -> dict[str, Tensor]:
    """Return the smallest box of input pixels that contains all that a position depends on.

    If no NaN arrives, because the network replaces NaN or because a position is the same for every
    image, the box is the whole image.

    Args:
        network: a network in eval mode, preferably on a CPU: some GPU kernels work on tiles and
            propagate NaN to neighbours.
        layers: layers described for this network and images of this size.
        example: normalized input (1, C, H, W).
    Returns: by layer name, (L, 4) int64: left, top, right, bottom of every position, row by row;
        right and bottom are exclusive.
    """
    height, width = example.shape[2:]
    searches = {layer.name: _Search(layer.positions, width, height) for layer in layers}
    # If the outermost lines reach every position, the box is the whole image and the search ends.
    probes: list[_Probe] = [(side, 1) for side in range(_SIDES)]
    waiting = sorted(layers, key=lambda layer: layer.flops_before)
    while waiting:
        inputs = torch.cat([_with_nan(example, probe) for probe in probes])
        reached = reduce_layers(network, waiting, inputs, _reached)
        waiting = [x for x in waiting if x.name in reached]
        # A network may skip layers, or change their size, for inputs with NaN: no information.
        waiting = [x for x in waiting if reached[x.name].shape[1] == x.positions]
        for layer in waiting:
            searches[layer.name].update(probes, reached[layer.name])
        waiting = [x for x in waiting if searches[x.name].open_probes()]
        # The deepest layer chooses: its pass includes all others, which learn from its probes.
        probes = searches[waiting[-1].name].open_probes()[: _batch_size(example)] if waiting else []
    return {name: search.boxes() for name, search in searches.items()}


class _Search:
    """Bisection of the number of NaN lines, from each side, that reaches a layer's positions."""

    def __init__(self, positions: int, width: int, height: int) -> None:
        self.sizes = torch.tensor([width, height, width, height])[:, None]
        self.too_few = torch.zeros(_SIDES, positions, dtype=torch.int64)
        # One more than there are means that no number of lines reaches the position.
        self.enough = (self.sizes + 1).repeat(1, positions)

    def update(self, probes: Sequence[_Probe], reached: Tensor) -> None:
        """Narrow the bounds by the positions (B, L) that some probes reached."""
        sides, counts = torch.tensor(probes).T[:, :, None]
        for side in range(_SIDES):
            of_side = sides[:, 0] == side
            if of_side.any():
                count, hit = counts[of_side], reached[of_side]
                enough = torch.where(hit, count, self.enough[side]).amin(dim=0)
                too_few = torch.where(hit, 0, count).amax(dim=0)
                self.enough[side] = torch.minimum(self.enough[side], enough)
                self.too_few[side] = torch.maximum(self.too_few[side], too_few)

    def open_probes(self) -> list[_Probe]:
        """Return the probes that halve the open intervals."""
        middle = (self.too_few + self.enough) // 2
        unknown = self.enough - self.too_few > 1
        return [
            (side, count)
            for side in range(_SIDES)
            for count in torch.unique(middle[side][unknown[side]]).tolist()
        ]

    def boxes(self) -> Tensor:
        """Return the boxes (L, 4), the whole image for a position that was never reached."""
        box = self.enough - 1
        box[2:] = self.sizes[2:] - box[2:]
        whole = torch.cat([torch.zeros_like(self.sizes[:2]), self.sizes[2:]])
        return torch.where((box[:2] < box[2:]).all(dim=0), box, whole).mT.contiguous()


def _reached(activation: Tensor) -> Tensor:
    """Return which positions of an activation (B, K, L) hold NaN: (B, L)."""
    return activation.isnan().any(dim=1).cpu()


def _with_nan(example: Tensor, probe: _Probe) -> Tensor:
    """Return the example with some lines set to NaN from one side."""
    side, count = probe
    axis = 3 if side in (0, 2) else 2
    start = 0 if side < 2 else example.shape[axis] - count
    inputs = example.clone()
    inputs.narrow(axis, start, count).fill_(math.nan)
    return inputs


def _batch_size(example: Tensor) -> int:
    """Return the number of images of the example's size per batch."""
    return max(1, min(_MAX_BATCH, _MAX_BATCH_PIXELS // example[0, 0].numel()))

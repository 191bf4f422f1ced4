"""Receptive fields: which pixels of the input each position of a layer can depend on.

Found by trying, so they hold for any architecture: a value that is not a number makes everything
that is computed from it not a number, whatever the weights (a product with 0 as well). The more
lines of an image are spoilt from one side, the more positions of a layer are, so how many it takes
is found by bisection, for all layers at once. Deep layers have few different fields and take few
passes; what is left of the others is cheaper, because a pass ends at the last layer in question.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from layer_atlas.models.activations import reduce_layers
from layer_atlas.plan.jobs import LayerInfo

_MOST_AT_ONCE, _PIXELS_AT_ONCE = 32, 2**22

_SIDES = 4
"""Left, top, right, bottom."""

_Probe = tuple[int, int]
"""A side of the image, and how many lines are spoilt from there."""


@torch.no_grad()
def receptive_fields(
    network: nn.Module, layers: Sequence[LayerInfo], example: Tensor
) -> dict[str, Tensor]:
    """The smallest box of input pixels that holds all that each position of a layer depends on.

    Where nothing spoilt arrives, because the network replaces what is not a number, or because a
    position is the same for every image, the box is the whole image.

    Args:
        network: a network in eval mode, best on a CPU: some GPU kernels work on tiles and spoil
            neighbours.
        layers: described for this network and images of this size.
        example: normalised input (1, C, H, W).
    Returns: by name of the layer, (L, 4) int64: left, top, right, bottom of every position, rows
        first; right and bottom are not in the box.
    """
    height, width = example.shape[2:]
    searches = {layer.name: _Search(layer.positions, width, height) for layer in layers}
    # Where the outermost lines reach everything, the box is the whole image, and all is done.
    probes: list[_Probe] = [(side, 1) for side in range(_SIDES)]
    waiting = sorted(layers, key=lambda layer: layer.flops_before)
    while waiting:
        spoilt = torch.cat([_spoilt(example, probe) for probe in probes])
        found = reduce_layers(network, waiting, spoilt, _reached)
        waiting = [x for x in waiting if x.name in found]
        # What a network leaves out, or makes of another size, for spoilt images, tells nothing.
        waiting = [x for x in waiting if found[x.name].shape[1] == x.positions]
        for layer in waiting:
            searches[layer.name].learn(probes, found[layer.name])
        waiting = [x for x in waiting if searches[x.name].questions()]
        probes = searches[waiting[-1].name].questions()[: _at_once(example)] if waiting else []
    return {name: search.boxes() for name, search in searches.items()}


class _Search:
    """How many lines must be spoilt, from each side, until they reach the positions of a layer."""

    def __init__(self, positions: int, width: int, height: int) -> None:
        self.sizes = torch.tensor([width, height, width, height])[:, None]
        self.too_few = torch.zeros(_SIDES, positions, dtype=torch.int64)
        # One more than there are: none reach it.
        self.enough = (self.sizes + 1).repeat(1, positions)

    def learn(self, probes: Sequence[_Probe], reached: Tensor) -> None:
        """Take in which positions some probes reached: (B, L)."""
        sides, counts = torch.tensor(probes).T[:, :, None]
        for side in range(_SIDES):
            asked = sides[:, 0] == side
            if asked.any():
                count, hit = counts[asked], reached[asked]
                enough = torch.where(hit, count, self.enough[side]).amin(dim=0)
                too_few = torch.where(hit, 0, count).amax(dim=0)
                self.enough[side] = torch.minimum(self.enough[side], enough)
                self.too_few[side] = torch.maximum(self.too_few[side], too_few)

    def questions(self) -> list[_Probe]:
        """The probes that halve what is not known yet."""
        middle = (self.too_few + self.enough) // 2
        unknown = self.enough - self.too_few > 1
        return [
            (side, count)
            for side in range(_SIDES)
            for count in torch.unique(middle[side][unknown[side]]).tolist()
        ]

    def boxes(self) -> Tensor:
        """What is found: (L, 4), the whole image where a position was never reached."""
        box = self.enough - 1
        box[2:] = self.sizes[2:] - box[2:]
        whole = torch.cat([torch.zeros_like(self.sizes[:2]), self.sizes[2:]])
        return torch.where((box[:2] < box[2:]).all(dim=0), box, whole).mT.contiguous()


def _reached(activation: Tensor) -> Tensor:
    """Which positions of an activation (B, K, L) are spoilt: (B, L)."""
    return activation.isnan().any(dim=1).cpu()


def _spoilt(example: Tensor, probe: _Probe) -> Tensor:
    """The example with some lines spoilt from one side."""
    side, count = probe
    axis = 3 if side in (0, 2) else 2
    start = 0 if side < 2 else example.shape[axis] - count
    spoilt = example.clone()
    spoilt.narrow(axis, start, count).fill_(math.nan)
    return spoilt


def _at_once(example: Tensor) -> int:
    """How many images of the example's size make a batch."""
    return max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // example[0, 0].numel()))

"""Receptive fields: which pixels of the input each position of a layer can depend on.

Found by trying, so they hold for any architecture: a value that is not a number makes everything
that is computed from it not a number, whatever the weights (a product with 0 as well). Rows and
columns of the input are spoilt one after the other, and what is spoilt in a layer depends on them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.jobs import LayerInfo
from pipeline.layers import reduce_layers

_MOST_AT_ONCE, _PIXELS_AT_ONCE = 32, 2**22
_ROWS, _COLUMNS = 2, 3
_EVERYTHING = torch.tensor(True)


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
        layers: described for this network.
        example: normalised input (1, C, H, W).
    Returns: by name of the layer, (L, 4) int64: left, top, right, bottom of every position, rows
        first; right and bottom are not in the box.
    """
    height, width = example.shape[2:]
    fields = {
        layer.name: torch.tensor([[0, 0, width, height]]).repeat(_positions(layer), 1)
        for layer in layers
    }
    # Where one corner and the other reach everything, the box is the whole image.
    corners = reduce_layers(network, layers, _spoilt_corners(example), _reached)
    narrow = [layer for layer in layers if not corners.get(layer.name, _EVERYTHING).all()]
    if not narrow:
        return fields
    across = _extents(network, narrow, example, _COLUMNS)
    down = _extents(network, narrow, example, _ROWS)
    for name in across.keys() & down.keys():
        box = torch.stack([across[name][0], down[name][0], across[name][1], down[name][1]], dim=1)
        touched = (box[:, :2] < box[:, 2:]).all(dim=1, keepdim=True)
        fields[name] = torch.where(touched, box, fields[name])
    return fields


def _positions(layer: LayerInfo) -> int:
    return math.prod(layer.shape) // layer.n_channels


def _extents(
    network: nn.Module, layers: Sequence[LayerInfo], example: Tensor, axis: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """First row (or column) that each position depends on, and the one after the last."""
    size = example.shape[axis]
    extents: dict[str, tuple[Tensor, Tensor]] = {}
    step = _at_once(example)
    for start in range(0, size, step):
        lines = torch.arange(start, min(start + step, size))
        spoilt = _spoilt_lines(example, axis, lines.tolist())
        for name, reached in reduce_layers(network, layers, spoilt, _reached).items():
            first = torch.where(reached, lines[:, None], size).amin(dim=0)
            end = torch.where(reached, lines[:, None] + 1, 0).amax(dim=0)
            before = extents.get(name, (first, end))
            extents[name] = (torch.minimum(before[0], first), torch.maximum(before[1], end))
    return extents


def _reached(activation: Tensor) -> Tensor:
    """Which positions of an activation (B, K, L) are spoilt: (B, L)."""
    return activation.isnan().any(dim=1).cpu()


def _spoilt_corners(example: Tensor) -> Tensor:
    """The example twice, with its first and its last pixel spoilt."""
    spoilt = example.repeat(2, 1, 1, 1)
    spoilt[0, :, 0, 0] = spoilt[1, :, -1, -1] = math.nan
    return spoilt.contiguous(memory_format=torch.channels_last)


def _spoilt_lines(example: Tensor, axis: int, lines: Sequence[int]) -> Tensor:
    """The example once for every line, with that row or column spoilt."""
    spoilt = example.repeat(len(lines), 1, 1, 1).contiguous(memory_format=torch.channels_last)
    for sample, line in zip(spoilt, lines, strict=True):
        sample.select(axis - 1, line).fill_(math.nan)
    return spoilt


def _at_once(example: Tensor) -> int:
    """How many images of the example's size make a batch."""
    return max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // example[0, 0].numel()))

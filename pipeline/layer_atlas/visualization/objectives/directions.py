"""Directions: linear combinations of a layer's channels, and whole bases of them."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layer_atlas.config.objectives import ActivationAtlasObjective, DirectionObjective
from layer_atlas.config.records import implements
from layer_atlas.datasets.activation_map import read_directions_of_cells
from layer_atlas.errors import UserError, unknown
from layer_atlas.models.weights import read_tensors
from layer_atlas.visualization import rng
from layer_atlas.visualization.objectives.base import (
    LEAST_COSINE,
    Activations,
    Objective,
    ObjectiveContext,
    Signs,
)

RANDOM_DIRECTIONS = 4096


@implements(DirectionObjective)
class Direction(Objective):
    """Mean response along a direction v of length 1: s = mean_l x_l.v * max(cos(x_l, v), 0.1)**p.

    x_l are all channels at position l. Olah et al. 2017, "Feature Visualization", section "How
    neurons interact", for p = 0; Carter et al. 2019, "Activation Atlas", appendix on feature
    visualization, for the cosine. The rows of a matrix, such as the decoder of a sparse autoencoder
    or principal components, are targets like channels.

    Raises:
        UserError: the file does not hold such a matrix.
    """

    def __init__(self, record: DirectionObjective, context: ObjectiveContext) -> None:
        layer = context.layers[0]
        if record.vectors:
            rows = read_directions(context.find(record.vectors), record.entry, layer.name)
            if rows.shape[1] != layer.n_channels:
                raise UserError(
                    f"the directions of objective.vectors have {rows.shape[1]} numbers each, but "
                    f"layer {layer.name!r} has {layer.n_channels} channels; give a matrix with a "
                    "direction per row."
                )
        else:
            rows = random_directions(RANDOM_DIRECTIONS, layer.n_channels)
        self._set(rows, record.cosine_power, Signs(record.sign, context.device), context)

    def _set(self, rows: Tensor, power: float, signs: Signs, context: ObjectiveContext) -> None:
        self.rows = torch.nn.functional.normalize(rows, dim=1).to(context.device)
        self.sizes, self.power, self.signs = (len(rows),), power, signs

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the response along the direction at each position: (B, L) float32."""
        activation, direction = activations[0], self.rows[targets]
        along: Tensor = _Along.apply(activation, direction)
        along = self.signs(along)
        if self.power == 0:
            return along
        # The clamp keeps the gradient finite at dead positions.
        length = activation.float().norm(dim=1).clamp_min(1e-12)
        cosine = (along / length).clamp_min(LEAST_COSINE)
        weighted: Tensor = along * cosine**self.power
        return weighted


@implements(ActivationAtlasObjective)
class CellDirection(Direction):
    """Mean response along the whitened mean activation of a cell of the layer's map.

    v is the mean of the cell's activations times their inverse second moment; the score is that of
    `Direction`. Carter et al. 2019, "Activation Atlas", appendix on feature visualization. Until
    the layer has a map, which the dataset decides, only the number of cells is known.
    """

    def __init__(self, record: ActivationAtlasObjective, context: ObjectiveContext) -> None:
        layer = context.layers[0]
        file = (record.maps or {}).get(layer.name)
        cells = sum(side * side for side in record.grid)
        rows = torch.zeros(cells, 1)
        if file is not None:
            path = context.find(file)
            found = read_directions_of_cells(path, layer.n_channels, record.grid)
            rows = torch.from_numpy(found)
        self._set(rows, record.cosine_power, Signs("positive", context.device), context)


class _Along(torch.autograd.Function):
    """(B, K, L) along directions (B, K): (B, L) float32; the gradient keeps the first's layout."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, direction: Tensor) -> Tensor:
        ctx.save_for_backward(direction)
        ctx.template = torch.empty_like(activation, device="meta")
        # Product and sum instead of a matrix product, whose rounding depends on the batch size.
        return (activation.float() * direction[:, :, None]).sum(dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (direction,) = ctx.saved_tensors
        gradient = torch.empty_like(ctx.template, device=grads[0].device)
        return gradient.copy_(grads[0][:, None, :] * direction[:, :, None]), None


@cache
def random_directions(count: int, width: int) -> Tensor:
    """Draw directions uniformly from the sphere, before normalisation: (count, width)."""
    # One key per row, so that row i is the same for any count.
    keys = torch.stack([torch.arange(count), torch.full((count,), width)], dim=1)
    return torch.cat([rng.normal(some, rng.DIRECTION, width) for some in torch.split(keys, 256)])


def read_directions(path: Path, entry: str | None, layer: str) -> Tensor:
    """Read a matrix of directions (N, K) from a file; a vector (K,) is one direction.

    Args:
        path: a .npy, .npz, .safetensors, .pt or .pth file.
        entry: name of the matrix in a file of several; by default the layer's name, or the only
            one.
        layer: the layer's name.
    Raises:
        UserError: the file is unreadable, lacks the entry, or holds no matrix of numbers.
    """
    entries = read_tensors(path)
    name = entry or (next(iter(entries)) if len(entries) == 1 else layer)
    if name not in entries:
        raise unknown("entry of objective.vectors:", name, entries, "Set objective.entry.")
    rows = entries[name].float()
    rows = rows[None] if rows.ndim == 1 else rows
    numbers = rows.ndim == 2 and len(rows) > 0 and not rows.is_complex()
    if not numbers or not bool(torch.isfinite(rows).all()):
        raise UserError(
            f"objective.vectors must hold a matrix of finite numbers with a direction per row, not "
            f"{list(entries[name].shape)}."
        )
    if not bool((rows != 0).any(dim=1).all()):
        raise UserError("objective.vectors has a row of zeros, which defines no direction.")
    return rows

"""Directions: linear combinations of a layer's channels, and whole bases of them."""

import logging
from collections.abc import Mapping
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
    empty_as,
)

logger = logging.getLogger(__name__)

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
            path = context.find(record.vectors)
            rows = read_directions(path, record.entry, layer.name, layer.n_channels)
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
        gradient = empty_as(ctx.template, grads[0].device)
        return gradient.copy_(grads[0][:, None, :] * direction[:, :, None]), None


@cache
def random_directions(count: int, width: int) -> Tensor:
    """Draw directions uniformly from the sphere, before normalisation: (count, width)."""
    # One key per row, so that row i is the same for any count.
    keys = torch.stack([torch.arange(count), torch.full((count,), width)], dim=1)
    return torch.cat([rng.normal(some, rng.DIRECTION, width) for some in torch.split(keys, 256)])


# --- files of directions -------------------------------------------------------------------------

_DECODERS = {
    "W_dec": "rows",  # saev, Prisma, SAELens, sparsify, dictionary_learning (JumpReLU, Matryoshka)
    "decoder.weight": "columns",  # torch.nn.Linear, as in dictionary_learning and at OpenAI
    "decoder.linear.weight": "rows",  # OpenAI's decoder that shares the weights of its encoder
    "dictionary._weights": "rows",  # overcomplete
    "dictionary": "rows",  # overcomplete, archetypal or of early versions
}
"""Names of the decoders of sparse autoencoders, and along which axis of them directions lie."""


def read_directions(path: Path, entry: str | None, layer: str, width: int) -> Tensor:
    """Read a matrix of directions (N, K) from a file; a vector (K,) is one direction.

    The decoders of sparse autoencoders are found by their names (`_DECODERS`) and turned so that a
    direction is a row. A decoder's bias is the origin of its reconstructions and no direction: it
    is not used.

    Args:
        path: a .npy, .npz, .safetensors, .pt or .pth file.
        entry: name of the matrix in a file of several; by default the only one, that with the
            layer's name, or the only decoder.
        layer: the layer's name.
        width: K, its number of channels.
    Raises:
        UserError: the file is unreadable, lacks the entry, holds several decoders, or holds no
            matrix of K numbers per row.
    """
    entries = _with_archetypal(read_tensors(path))
    name = entry or _choose_entry(entries, layer)
    if name not in entries:
        raise unknown("entry of objective.vectors:", name, entries, "Set objective.entry.")
    matrix = entries[name].float()
    matrix = matrix[None] if matrix.ndim == 1 else matrix
    numbers = matrix.ndim == 2 and len(matrix) > 0 and not matrix.is_complex()
    if not numbers or not bool(torch.isfinite(matrix).all()):
        raise UserError(
            f"objective.vectors must hold a matrix of finite numbers with a direction per row, not "
            f"{list(entries[name].shape)}."
        )
    axis = _axis(name, matrix, width)
    rows = matrix.T if axis == "columns" else matrix
    if rows.shape[1] != width:
        which = f" ({axis} of {name})" if name else ""
        raise UserError(
            f"the directions of objective.vectors{which} have {rows.shape[1]} numbers each, but "
            f"layer {layer!r} has {width} channels; give a matrix with a direction per row."
        )
    if not bool((rows != 0).any(dim=1).all()):
        raise UserError("objective.vectors has a row of zeros, which defines no direction.")
    if len(entries) > 1 or axis == "columns":
        bias = ", without the decoder's bias" if _decoder_axis(name) else ""
        logger.info("directions of %s: the %d %s of %s%s", layer, len(rows), axis, name, bias)
    return rows


def _choose_entry(entries: Mapping[str, Tensor], layer: str) -> str:
    """Choose the matrix of a file; the layer's name if none stands out.

    Raises:
        UserError: there are several decoders.
    """
    if len(entries) == 1:
        return next(iter(entries))
    decoders = [name for name in entries if _decoder_axis(name)]
    # A file with a decoder per layer has the layers' names in front.
    own = [name for name in decoders if name.startswith(f"{layer}.")]
    decoders = own or decoders
    if layer in entries or not decoders:
        return layer
    if len(decoders) > 1:
        raise UserError(
            f"objective.vectors holds several decoders: {', '.join(decoders)}. Choose one with "
            f"objective.entry={decoders[0]}."
        )
    return decoders[0]


def _decoder_axis(name: str) -> str | None:
    """Axis of the directions in an entry with the name of a decoder; None for other names."""
    found = (axis for known, axis in _DECODERS.items() if f".{name}".endswith(f".{known}"))
    return next(found, None)


def _axis(name: str, matrix: Tensor, width: int) -> str:
    """Axis of the directions in an entry: `rows` or `columns`."""
    axis = _decoder_axis(name)
    if axis is None:
        return "rows"
    # Files made by hand may have a decoder the other way round, which its shape reveals.
    fits = {"rows": matrix.shape[1] == width, "columns": matrix.shape[0] == width}
    return axis if fits[axis] or not any(fits.values()) else next(a for a in fits if fits[a])


def _with_archetypal(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the dictionary of overcomplete's archetypal autoencoders, which is stored in parts.

    Its rows are mixtures of data points C with weights W (rows that sum to 1), relaxed by Relax
    (Fel et al. 2025, "Archetypal SAE"). Their common factor `multiplier` changes no direction.
    """
    added = dict(entries)
    for head in [name.removesuffix("Relax") for name in entries if f".{name}".endswith(".Relax")]:
        relaxed = entries[f"{head}Relax"].float()
        weights, points = (entries.get(head + part, torch.empty(0)).float() for part in "WC")
        if points.ndim != 2 or relaxed.shape != (len(weights), points.shape[1]):
            continue
        if weights.shape == (len(relaxed), len(points)):
            mixture = weights.relu()
            mixture = mixture / mixture.sum(dim=1, keepdim=True).clamp_min(1e-8)
            added[f"{head}dictionary"] = mixture @ points + relaxed
    return added

"""Weights between the channels of an atlas: the strongest inputs and outputs of a channel."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.frames import make_frame
from layer_atlas.config.config import MOST_CONNECTIONS
from layer_atlas.errors import UserError
from layer_atlas.store.connections import LARGEST_GRID

if TYPE_CHECKING:
    import pandas

    from layer_atlas.atlas.layers import Layer

_KINDS = {"source": "i", "incoming_channel": "i", "weight": "f", "share": "f", "kernel": "f"}
_MOST_SOURCES = 2**16


@dataclass(frozen=True)
class Connection:
    """A channel at the other end of some weights."""

    layer: str
    """Name of its layer."""
    channel: int
    """Its index, which may be one without an image in the atlas."""
    weight: float
    """Sum of the kernel."""
    share: float
    """L1 norm of the kernel, as a fraction of that of all channels that lead to the later one."""
    kernel: NDArray[np.float32]
    """(h, w) weight at each offset from the central position."""


class LayerConnections:
    """The strongest weights between the channels of a layer and those of other layers.

    They are empty for layers that read no other layer of the sweep, or none linearly; `refused` has
    the reasons.
    """

    def __init__(self, layer: "Layer", facts: Mapping[str, Any]) -> None:
        self._layer, self._facts = layer, facts

    def incoming(self, channel: int) -> list[Connection]:
        """Channels of earlier layers that lead to a channel, the largest share first.

        Raises:
            UserError: there is no such channel, or the atlas holds impossible weights.
        """
        return _strongest_first(self._entries(self._layer.row(channel)))

    def outgoing(self, channel: int) -> list[Connection]:
        """Channels of later layers among whose strongest inputs a channel is.

        Errors are those of `incoming`.
        """
        self._layer.row(channel)
        return _strongest_first(self._readers.get(channel, ()))

    def to_frame(self) -> "pandas.DataFrame":
        """All incoming weights as a table: a row for each pair of channels.

        Raises UserError without pandas.
        """
        pairs = [
            (channel, found) for channel in self._layer.channels for found in self.incoming(channel)
        ]
        return make_frame(
            {
                "model": self._layer.model.name,
                "layer": self._layer.name,
                "channel": [channel for channel, _ in pairs],
                "source_layer": [found.layer for _, found in pairs],
                "source_channel": [found.channel for _, found in pairs],
                "weight": [found.weight for _, found in pairs],
                "share": [found.share for _, found in pairs],
            }
        )

    @cached_property
    def sources(self) -> list[str]:
        """Names of the layers that lead to this one."""
        if "connections/source_layer" not in self._layer:
            return []
        names = self._layer.dataset("connections/source_layer")
        if (
            names.ndim != 1
            or names.size > _MOST_SOURCES
            or not h5py.check_string_dtype(names.dtype)
        ):
            raise self._impossible()
        return [str(name) for name in names.asstr(errors="replace")[()]]

    @property
    def refused(self) -> dict[str, str]:
        """Layers before this one without weights, and what is not linear between them."""
        try:
            found = json.loads(self._facts.get("refused", "{}"))
        except (ValueError, TypeError) as error:
            raise self._impossible() from error
        if not isinstance(found, dict):
            raise self._impossible()
        return {str(name): str(reason) for name, reason in found.items()}

    @property
    def stride(self) -> int:
        """Positions along each axis that a value of a kernel is the sum of."""
        return int(self._facts.get("stride", 1))

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays of all channels, as `atlas.h5` has them: `weight` (C, N) and so on.

        Empty if there are no weights. Raises UserError if they are impossible.
        """
        if not self.sources:
            return {}
        layer, count = self._layer, len(self._layer.channels)
        datasets = {name: layer.dataset(f"connections/{name}") for name in _KINDS}
        shape = (count, *datasets["source"].shape[1:2])
        fits = len(shape) == 2 and shape[1] <= 2 * MOST_CONNECTIONS
        for name, dataset in datasets.items():
            sides = dataset.shape[2:]
            fits &= dataset.shape[:2] == shape and dataset.dtype.kind == _KINDS[name]
            fits &= len(sides) == 2 * (name == "kernel") and max(sides, default=1) <= LARGEST_GRID
        if not fits:
            raise self._impossible()
        arrays = {name: np.asarray(dataset[()]) for name, dataset in datasets.items()}
        if arrays["source"].max(initial=-1) >= len(self.sources):
            raise self._impossible()
        return arrays

    def _entries(self, row: int) -> Iterable[Connection]:
        arrays = self.arrays
        for rank in np.flatnonzero(arrays["source"][row] >= 0).tolist() if arrays else ():
            where = self.sources[arrays["source"][row, rank]]
            yield self._connection(where, arrays["incoming_channel"][row, rank], row, rank)

    @cached_property
    def _readers(self) -> dict[int, list[Connection]]:
        """The outgoing weights of each channel that has any."""
        readers: dict[int, list[Connection]] = {}
        for later in self._layer.model.layers.values():
            found = later.connections
            if self._layer.name not in found.sources:
                continue
            arrays, source = found.arrays, found.sources.index(self._layer.name)
            for row, rank in np.argwhere(arrays["source"] == source).tolist():
                connection = found._connection(later.name, later.channels[row], row, rank)
                channel = int(arrays["incoming_channel"][row, rank])
                readers.setdefault(channel, []).append(connection)
        return readers

    def _connection(self, layer: str, channel: Any, row: int, rank: int) -> Connection:
        weight, share = (float(self.arrays[name][row, rank]) for name in ("weight", "share"))
        return Connection(layer, int(channel), weight, share, self.arrays["kernel"][row, rank])

    def _impossible(self) -> UserError:
        return UserError(f"the weights between channels of {self._layer.title} are impossible.")


def _strongest_first(found: Iterable[Connection]) -> list[Connection]:
    return sorted(found, key=lambda connection: -connection.share)

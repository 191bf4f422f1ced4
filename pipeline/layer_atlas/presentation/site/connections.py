"""Weights between channels on a site: the strongest inputs and outputs of each channel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from layer_atlas.atlas.connections import Connection
from layer_atlas.atlas.reader import Layer

SHOWN = 8
"""Most inputs of each sign, and most outputs, of a channel's page."""

_LEVELS = "".join(map(chr, (*range(48, 58), *range(65, 91), *range(97, 123), 45)))
"""A sign for each level of a weight, from the most negative to the most positive; 0 is amid."""


class SiteConnections:
    """The weights of a layer's channels, as its pages have them."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.numbers = {name: number for number, name in enumerate(layer.model.layers)}

    def record(self, row: int) -> dict[str, Any]:
        """The inputs and outputs of the channel of a row, strongest first.

        Each is a number of a layer of the model, a channel, the sum of the weights, their share,
        the width of the kernel, and its weights as signs of their levels.
        """
        channel, connections = self.layer.channels[row], self.layer.connections
        incoming = connections.incoming(channel)
        positive = [found for found in incoming if found.weight >= 0][:SHOWN]
        negative = [found for found in incoming if found.weight < 0][:SHOWN]
        outgoing = connections.outgoing(channel)[:SHOWN]
        return {
            "excites": self._records(positive, incoming),
            "inhibits": self._records(negative, incoming),
            "outputs": [record for found in outgoing for record in self._records([found], [found])],
        }

    def _records(self, shown: Sequence[Connection], among: Sequence[Connection]) -> list[Any]:
        largest = max((float(np.abs(found.kernel).max()) for found in among), default=0.0)
        return [
            [
                self.numbers[found.layer],
                found.channel,
                float(f"{found.weight:.3g}"),
                float(f"{found.share:.3g}"),
                found.kernel.shape[1],
                _levels(found, largest),
            ]
            for found in shown
            if found.layer in self.numbers
        ]


def _levels(found: Connection, largest: float) -> str:
    """The weights of a kernel, row by row, as signs of levels relative to the largest."""
    half = len(_LEVELS) // 2
    relative = np.nan_to_num(found.kernel.ravel() / (largest or 1.0)).clip(-1, 1)
    return "".join(_LEVELS[half + level] for level in np.rint(half * relative).astype(int))

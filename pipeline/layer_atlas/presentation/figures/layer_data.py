"""A layer as a figure shows it: one image per target, and its statistics."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Layer
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.jobs import STATUS

_NO_STATISTICS = ("status", "start", "made_with", "channel", "best_seed", "best_seed_index")


@dataclass(frozen=True)
class LayerData:
    """One image per channel of a layer (C channels, K channels of the layer in all)."""

    layer: Layer
    seed: int | None = None
    """Default: for each channel the seed that agrees most with dataset images, or the first."""
    variant: str | None = None
    """Default: the first variant."""

    @cached_property
    def seeds(self) -> list[int]:
        """The seed of each channel."""
        layer = self.layer
        if self.seed is not None:
            if self.seed not in layer.seeds:
                raise unknown(f"seed of {layer.title}", self.seed, map(str, layer.seeds))
            return [self.seed] * len(layer.channels)
        if "best_seed_index" not in layer:
            return [layer.seeds[0]] * len(layer.channels)
        return [layer.seeds[max(0, index)] for index in layer["best_seed_index"].tolist()]

    def seed_of(self, channel: int) -> int:
        """The seed of a channel."""
        return self.seeds[self.layer.row(channel)]

    @cached_property
    def statistics(self) -> list[str]:
        """Names of the statistics with a number for every channel."""
        layer, images = self.layer, (len(self.layer.seeds), len(self.layer.variants))
        # By seed and variant, by seed, or by channel alone.
        shapes = [(len(layer.channels), *images[:axes]) for axes in range(3)]
        return [
            name
            for name in layer.names
            if layer.dataset(name).shape in shapes
            and layer.dataset(name).dtype.kind in "fi"
            and name not in _NO_STATISTICS
        ]

    def values(self, name: str) -> NDArray[np.float64]:
        """A statistic (C,) of the images; raises UserError for one that is not there."""
        if name not in self.statistics:
            raise unknown(f"statistic of {self.layer.title}", name, self.statistics)
        return self._of_images(self.layer[name]).astype(np.float64)

    @cached_property
    def status(self) -> NDArray[np.uint8]:
        """Status of each job (C,), by the codes of `STATUS`."""
        found: NDArray[np.uint8] = self.layer.status[self._rows, self._seed_indices]
        return found

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Mask (C,) of the channels that respond to their image."""
        live: NDArray[np.bool_] = self.status == STATUS["ok"]
        return live & np.isfinite(self.responses).all(axis=1)

    @cached_property
    def responses(self) -> NDArray[np.float64]:
        """Responses (C, K) of all channels of the layer to each image."""
        if "response" not in self.layer:
            raise UserError(f"the atlas has no responses of {self.layer.title}.")
        found = np.full((len(self.layer.channels), self._width), np.nan)
        for seed, rows in self._rows_by_seed():
            found[rows] = self._first_variant(self.layer.dataset("response")[:, seed])[rows]
        return found

    @property
    def _width(self) -> int:
        return int(self.layer.dataset("response").shape[-1])

    @property
    def _rows(self) -> NDArray[np.intp]:
        return np.arange(len(self.layer.channels))

    @cached_property
    def _seed_indices(self) -> NDArray[np.intp]:
        place = {seed: index for index, seed in enumerate(self.layer.seeds)}
        return np.asarray([place[seed] for seed in self.seeds], np.intp)

    def _rows_by_seed(self) -> Iterator[tuple[int, NDArray[np.intp]]]:
        for seed in np.unique(self._seed_indices):
            yield int(seed), np.flatnonzero(self._seed_indices == seed)

    @property
    def _variant_index(self) -> int:
        if self.variant is None:
            return 0
        return self.layer.place(self.layer.channels[0], variant=self.variant)[-1]

    def _first_variant(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        return array[:, self._variant_index] if self.layer.variants else array

    def _of_images(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The entries of an array for the images shown."""
        if array.ndim == 1:
            return array
        chosen = array[self._rows, self._seed_indices]
        return chosen[:, self._variant_index] if array.ndim == 3 else chosen


def shown_of(
    layer: Layer, seeds: tuple[int, ...] | None, variants: tuple[str, ...] | None
) -> LayerData:
    """A layer with the first of the requested seeds and variants."""
    return LayerData(layer, seeds[0] if seeds else None, variants[0] if variants else None)

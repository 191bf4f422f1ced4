"""Photographs as pictures, for tasks that show or start from those that channels answer to."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from layer_atlas.config.datasets import DatasetConfig
from layer_atlas.datasets.listing import Entry, Listing
from layer_atlas.datasets.sources import open_dataset
from layer_atlas.datasets.statistics import DatasetStats
from layer_atlas.datasets.statistics_files import read_evidence
from layer_atlas.datasets.tasks import LayerStatistics
from layer_atlas.datasets.views import stream_views
from layer_atlas.plan.plan import DatasetPlan
from layer_atlas.processes import usable_cores
from layer_atlas.store.folder import OutputFolder

_KEPT_BYTES = 2**28
"""Photographs that neighbouring channels share are read once; about so much of them is kept."""


class ImageCache:
    """Looks up photographs of a dataset, cut to the view of the network."""

    def __init__(
        self, folder: OutputFolder, plan: DatasetPlan, dataset: DatasetConfig, size: int
    ) -> None:
        self.folder, self.size = folder, size
        self.dataset_images = open_dataset(dataset)
        self.listing = Listing(folder.listing(plan.listing))
        self.dataset_stats = lru_cache(maxsize=1)(self._study)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def strongest(
        self, dataset_stats: LayerStatistics, channels: Sequence[int]
    ) -> NDArray[np.uint8]:
        """The photograph that each channel answers to most (n, S, S, 3)."""
        index = self.dataset_stats(dataset_stats).top.index[list(channels), 0].tolist()
        pictures = self.pictures(index)
        nothing = np.zeros((self.size, self.size, 3), np.uint8)
        return np.stack([pictures.get(i, nothing) for i in index])

    def pictures(self, indices: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
        """Photographs by their places in the listing, each (S, S, 3); none for -1.

        Raises:
            RuntimeError: one that could be read no longer can.
        """
        wanted = sorted({index for index in indices if index >= 0})
        if len(self._kept) * 3 * self.size**2 > _KEPT_BYTES:
            self._kept.clear()
        missing = [index for index in wanted if index not in self._kept]
        numbered = [(index, self._entry(index)) for index in missing]
        views = stream_views(self.dataset_images, numbered, self.size, reading_threads())
        for (index, entry), view in zip(numbered, views, strict=True):
            if view.pixels is None:
                raise RuntimeError(f"photograph {entry.path} can no longer be read: {view.reason}")
            self._kept[index] = view.pixels
        return {index: self._kept[index] for index in wanted}

    def _entry(self, index: int) -> Entry:
        (entry,) = self.listing.block(index, index + 1)
        return entry

    def _study(self, dataset_stats: LayerStatistics) -> DatasetStats:
        return read_evidence(self.folder, dataset_stats).stats


def reading_threads() -> int:
    """Threads that read photographs: all cores feed a GPU; a CPU's have the network to run."""
    cores = usable_cores()
    return cores if torch.cuda.is_available() else torch.get_num_threads()

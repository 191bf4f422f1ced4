"""Photographs as pictures, for tasks that show or start from those that channels answer to."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DatasetConfig
from pipeline.listing import Listing
from pipeline.photographs import open_dataset
from pipeline.plan import StudyPlan
from pipeline.store import OutputFolder
from pipeline.study import LayerStudy
from pipeline.study_store import read_findings
from pipeline.study_tasks import Study
from pipeline.views import read_view

_MOST_PICTURES, _MOST_BYTES = 1024, 2**28
"""Photographs that several channels of a layer share are read once, if not too far apart."""


class PictureBook:
    """Looks up photographs of a dataset, cut to the view of the network."""

    def __init__(
        self, folder: OutputFolder, plan: StudyPlan, dataset: DatasetConfig, size: int
    ) -> None:
        self.folder, self.size = folder, size
        self.photographs = open_dataset(dataset)
        self.listing = Listing(folder.listing(plan.listing))
        self.study = lru_cache(maxsize=1)(self._study)
        kept = min(_MOST_PICTURES, _MOST_BYTES // (3 * size**2))
        self.picture = lru_cache(maxsize=kept)(self._picture)

    def strongest(self, study: Study, channels: Sequence[int]) -> NDArray[np.uint8]:
        """The photograph that each channel answers to most (n, S, S, 3)."""
        return self.pictures(self.study(study).top.index[list(channels), 0].tolist())

    def pictures(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Photographs by their places in the listing (n, S, S, 3); black where it is -1."""
        nothing = np.zeros((self.size, self.size, 3), np.uint8)
        return np.stack([nothing if i < 0 else self.picture(int(i)) for i in indices])

    def _picture(self, index: int) -> NDArray[np.uint8]:
        (entry,) = self.listing.block(index, index + 1)
        view = read_view(self.photographs, index, entry, self.size)
        if view.pixels is None:
            raise RuntimeError(f"photograph {entry.path} can no longer be read: {view.reason}")
        return view.pixels

    def _study(self, study: Study) -> LayerStudy:
        return read_findings(self.folder, study).study

"""Samples of activations: a layer at one random position of each dataset image, in blocks.

The position is drawn by the worker; the images that count are readable and have finite activations.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.config.objectives import ActivationAtlasObjective
from layer_atlas.datasets.image_files import as_jpeg, joined, parted
from layer_atlas.datasets.projection import check_projection
from layer_atlas.datasets.sources import DatasetImages, Listing
from layer_atlas.datasets.statistics_files import ProductReader
from layer_atlas.datasets.tasks import LayerSamples, StatisticsBlock
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.jobs import Product
from layer_atlas.store.files import Arrays, ArraySpec, AtMost
from layer_atlas.store.folder import OutputFolder

KEPT_CLASSES = 32
"""Classes of each sample whose attribution is kept: those that its activation supports most."""
THUMBNAIL = 160
"""Pixels of a side of the picture that is kept of each image, which sites enlarge: 12 kB."""
MOST_CLASSES = 2**20
"""Classes of a network; a file that names more is made up."""

_FILE_BYTES_PER_PIXEL = 8


def check_atlas(objective: ActivationAtlasObjective, dataset_images: DatasetImages) -> None:
    """Check that a map can be made, before anything is computed.

    Raises:
        UserError: a package is missing, or there are no images of a class.
    """
    check_projection(objective.projection, "objective.projection")
    if objective.classes is None:
        return
    known = {class_of(entry.path) for entry in dataset_images.entries()} - {""}
    if not known:
        raise UserError(
            "objective.classes names folders, and the images of this dataset lie in none; sort "
            "them into a folder per class, or take objective.classes=null."
        )
    for name in objective.classes:
        if name not in known:
            raise unknown("class of objective.classes:", name, known)


def sample_arrays(
    index: range,
    place: NDArray[np.int64],
    vector: NDArray[np.float32],
    scores: NDArray[np.float32],
    pictures: Sequence[NDArray[np.uint8] | None],
) -> Arrays:
    """Turn what was read of a batch into arrays of the n images that count: readable and finite.

    Args:
        index: of the images in the listing.
        place: (n,) flat position of each.
        vector: (n, K) activations there.
        scores: (n, classes) what they add to the score of each class.
        pictures: views (S, S, 3) of the images; None for unreadable ones.
    """
    readable = np.asarray([picture is not None for picture in pictures])
    rows = np.flatnonzero(readable & np.isfinite(vector).all(axis=1))
    scores = np.where(np.isfinite(scores), scores, np.float32(0))[rows]
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :KEPT_CLASSES]
    shown = [pictures[row] for row in rows.tolist()]
    thumbnails = [_thumbnail(picture) for picture in shown if picture is not None]
    return {
        "index": np.asarray(index, np.int64)[rows],
        "place": place.astype(np.int32)[rows],
        "vector": vector[rows],
        "classes": np.asarray(scores.shape[1], np.int64),
        "class": kept.astype(np.int32),
        "attribution": np.take_along_axis(scores, kept, axis=1),
        **joined(thumbnails),
    }


def _thumbnail(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if len(picture) > THUMBNAIL:
        small = Image.fromarray(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        picture = np.asarray(small)
    return as_jpeg(picture)


def joined_samples(parts: Sequence[Arrays]) -> Arrays:
    """Join the samples of the batches of a block."""
    pictures = [file for part in parts for file in parted(part["picture"], part["picture_end"])]
    names = ("index", "place", "vector", "class", "attribution")
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
    return {**arrays, "classes": parts[0]["classes"], **joined(pictures)}


def sample_specs(samples: LayerSamples, block: StatisticsBlock) -> dict[str, ArraySpec]:
    """The arrays of a block of samples."""
    n, kept = AtMost(block.units, "samples"), AtMost(KEPT_CLASSES, "kept")
    side = min(samples.image_size, THUMBNAIL)
    most = AtMost(block.units * _FILE_BYTES_PER_PIXEL * side**2 + 1, "bytes")
    return {
        "index": ArraySpec("i8", (n,), range(block.start, block.stop)),
        "place": ArraySpec("i4", (n,), range(samples.info.positions)),
        "vector": ArraySpec("f4", (n, samples.info.n_channels)),
        "classes": ArraySpec("i8", (), range(MOST_CLASSES)),
        "class": ArraySpec("i4", (n, kept), range(MOST_CLASSES)),
        "attribution": ArraySpec("f4", (n, kept)),
        "picture": ArraySpec("u1", (most,)),
        "picture_end": ArraySpec("i8", (n,)),
    }


class SampleReader(ProductReader):
    """Reads the samples of a layer, one block in memory at a time."""

    def __init__(
        self, folder: OutputFolder, samples: LayerSamples, blocks: Iterable[StatisticsBlock]
    ) -> None:
        super().__init__(folder)
        self.samples, self.blocks = samples, list(blocks)
        self.listing = Listing(folder.listing(samples.plan.listing))

    @property
    def are_all_there(self) -> bool:
        """Whether every block is committed."""
        return all(self.folder.exists(self._product(block)) for block in self.blocks)

    def __iter__(self) -> Iterator[Arrays]:
        """Yield the samples of each block, of the chosen classes alone, without pictures."""
        for block in self.blocks:
            arrays = self._samples(block)
            if arrays is not None:
                chosen = self._chosen(arrays["index"])
                once = {"classes", "picture", "picture_end"}
                yield {k: v if k in once else v[chosen] for k, v in arrays.items()}

    def _samples(self, block: StatisticsBlock) -> Arrays | None:
        return self.read(self._product(block), sample_specs(self.samples, block))

    def pictures(self, wanted: NDArray[np.int64]) -> dict[int, NDArray[np.uint8]]:
        """Return the pictures of some images, as JPEG files by their index in the listing."""
        found: dict[int, NDArray[np.uint8]] = {}
        for block in self.blocks:
            inside = wanted[(wanted >= block.start) & (wanted < block.stop)]
            arrays = self._samples(block) if len(inside) else None
            if arrays is not None:
                sheets = parted(arrays["picture"], arrays["picture_end"])
                known = dict(zip(arrays["index"].tolist(), sheets, strict=True))
                found |= {index: known[index] for index in inside.tolist() if index in known}
        return found

    def _product(self, block: StatisticsBlock) -> Product:
        return self.samples.block(block.start, block.dataset_images)

    def _chosen(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        classes = self.samples.objective.classes
        if classes is None or not len(index):
            return np.ones(len(index), bool)
        first = int(index[0])
        entries = self.listing.block(first, int(index[-1]) + 1)
        return np.asarray([class_of(entries[i - first].path) in classes for i in index.tolist()])


def class_of(path: str) -> str:
    """Return the class of a dataset image: the folder that it lies in; empty if there is none."""
    return PurePosixPath(path).parent.name

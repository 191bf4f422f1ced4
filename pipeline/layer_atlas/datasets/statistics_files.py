"""The files of studies: blocks as they are committed, and what they amount to.

A study is merged once, when all its blocks are there; from then on everybody reads the one file.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.image_files import from_jpeg, parted
from layer_atlas.datasets.statistics import DatasetStats, Ranking, merge
from layer_atlas.datasets.statistics_frames import (
    block_frames,
    example_frames,
    field_frames,
    statistics_frames,
)
from layer_atlas.datasets.tasks import Examples, LayerStatistics, StatisticsBlock
from layer_atlas.datasets.views import to_original
from layer_atlas.plan.jobs import Product
from layer_atlas.store import checksummed_file as sealed_file
from layer_atlas.store.arrays import write_pictures
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.files import read_at_most, set_aside, write_atomically
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.frames import Arrays, Frame, fitting, most_bytes, read_arrays

T = TypeVar("T")

SCHEMA = "layer-atlas-study/2"

_MAPS = ("saliency",)
"""Arrays of pictures, their last two axes."""


@dataclass(frozen=True)
class Boxes:
    """What the positions of peaks see of their photographs: left, top, right, bottom."""

    view: NDArray[np.int32]
    """(K, N, 4) in pixels of the view that the network was given."""
    photograph: NDArray[np.int32]
    """(K, N, 4) in pixels of the photograph."""


@dataclass(frozen=True)
class DatasetEvidence:
    """All that is known of a layer and a dataset."""

    stats: DatasetStats
    top: Boxes
    """Of the photographs of `study.top`."""
    bottom: Boxes


def write_arrays(folder: OutputFolder, product: Product, arrays: Arrays) -> None:
    """Commit the arrays of a product; maps are packed. Raises StorageError."""

    def fill(file: h5py.File) -> None:
        for name, array in arrays.items():
            if name in _MAPS:
                write_pictures(file, name, array, axes=2)
            else:
                file[name] = array

    header = {"schema": SCHEMA, "layer": product.layer, "shelf": product.shelf}
    write_atomically(folder.product(product), sealed_file.seal(header, fill))


def read_product(folder: OutputFolder, product: Product, frames: Mapping[str, Frame]) -> Arrays:
    """The arrays of a product; a corrupt file is set aside, so that it is made again.

    Args:
        folder: where it is.
        product: what it is.
        frames: what its arrays must be like.
    Raises:
        CorruptFile: it was.
        FileNotFoundError: there is none.
    """
    path = folder.product(product)
    try:
        sealed = sealed_file.unseal(read_at_most(path, most_bytes(frames.values())), SCHEMA)
        return read_arrays(fitting(sealed.arrays, frames), frames)
    except CorruptFile as error:
        set_aside(path)
        raise CorruptFile(f"{path}: {error}") from error


def merge_statistics(
    folder: OutputFolder, dataset_stats: LayerStatistics, blocks: Iterable[StatisticsBlock]
) -> list[Path]:
    """Merge the blocks of a study, if they are all there, into its file.

    Returns: files that turned out to be corrupt; they are set aside, and nothing is merged.
    Raises:
        StorageError: the disk is full or fails.
    """
    parts = {dataset_stats.block(block.start, block.dataset_images): block for block in blocks}
    if not all(map(folder.exists, [dataset_stats.field, *parts])):
        return []
    reader = _Reader(folder, dataset_stats)
    fields = reader.read(dataset_stats.field, field_frames(dataset_stats))
    summaries = reader.summaries(parts)
    first = next(summaries, None)
    if first is None:
        return reader.corrupt
    found = merge(chain([first], summaries))
    if fields is not None and not reader.corrupt:
        sizes = np.concatenate(reader.sizes)
        top, bottom = (
            _boxes(ranking, fields["box"], sizes, dataset_stats.image_size)
            for ranking in (found.top, found.bottom)
        )
        write_arrays(folder, dataset_stats.product, _flat(DatasetEvidence(found, top, bottom)))
    return reader.corrupt


class _Reader:
    """Reads the files of a study; keeps what the blocks say of the photographs' sizes."""

    def __init__(self, folder: OutputFolder, dataset_stats: LayerStatistics) -> None:
        self.folder, self.dataset_stats = folder, dataset_stats
        self.corrupt: list[Path] = []
        self.sizes: list[NDArray[np.int32]] = []

    def summaries(self, parts: Mapping[Product, StatisticsBlock]) -> Iterator[Arrays]:
        """The summaries of the blocks that are readable."""
        for part, block in parts.items():
            arrays = self.read(part, block_frames(self.dataset_stats, block))
            if arrays is not None:
                self.sizes.append(arrays.pop("size"))
                yield arrays

    def read(self, product: Product, frames: Mapping[str, Frame]) -> Arrays | None:
        """The arrays of a file; None if it was corrupt."""
        try:
            return read_product(self.folder, product, frames)
        except CorruptFile:
            self.corrupt.append(self.folder.product(product))
            return None


def _boxes(
    ranking: Ranking, fields: NDArray[np.int32], sizes: NDArray[np.int32], view_size: int
) -> Boxes:
    """What the positions of a ranking see; zeros where no photograph takes a place."""
    view = np.where((ranking.index >= 0)[..., None], fields[ranking.place], 0).astype(np.int32)
    photograph = np.zeros_like(view)
    for k, n in np.argwhere(ranking.index >= 0):
        width, height = sizes[ranking.index[k, n]].clip(1).tolist()
        photograph[k, n] = to_original(tuple(view[k, n].tolist()), view_size, width, height)
    return Boxes(view, photograph)


def read_evidence(folder: OutputFolder, dataset_stats: LayerStatistics) -> DatasetEvidence:
    """What a study found.

    Raises:
        FileNotFoundError: it is not finished.
        CorruptFile: its file is set aside, to be merged again.
    """
    return _whole(read_product(folder, dataset_stats.product, statistics_frames(dataset_stats)))


def read_examples(folder: OutputFolder, task: Examples) -> Arrays:
    """The photographs of some channels and their saliency.

    Raises:
        FileNotFoundError: they are not picked.
        CorruptFile: the file is set aside, to be made again.
    """
    arrays = read_product(folder, task.products[0], example_frames(task))
    try:
        if arrays["channel"].tolist() != list(task.targets):
            raise ValueError("the channels are others")
        for file in parted(arrays["picture"], arrays["picture_end"]):
            from_jpeg(file, task.dataset_stats.image_size)
    except ValueError as error:
        path = folder.product(task.products[0])
        set_aside(path)
        raise CorruptFile(f"{path}: {error}") from error
    return arrays


def _flat(evidence: DatasetEvidence) -> Arrays:
    """Findings as arrays: `top_index`, `top_view` and so on."""
    arrays = {name: np.asarray(value) for name, value in vars(evidence.stats).items()}
    for name in ("top", "bottom"):
        parts = vars(getattr(evidence.stats, name)) | vars(getattr(evidence, name))
        del arrays[name]
        arrays |= {f"{name}_{part}": array for part, array in parts.items()}
    return arrays


def _whole(arrays: Arrays) -> DatasetEvidence:
    """The inverse of `_flat`."""
    values: dict[str, Any] = {name: _record(Ranking, name, arrays) for name in ("top", "bottom")}
    names = {field.name for field in dataclasses.fields(DatasetStats)} - values.keys()
    values |= {name: arrays[name] for name in names - {"count"}}
    dataset_stats = DatasetStats(count=int(arrays["count"]), **values)
    return DatasetEvidence(
        dataset_stats, _record(Boxes, "top", arrays), _record(Boxes, "bottom", arrays)
    )


def _record(cls: type[T], prefix: str, arrays: Arrays) -> T:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return cls(**{field.name: arrays[f"{prefix}_{field.name}"] for field in fields})

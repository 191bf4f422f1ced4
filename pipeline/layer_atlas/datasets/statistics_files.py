"""Files of dataset statistics: blocks as they are committed, their merged file, and examples.

Blocks are merged once, when all are committed; from then on every reader uses the one file.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.image_files import from_jpeg, parted
from layer_atlas.datasets.sources import to_original
from layer_atlas.datasets.statistics import DatasetStats, Ranking, merge
from layer_atlas.datasets.tasks import Examples, Judging, LayerStatistics, StatisticsBlock
from layer_atlas.plan.jobs import Product
from layer_atlas.store import files
from layer_atlas.store.files import (
    Arrays,
    ArraySpec,
    AtMost,
    CorruptFile,
    aside_if_corrupt,
    read_checked,
    set_aside,
    write_atomically,
)
from layer_atlas.store.folder import OutputFolder

T = TypeVar("T")

SCHEMA = "layer-atlas-study/3"

_JPEG_BYTES = 8
"""Largest size of a JPEG file in bytes per pixel; no file that this package writes is as large."""


@dataclass(frozen=True)
class Boxes:
    """Receptive fields of peak responses: left, top, right, bottom."""

    view: NDArray[np.int32]
    """(K, N, 4) in pixels of the view that the network was given."""
    photograph: NDArray[np.int32]
    """(K, N, 4) in pixels of the dataset image."""


@dataclass(frozen=True)
class DatasetEvidence:
    """Statistics of a layer on a dataset, with receptive fields of the peak responses."""

    stats: DatasetStats
    top: Boxes
    """Boxes of the dataset images in `stats.top`."""
    bottom: Boxes


def write_arrays(folder: OutputFolder, product: Product, arrays: Arrays) -> None:
    """Commit the arrays of a product. Raises StorageError."""
    record = {"layer": product.layer, "shelf": product.shelf}
    write_atomically(folder.product(product), files.encode(SCHEMA, record, arrays))


def read_product(folder: OutputFolder, product: Product, specs: Mapping[str, ArraySpec]) -> Arrays:
    """Read the arrays of a product; a corrupt file is set aside, so that it is made again.

    Args:
        folder: the output folder.
        product: which file.
        specs: what its arrays must be like.
    Raises:
        CorruptFile: the file was corrupt.
        FileNotFoundError: there is no file.
    """
    path = folder.product(product)
    with aside_if_corrupt(path):
        return read_checked(path, SCHEMA, specs)[1]


def merge_statistics(
    folder: OutputFolder, statistics: LayerStatistics, blocks: Iterable[StatisticsBlock]
) -> list[Path]:
    """Merge the blocks of a layer into its file, if all of them are committed.

    Returns: files that turned out to be corrupt; they are set aside, and nothing is merged.
    Raises:
        StorageError: the disk is full or fails.
    """
    parts = {statistics.block(block.start, block.dataset_images): block for block in blocks}
    field = statistics.field
    if not all(map(folder.exists, [*([field] if field else []), *parts])):
        return []
    reader = _BlockReader(folder, statistics)
    boxes = _no_boxes(statistics) if field is None else reader.read(field, field_specs(statistics))
    summaries = reader.summaries(parts)
    first = next(summaries, None)
    if first is None:
        return reader.corrupt
    found = merge(chain([first], summaries))
    if boxes is not None and not reader.corrupt:
        sizes = np.concatenate(reader.sizes)
        top, bottom = (
            _boxes(ranking, boxes["box"], sizes, statistics.image_size)
            for ranking in (found.top, found.bottom)
        )
        write_arrays(folder, statistics.product, _flat(DatasetEvidence(found, top, bottom)))
    return reader.corrupt


class ProductReader:
    """Reads products, and collects those that are corrupt."""

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder
        self.corrupt: list[Path] = []

    def read(self, product: Product, specs: Mapping[str, ArraySpec]) -> Arrays | None:
        """Read the arrays of a file; `None` if it was corrupt."""
        try:
            return read_product(self.folder, product, specs)
        except CorruptFile:
            self.corrupt.append(self.folder.product(product))
            return None


class _BlockReader(ProductReader):
    """Reads the blocks of a layer; collects the sizes of their dataset images."""

    def __init__(self, folder: OutputFolder, statistics: LayerStatistics) -> None:
        super().__init__(folder)
        self.statistics = statistics
        self.sizes: list[NDArray[np.int32]] = []

    def summaries(self, parts: Mapping[Product, StatisticsBlock]) -> Iterator[Arrays]:
        """Yield the summaries of the readable blocks."""
        for part, block in parts.items():
            arrays = self.read(part, block_specs(self.statistics, block))
            if arrays is not None:
                self.sizes.append(arrays.pop("size"))
                yield arrays


def _no_boxes(statistics: LayerStatistics) -> Arrays:
    """Stand in for receptive fields that nobody wants: empty boxes."""
    return {"box": np.zeros((statistics.info.positions, 4), np.int32)}


def _boxes(
    ranking: Ranking, fields: NDArray[np.int32], sizes: NDArray[np.int32], view_size: int
) -> Boxes:
    """Receptive fields of the positions in a ranking; zeros where a rank is empty."""
    view = np.where((ranking.index >= 0)[..., None], fields[ranking.place], 0).astype(np.int32)
    photograph = np.zeros_like(view)
    for k, n in np.argwhere(ranking.index >= 0):
        width, height = sizes[ranking.index[k, n]].clip(1).tolist()
        photograph[k, n] = to_original(tuple(view[k, n].tolist()), view_size, width, height)
    return Boxes(view, photograph)


def read_evidence(folder: OutputFolder, statistics: LayerStatistics) -> DatasetEvidence:
    """Read the dataset statistics of a layer.

    Raises:
        FileNotFoundError: they are not finished.
        CorruptFile: their file was set aside, to be merged again.
    """
    return _whole(read_product(folder, statistics.product, statistics_specs(statistics)))


def read_examples(folder: OutputFolder, task: Examples) -> Arrays:
    """Read the dataset images of some targets and their saliency.

    Raises:
        FileNotFoundError: they are not computed yet.
        CorruptFile: their file was set aside, to be computed again.
    """
    arrays = read_product(folder, task.products[0], example_specs(task))
    try:
        if arrays["target"].tolist() != list(task.targets):
            raise ValueError("it holds other targets")
        for file in parted(arrays["picture"], arrays["picture_end"]):
            from_jpeg(file, task.statistics.image_size)
    except ValueError as error:
        path = folder.product(task.products[0])
        set_aside(path)
        raise CorruptFile(f"{path}: {error}") from error
    return arrays


def read_features(folder: OutputFolder, task: Judging) -> NDArray[np.float32]:
    """Read the features (n, K) of the images of a shard in the judge; NaN where there is no image.

    Raises:
        FileNotFoundError: they are not computed yet.
        CorruptFile: their file was set aside, to be computed again.
    """
    return read_product(folder, task.products[0], feature_specs(task))["feature"]


def _flat(evidence: DatasetEvidence) -> Arrays:
    """Flatten evidence into arrays: `top_index`, `top_view` and so on."""
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
    stats = DatasetStats(count=int(arrays["count"]), **values)
    return DatasetEvidence(stats, _record(Boxes, "top", arrays), _record(Boxes, "bottom", arrays))


def _record(cls: type[T], prefix: str, arrays: Arrays) -> T:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return cls(**{field.name: arrays[f"{prefix}_{field.name}"] for field in fields})


# --- specs ---------------------------------------------------------------------------------------


def field_specs(statistics: LayerStatistics) -> dict[str, ArraySpec]:
    """Receptive fields, in pixels of the view."""
    pixels = range(statistics.image_size + 1)
    return {"box": ArraySpec("i8", (statistics.info.positions, 4), pixels)}


def block_specs(statistics: LayerStatistics, block: StatisticsBlock) -> dict[str, ArraySpec]:
    """The summary of a block, as `summarise` makes it, and the sizes of its dataset images."""
    n, n_channels = block.units, statistics.info.n_channels
    return {
        **_summary(statistics, n, range(block.start, block.stop)),
        "M2": ArraySpec("f8", (n_channels,)),
        "size": ArraySpec("i4", (n, 2), range(2**31)),
    }


def statistics_specs(statistics: LayerStatistics) -> dict[str, ArraySpec]:
    """The statistics of all blocks, with the receptive fields of peak responses."""
    count, n_channels = statistics.plan.count, statistics.info.n_channels
    boxes = {
        f"{name}_{what}": ArraySpec("i4", (n_channels, most, 4))
        for name, most in _rankings(statistics).items()
        for what in ("view", "photograph")
    }
    return {
        **_summary(statistics, count, range(count)),
        "std": ArraySpec("f8", (n_channels,)),
        **boxes,
    }


def example_specs(task: Examples) -> dict[str, ArraySpec]:
    """Dataset images of some targets, as JPEG files back to back, and maps of the strongest.

    Files of earlier versions have no activation maps.
    """
    plan, n, size = task.statistics.plan, len(task.targets), task.statistics.image_size
    pictures = AtMost(2 * n * plan.examples, "pictures")
    maps = min(task.saliency.dataset_images if task.saliency else 0, plan.examples)
    numbers = range(-1, plan.count)
    return {
        "target": ArraySpec("i8", (n,)),
        "strongest_index": ArraySpec("i8", (n, AtMost(plan.examples, "strongest")), numbers),
        "weakest_index": ArraySpec("i8", (n, AtMost(plan.examples, "weakest")), numbers),
        "picture_index": ArraySpec("i8", (pictures,), numbers),
        "picture_end": ArraySpec("i8", (pictures,)),
        "picture": ArraySpec("u1", (AtMost(pictures.length * _JPEG_BYTES * size**2, "bytes"),)),
        "saliency": ArraySpec("u1", (n, AtMost(maps, "maps"), size, size), required=False),
        **_activation_specs(task),
    }


def _activation_specs(task: Examples) -> dict[str, ArraySpec]:
    """Activation maps of the strongest, 0 to 255 between the bounds of each map."""
    kept, n = task.map_size or (0, 0), len(task.targets)
    shown = AtMost(task.statistics.plan.examples, "strongest")
    return {
        "activation": ArraySpec("u1", (n, shown, *kept), required=False),
        "activation_bounds": ArraySpec("f4", (n, shown, 2), required=False),
    }


def feature_specs(task: Judging) -> dict[str, ArraySpec]:
    """The features of the images of a shard, in the judge."""
    return {"feature": ArraySpec("f4", (task.units, task.judge.info.n_channels))}


def _summary(statistics: LayerStatistics, n: int, dataset_images: range) -> dict[str, ArraySpec]:
    """The summary of some dataset images: moments, rankings, and the responses that are kept."""
    n_channels = statistics.info.n_channels
    kept, unreadable = AtMost(n, "kept"), AtMost(n, "unreadable")
    specs = {
        "count": ArraySpec("i8", (), range(n + 1)),
        "mean": ArraySpec("f8", (n_channels,)),
        "min": ArraySpec("f4", (n_channels,)),
        "max": ArraySpec("f4", (n_channels,)),
        "responding": ArraySpec("i8", (n_channels,), range(n + 1)),
        "rows": ArraySpec("f4", (kept, n_channels)),
        "row_index": ArraySpec("i8", (kept,), dataset_images),
        "unreadable": ArraySpec("i8", (unreadable,), dataset_images),
    }
    for name, most in _rankings(statistics).items():
        shape = (n_channels, most)
        specs[f"{name}_index"] = ArraySpec("i8", shape, range(-1, dataset_images.stop))
        specs[f"{name}_score"] = ArraySpec("f4", shape)
        specs[f"{name}_place"] = ArraySpec("i4", shape, range(-1, statistics.info.positions))
    return specs


def _rankings(statistics: LayerStatistics) -> dict[str, int]:
    return {"top": statistics.plan.top, "bottom": statistics.plan.bottom}

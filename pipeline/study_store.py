"""The files of studies: blocks as they are committed, and what they amount to.

A study is merged once, when all its blocks are there; from then on everybody reads the one file.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline import sealed_file
from pipeline.jobs import Product
from pipeline.sealed_file import CorruptFile
from pipeline.store import OutputFolder, set_aside, write_atomically
from pipeline.study import LayerStudy, Ranking, merge
from pipeline.study_tasks import Study, StudyBlock
from pipeline.views import to_original

T = TypeVar("T")

SCHEMA = "layer-atlas-study/1"

PIXEL_FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Boxes:
    """What the positions of peaks see of their photographs: left, top, right, bottom."""

    view: NDArray[np.int32]
    """(K, N, 4) in pixels of the view that the network was given."""
    photograph: NDArray[np.int32]
    """(K, N, 4) in pixels of the photograph."""


@dataclass(frozen=True)
class Findings:
    """All that is known of a layer and a dataset."""

    study: LayerStudy
    top: Boxes
    """Of the photographs of `study.top`."""
    bottom: Boxes


def write_arrays(folder: OutputFolder, product: Product, arrays: Arrays) -> None:
    """Commit the arrays of a product; maps are compressed. Raises StorageError.

    An array of objects holds bytes, each a uint8 array of its own length: JPEG files.
    """

    def fill(file: h5py.File) -> None:
        for name, array in arrays.items():
            if array.dtype == object:
                _write_bytes(file, name, array)
                continue
            pixels = array.dtype == np.uint8 and array.ndim > 2 and array.size > 0
            file.create_dataset(name, data=array, **(PIXEL_FILTERS if pixels else {}))

    header = {"schema": SCHEMA, "layer": product.layer, "shelf": product.shelf}
    write_atomically(folder.product(product), sealed_file.seal(header, fill))


def _write_bytes(file: h5py.File, name: str, array: NDArray[Any]) -> None:
    dataset = file.create_dataset(name, array.shape, h5py.vlen_dtype(np.uint8))
    # One by one: those that happen to be equally long would pass for one array.
    for place, item in np.ndenumerate(array):
        dataset[place] = item


def read_arrays(path: Path) -> Arrays:
    """The arrays of a product; a corrupt file is set aside, so that it is made again.

    Raises:
        CorruptFile: it was.
        FileNotFoundError: there is none.
    """
    try:
        return sealed_file.unseal(path.read_bytes(), SCHEMA)[1]
    except CorruptFile as error:
        set_aside(path)
        raise CorruptFile(f"{path}: {error}") from error


def merge_study(folder: OutputFolder, study: Study, blocks: Iterable[StudyBlock]) -> list[Path]:
    """Merge the blocks of a study, if they are all there, into its file.

    Returns: files that turned out to be corrupt; they are set aside, and nothing is merged.
    Raises:
        StorageError: the disk is full or fails.
    """
    parts = [study.block(block.start, block.photographs) for block in blocks]
    if not all(map(folder.exists, [study.field, *parts])):
        return []
    reader = _Reader(folder)
    fields, summaries = reader.read(study.field), reader.summaries(parts)
    first = next(summaries, None)
    if first is None:
        return reader.corrupt
    found = merge(chain([first], summaries))
    if fields is not None and not reader.corrupt:
        sizes = np.concatenate(reader.sizes)
        top, bottom = (
            _boxes(ranking, fields["box"], sizes, study.image_size)
            for ranking in (found.top, found.bottom)
        )
        write_arrays(folder, study.product, _flat(Findings(found, top, bottom)))
    return reader.corrupt


class _Reader:
    """Reads the files of a study; keeps what the blocks say of the photographs' sizes."""

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder
        self.corrupt: list[Path] = []
        self.sizes: list[NDArray[np.int32]] = []

    def summaries(self, parts: Iterable[Product]) -> Iterator[Arrays]:
        """The summaries of the blocks that are readable."""
        for part in parts:
            arrays = self.read(part)
            if arrays is not None:
                self.sizes.append(arrays.pop("size"))
                yield arrays

    def read(self, product: Product) -> Arrays | None:
        """The arrays of a file; None if it was corrupt."""
        path = self.folder.product(product)
        try:
            return read_arrays(path)
        except CorruptFile:
            self.corrupt.append(path)
            return None


def _boxes(
    ranking: Ranking, fields: NDArray[np.int32], sizes: NDArray[np.int32], view_size: int
) -> Boxes:
    """What the positions of a ranking see; zeros where no photograph takes a place."""
    view = np.where((ranking.index >= 0)[..., None], fields[ranking.place], 0).astype(np.int32)
    photograph = np.zeros_like(view)
    for k, n in np.argwhere(ranking.index >= 0):
        width, height = sizes[ranking.index[k, n]].tolist()
        photograph[k, n] = to_original(tuple(view[k, n].tolist()), view_size, width, height)
    return Boxes(view, photograph)


def read_findings(folder: OutputFolder, study: Study) -> Findings:
    """What a study found.

    Raises:
        FileNotFoundError: it is not finished.
        CorruptFile: its file is set aside, to be merged again.
    """
    return _whole(read_arrays(folder.product(study.product)))


def _flat(findings: Findings) -> Arrays:
    """Findings as arrays: `top_index`, `top_view` and so on."""
    arrays = {name: np.asarray(value) for name, value in vars(findings.study).items()}
    for name in ("top", "bottom"):
        parts = vars(getattr(findings.study, name)) | vars(getattr(findings, name))
        del arrays[name]
        arrays |= {f"{name}_{part}": array for part, array in parts.items()}
    return arrays


def _whole(arrays: Arrays) -> Findings:
    """The inverse of `_flat`."""
    values: dict[str, Any] = {name: _record(Ranking, name, arrays) for name in ("top", "bottom")}
    names = {field.name for field in dataclasses.fields(LayerStudy)} - values.keys()
    values |= {name: arrays[name] for name in names - {"count"}}
    study = LayerStudy(count=int(arrays["count"]), **values)
    return Findings(study, _record(Boxes, "top", arrays), _record(Boxes, "bottom", arrays))


def _record(cls: type[T], prefix: str, arrays: Arrays) -> T:
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return cls(**{field.name: arrays[f"{prefix}_{field.name}"] for field in fields})

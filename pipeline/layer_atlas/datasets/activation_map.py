"""Maps of activations: samples of a layer over a dataset, laid out in two dimensions, in cells.

A worker samples the layer at one random position of each dataset image, block by block. The images
that count are readable and have finite activations. When all blocks
exist, `make_map` reads them a few times, one in memory at a time: moments and a subsample for the
projection; coordinates; means of the cells; how close each member is to the mean of its cell. The
coordinates of samples and the means of cells stay in memory.

After Carter et al. 2019, "Activation Atlas" (Distill, doi:10.23915/distill.00015).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.config.objectives import ActivationAtlasObjective
from layer_atlas.datasets.image_files import as_jpeg, joined, parted
from layer_atlas.datasets.projection import (
    check_projection,
    fit_neighbours,
    in_unit_square,
    principal_axes,
    project,
)
from layer_atlas.datasets.sources import DatasetImages, Listing
from layer_atlas.datasets.statistics_files import SCHEMA, ProductReader, read_product, write_arrays
from layer_atlas.datasets.tasks import LayerSamples, StatisticsBlock
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.jobs import Product
from layer_atlas.store import files
from layer_atlas.store.files import Arrays, ArraySpec, AtMost, conforming
from layer_atlas.store.folder import OutputFolder

KEPT_CLASSES = 32
"""Classes of each sample whose attribution is kept: those that its activation supports most."""
THUMBNAIL = 160
"""Pixels of a side of the picture that is kept of each image, which sites enlarge: 12 kB."""
MOST_CLASSES = 2**20
"""Classes of a network; a file that names more is made up."""
CELL_CLASSES = 8
"""Classes of each cell that are kept: those that its activations support most."""
FITTED = 50_000
"""Samples that the projection is fitted to; it takes all others along."""

_FILE_BYTES_PER_PIXEL = 8


# --- samples --------------------------------------------------------------------------------------


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


# --- the map -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ActivationMap:
    """A map of N samples in G grids, of which P cells are populated; K channels."""

    index: NDArray[np.int64]
    """(N,) index of each sample's image in the listing."""
    place: NDArray[np.int32]
    """(N,) flat position of each sample on the layer's map."""
    position: NDArray[np.float32]
    """(N, 2) x and y of each sample on the map, in [0, 1]; y runs downwards."""
    cell: NDArray[np.int64]
    """(N, G) target of the cell that holds each sample; -1 where that cell is left empty."""
    closeness: NDArray[np.float32]
    """(N, G) cosine of each sample and the mean of its cell; NaN where that is left empty."""
    target: NDArray[np.int64]
    """(P,) number of each populated cell, ascending: grids one after another, row by row."""
    count: NDArray[np.int64]
    """(P,) number of samples."""
    mean: NDArray[np.float32]
    """(P, K) mean activation."""
    direction: NDArray[np.float32]
    """(P, K) the same times the inverse of the second moment of all samples."""
    classes: NDArray[np.int64]
    """() number of classes; 0 where none are known."""
    class_index: NDArray[np.int32]
    """(P, classes kept) the classes that the activations support most."""
    class_attribution: NDArray[np.float32]
    """(P, classes kept) what the mean activation adds to their scores."""


def make_map(reader: SampleReader) -> list[Path]:
    """Make the map of a layer from its samples, if all of them are committed.

    Returns: files that turned out to be corrupt; they are set aside, and nothing is made.
    Raises:
        StorageError: the disk is full or fails.
    """
    if not reader.are_all_there:
        return []
    samples = reader.samples
    for _ in reader:  # finds corrupt files, before results of many passes depend on them
        pass
    if not reader.corrupt:
        made = map_of(reader, samples.objective, samples.info.n_channels)
        write_arrays(reader.folder, samples.product, {**vars(made)})
    return reader.corrupt


def map_of(
    blocks: Iterable[Arrays], settings: ActivationAtlasObjective, n_channels: int
) -> ActivationMap:
    """Make a map of samples.

    Args:
        blocks: the samples, block by block; read several times.
        settings: of the map.
        n_channels: K.
    """
    moments = _Moments(n_channels)
    index = [np.zeros(0, np.int64)] + [block["index"] for block in blocks]
    chosen = _subsample(np.concatenate(index), settings.seed)
    fitted = [np.zeros((0, n_channels), np.float32)]
    places, classes = [np.zeros(0, np.int32)], 0
    for block in blocks:
        moments.add(block["vector"])
        fitted.append(block["vector"][np.isin(block["index"], chosen)])
        places.append(block["place"])
        classes = int(block["classes"])
    place = _projection(np.concatenate(fitted), moments, settings)
    points = [np.zeros((0, 2), np.float32)]
    points += [place(block["index"], block["vector"], chosen) for block in blocks]
    position = in_unit_square(np.concatenate(points))
    cell = cells_of(position, settings.grid)
    target, inverse = np.unique(cell, return_inverse=True)
    inverse = inverse.reshape(cell.shape)
    sums = _cell_sums(blocks, inverse, len(target), n_channels, classes)
    count = np.bincount(inverse.ravel(), minlength=len(target)).astype(np.int64)
    mean = (sums[0] / count[:, None]).astype(np.float32)
    # A mean of zeros has no direction.
    filled = (count >= settings.least) & (mean != 0).any(axis=1)
    closeness = _closeness(blocks, inverse, mean)
    supported = np.argsort(-sums[1], axis=1, kind="stable")[:, :CELL_CLASSES]
    score = np.take_along_axis(sums[1], supported, axis=1) / count[:, None]
    return ActivationMap(
        index=np.concatenate(index),
        place=np.concatenate(places),
        position=position,
        cell=np.where(filled[inverse], cell, -1),
        closeness=np.where(filled[inverse], closeness, np.float32(np.nan)),
        target=target[filled],
        count=count[filled],
        mean=mean[filled],
        direction=moments.whitened(mean[filled], settings.ridge),
        classes=np.asarray(classes, np.int64),
        class_index=supported[filled].astype(np.int32),
        class_attribution=score[filled].astype(np.float32),
    )


def cells_of(position: NDArray[np.float32], grid: Sequence[int]) -> NDArray[np.int64]:
    """Return the target of the cell of each point (N, 2) in each grid: (N, G)."""
    found, first = [], 0
    for side in grid:
        column, row = np.minimum((position * side).astype(np.int64), side - 1).T
        found.append(first + row * side + column)
        first += side * side
    return np.stack(found, axis=1)


class _Moments:
    """The mean and the second moment of samples, summed block by block in double precision."""

    def __init__(self, n_channels: int) -> None:
        self.count = 0
        self.sum, self.products = np.zeros(n_channels), np.zeros((n_channels, n_channels))

    def add(self, vectors: NDArray[np.float32]) -> None:
        exact = vectors.astype(np.float64)
        self.count += len(exact)
        self.sum += exact.sum(axis=0)
        self.products += exact.T @ exact

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.sum / max(self.count, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        return self.products / max(self.count, 1) - np.outer(self.mean, self.mean)

    def whitened(self, means: NDArray[np.float32], ridge: float) -> NDArray[np.float32]:
        """Multiply means (P, K) with the inverse second moment.

        It is that about zero, as in the authors' code, and not the covariance: its inverse also
        takes away what all activations share, which would make all cells alike.
        """
        variance = max(float(np.trace(self.covariance)) / len(self.sum), 1e-12)
        moment = self.products / max(self.count, 1) + ridge * variance * np.eye(len(self.sum))
        return np.linalg.solve(moment, means.T.astype(np.float64)).T.astype(np.float32)


def _subsample(index: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Choose the images whose samples the projection is fitted to, in ascending order."""
    if len(index) <= FITTED:
        return index
    return np.sort(np.random.default_rng(seed).choice(index, FITTED, replace=False))


class _projection:  # noqa: N801 - a function that is fitted
    """Maps samples (n, K) to points (n, 2)."""

    def __init__(
        self, fitted: NDArray[np.float32], moments: _Moments, settings: ActivationAtlasObjective
    ) -> None:
        self.fitted = 0
        how = (settings.projection, fitted, settings.neighbours, settings.seed)
        self.reducer = fit_neighbours(*how)
        if self.reducer is None:
            self.mean, self.axes = moments.mean, principal_axes(moments.covariance)

    def __call__(
        self, index: NDArray[np.int64], vectors: NDArray[np.float32], chosen: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Points of a block of samples; blocks must come in the order of the fit."""
        if self.reducer is None:
            return project(vectors, self.mean, self.axes)
        known = np.isin(index, chosen)
        points = np.zeros((len(index), 2), np.float32)
        points[known] = self.reducer.embedding_[self.fitted : self.fitted + known.sum()]
        self.fitted += int(known.sum())
        if not known.all():
            points[~known] = self.reducer.transform(vectors[~known])
        return points


def _cell_sums(
    blocks: Iterable[Arrays], cell: NDArray[np.intp], cells: int, n_channels: int, classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Sum the activations (P, K) and the attributions (P, classes) of the samples of each cell."""
    vectors, scores, start = (
        np.zeros((cells, n_channels)),
        np.zeros((cells, classes), np.float32),
        0,
    )
    for block in blocks:
        rows = cell[start : start + len(block["vector"])]
        start += len(rows)
        for of_grid in rows.T:
            np.add.at(vectors, of_grid, block["vector"])
            if classes:
                np.add.at(scores, (of_grid[:, None], block["class"]), block["attribution"])
    return vectors, scores


def _closeness(
    blocks: Iterable[Arrays], cell: NDArray[np.intp], mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the cosine of each sample and the mean of its cell: (N, G)."""
    found = [np.zeros((0, cell.shape[1]), np.float32)]
    start = 0
    for block in blocks:
        vectors = block["vector"]
        rows = cell[start : start + len(vectors)]
        start += len(vectors)
        of_grids = []
        for of_grid in rows.T:
            means = mean[of_grid]
            length = np.linalg.norm(vectors, axis=1) * np.linalg.norm(means, axis=1)
            of_grids.append((vectors * means).sum(axis=1) / np.maximum(length, 1e-12))
        found.append(np.stack(of_grids, axis=1).astype(np.float32))
    return np.concatenate(found)


# --- files ---------------------------------------------------------------------------------------


def map_specs(n_channels: int, grid: Sequence[int], count: int) -> dict[str, ArraySpec]:
    """The arrays of a map of up to so many samples."""
    n, cells = AtMost(count, "samples"), sum(side * side for side in grid)
    p, kept = AtMost(min(cells, count * len(grid)), "cells"), AtMost(CELL_CLASSES, "classes")
    return {
        "index": ArraySpec("i8", (n,)),
        "place": ArraySpec("i4", (n,)),
        "position": ArraySpec("f4", (n, 2)),
        "cell": ArraySpec("i8", (n, len(grid)), range(-1, cells)),
        "closeness": ArraySpec("f4", (n, len(grid))),
        "target": ArraySpec("i8", (p,), range(cells)),
        "count": ArraySpec("i8", (p,), range(1, count + 1)),
        "mean": ArraySpec("f4", (p, n_channels)),
        "direction": ArraySpec("f4", (p, n_channels)),
        "classes": ArraySpec("i8", (), range(MOST_CLASSES)),
        "class_index": ArraySpec("i4", (p, kept), range(MOST_CLASSES)),
        "class_attribution": ArraySpec("f4", (p, kept)),
    }


def read_map(folder: OutputFolder, samples: LayerSamples) -> ActivationMap:
    """Read the map of a layer.

    Raises:
        FileNotFoundError: it is not made yet.
        CorruptFile: its file was set aside, to be made again.
    """
    specs = map_specs(samples.info.n_channels, samples.objective.grid, samples.plan.count)
    arrays = read_product(folder, samples.product, specs)
    return ActivationMap(**{field.name: arrays[field.name] for field in fields(ActivationMap)})


_MOST_SAMPLES = 2**32 - 1


def read_directions_of_cells(path: Path, n_channels: int, grid: Sequence[int]) -> NDArray[Any]:
    """Read the direction of every cell from the file of a map: (cells, K), zeros for empty cells.

    Raises:
        CorruptFile: the file is damaged, or of another layer.
    """
    decoded = files.decode(path.read_bytes(), SCHEMA)
    specs = map_specs(n_channels, grid, _MOST_SAMPLES)
    arrays = conforming(decoded.arrays, {name: specs[name] for name in ("target", "direction")})
    rows = np.zeros((sum(side * side for side in grid), n_channels), np.float32)
    rows[arrays["target"]] = arrays["direction"]
    return rows

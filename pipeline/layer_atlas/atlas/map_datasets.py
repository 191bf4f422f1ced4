"""The datasets of an activation atlas in `atlas.h5`: cells, and the samples in them."""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.dataset_group import TEXT, add_dataset, add_scale, as_text, label
from layer_atlas.atlas.gather import LayerView
from layer_atlas.datasets.activation_map import ActivationMap, SampleReader, read_map
from layer_atlas.datasets.statistics_files import field_specs, read_product
from layer_atlas.datasets.tasks import LayerSamples, blocks_of

CELL_CHANNELS = 8
"""Channels of each cell that are listed."""
MEMBERS = 4
"""Samples of each cell whose pictures are in the atlas."""

_OF_CELLS = {
    "cell_grid": "cells per side of the grid of the cell",
    "cell_row": "row of the cell, counted from the top",
    "cell_column": "column of the cell, counted from the left",
    "cell_count": "number of samples in the cell",
}
_OF_SAMPLES = {
    "sample_image": "index of the sample's image in the list of the dataset",
    "sample_x": "place of the sample on the map, from 0 at the left to 1",
    "sample_y": "place of the sample on the map, from 0 at the top to 1",
    "sample_row": "row of the sample on the layer's map",
    "sample_column": "column of the sample on the layer's map",
}


def write_map(group: h5py.Group, view: LayerView, samples: LayerSamples) -> None:
    """Add the map of a layer: its cells along `channel`, its samples along `sample`.

    Raises:
        FileNotFoundError: the map or the receptive fields are not made yet.
        CorruptFile: a file of them was set aside.
    """
    made = read_map(view.folder, samples)
    # Read before anything is written: without either there is no map.
    assert samples.field is not None
    boxes = read_product(view.folder, samples.field, field_specs(samples))["box"]
    rows = np.searchsorted(made.target, view.targets)
    _write_cells(group, view, samples, made, rows)
    _write_classes(group, view, made, rows)
    reader = SampleReader(view.folder, samples, ())
    reader.blocks = list(blocks_of((samples,), reader.listing))
    _write_samples(group, view, samples, made, reader)
    add_scale(group, "edge", np.arange(boxes.shape[1]))
    box = boxes[made.place].astype(np.int32)
    meaning = "receptive field of the activation: left, top, right, bottom in pixels of the view"
    add_dataset(group, "sample_view_box", box, ("sample", "edge"), meaning)
    _write_members(group, made, reader)
    group.attrs["photographs"] = len(made.index)
    group.attrs["view_size"] = samples.image_size
    group.attrs["map_size"] = np.asarray(samples.info.map_size)
    group.attrs["dataset_source"] = as_text(samples.plan.source)


def _write_cells(
    group: h5py.Group,
    view: LayerView,
    samples: LayerSamples,
    made: ActivationMap,
    rows: NDArray[np.intp],
) -> None:
    grid = np.asarray(samples.objective.grid)
    first = np.cumsum(np.square(grid)) - np.square(grid)
    which = np.searchsorted(first, view.targets, side="right") - 1
    row, column = np.divmod(view.targets - first[which], grid[which])
    values = (grid[which], row, column, made.count[rows])
    for (name, meaning), array in zip(_OF_CELLS.items(), values, strict=True):
        add_dataset(group, name, array.astype(np.int32), ("channel",), meaning)
    mean = made.mean[rows]
    meaning = "mean activation of the samples in the cell"
    add_dataset(group, "cell_mean", mean, ("channel", "response_channel"), meaning)
    strongest = np.argsort(-mean, axis=1, kind="stable")[:, :CELL_CHANNELS]
    add_scale(group, "cell_channel_rank", np.arange(strongest.shape[1]))
    axes, meaning = ("channel", "cell_channel_rank"), "channels of the largest mean activation"
    add_dataset(group, "cell_channel", strongest.astype(np.int32), axes, meaning)
    value = np.take_along_axis(mean, strongest, axis=1)
    add_dataset(group, "cell_channel_value", value, axes, "their mean activation")


def _write_classes(
    group: h5py.Group, view: LayerView, made: ActivationMap, rows: NDArray[np.intp]
) -> None:
    if not int(made.classes):
        return
    add_scale(group, "class", np.arange(int(made.classes)))
    names = view.model.categories
    if len(names) == int(made.classes):
        texts = [as_text(name) for name in names]
        add_dataset(group, "class_name", texts, ("class",), "name of the class", dtype=TEXT)
    add_scale(group, "cell_class_rank", np.arange(made.class_index.shape[1]))
    axes, meaning = ("channel", "cell_class_rank"), "classes that the cell supports most"
    add_dataset(group, "cell_class", made.class_index[rows], axes, meaning)
    meaning = "what the activations in the cell add to their scores, on average"
    add_dataset(group, "cell_class_attribution", made.class_attribution[rows], axes, meaning)


def _write_samples(
    group: h5py.Group,
    view: LayerView,
    samples: LayerSamples,
    made: ActivationMap,
    reader: SampleReader,
) -> None:
    add_scale(group, "sample", np.arange(len(made.index)))
    add_scale(group, "grid", np.asarray(samples.objective.grid))
    row, column = np.divmod(made.place, samples.info.map_size[1])
    values: tuple[NDArray[Any], ...] = (made.index, *made.position.T, row, column)
    for (name, meaning), array in zip(_OF_SAMPLES.items(), values, strict=True):
        add_dataset(group, name, array, ("sample",), meaning)
    # A cell that `channels` excludes has no image.
    cell = np.where(np.isin(made.cell, view.targets), made.cell, -1)
    meaning = "target of the cell that holds the sample in each grid; -1: none"
    add_dataset(group, "sample_cell", cell, ("sample", "grid"), meaning)
    meaning = "cosine of the sample's activation and the mean of its cell"
    add_dataset(group, "sample_closeness", made.closeness, ("sample", "grid"), meaning)
    paths = [path for block in reader.blocks for path in _paths(reader, block.start, block.stop)]
    texts = [as_text(paths[index]) for index in made.index.tolist()]
    meaning = "path of the sample's image, within the dataset"
    add_dataset(group, "sample_path", texts, ("sample",), meaning, dtype=TEXT)


def _paths(reader: SampleReader, start: int, stop: int) -> list[str]:
    return [entry.path for entry in reader.listing.block(start, stop)]


def _write_members(group: h5py.Group, made: ActivationMap, reader: SampleReader) -> None:
    """Add the samples that are closest to the mean of each cell, with their pictures."""
    cells = group["channel"][()]
    member = np.full((len(cells), MEMBERS), -1, np.int64)
    for of_grid, closeness in zip(made.cell.T, made.closeness.T, strict=True):
        order = np.lexsort((-closeness, of_grid))
        held, start, counts = np.unique(of_grid[order], return_index=True, return_counts=True)
        ends = start + np.minimum(counts, MEMBERS)
        runs = zip(held.tolist(), start.tolist(), ends.tolist(), strict=True)
        known = {cell: order[first:end] for cell, first, end in runs}
        for row, cell in enumerate(cells.tolist()):
            if cell in known:
                member[row, : len(known[cell])] = known[cell]
    add_scale(group, "cell_member_rank", np.arange(MEMBERS))
    axes, meaning = ("channel", "cell_member_rank"), "samples closest to the mean; -1: none"
    add_dataset(group, "cell_member", member, axes, meaning)
    pictures = reader.pictures(np.unique(made.index[member[member >= 0]]))
    meaning = "view of the image of each of them, as a JPEG file"
    group.create_dataset("cell_jpeg", member.shape, dtype=h5py.vlen_dtype(np.uint8))
    label(group, "cell_jpeg", axes, meaning)
    for (row, rank), sample in np.ndenumerate(member):
        if sample >= 0 and (index := int(made.index[sample])) in pictures:
            group["cell_jpeg"][row, rank] = pictures[index]

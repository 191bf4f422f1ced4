"""Maps on a site: the cells of an activation atlas and what each holds; targets by similarity."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from layer_atlas.atlas.reader import Layer
from layer_atlas.datasets.projection import Projection
from layer_atlas.presentation.montages.map_picture import fractions
from layer_atlas.presentation.similarity import lay_out
from layer_atlas.presentation.site.about import without_folders
from layer_atlas.presentation.site.files import SiteFiles, numbers, photograph_name

_DIGITS = 4


def map_data(layer: Layer) -> dict[str, Any] | None:
    """The map of a layer, for its page; None if it has none.

    Returns: `grids`, the coarsest first, each with its `side` and, cell by cell from the top left,
        the row of the layer that the cell is (-1: empty); and for every row of the layer the side
        of its image as a `fraction` of its cell, the `count` of its samples, the class as its
        `label`, and whatever else its name needs.
    """
    if not layer.has_map:
        return None
    row_of = {channel: row for row, channel in enumerate(layer.channels)}
    fraction, grids = [1.0] * len(row_of), []
    for side in sorted(layer.grids):
        targets = layer.cells(side)
        rows = [row_of.get(int(target), -1) for target in targets.ravel()]
        for position, size in fractions(layer, targets).items():
            fraction[rows[position]] = round(size, 3)
        grids.append({"side": side, "rows": rows})
    return {
        "grids": grids,
        "fraction": fraction,
        "count": layer["cell_count"].tolist(),
        "label": [next(iter(layer.cell_classes(channel)), "") for channel in layer.channels],
        "photographs": int(layer.facts["photographs"]),
        "source": without_folders(str(layer.facts["dataset_source"])),
        "view": int(layer.facts.get("view_size", 0)),
        "positions": [int(side) for side in layer.facts.get("map_size", ())],
    }


_PLACES = 10_000
"""Steps of a coordinate: finer than any screen."""


def points_data(layer: Layer, projection: Projection) -> dict[str, Any]:
    """The similarity map of a layer: `x` and `y` of each row, 0 to 10,000; -1: no image."""
    places = lay_out(layer, layer.leads(), projection)
    steps = np.where(np.isfinite(places), np.round(places * _PLACES), -1).astype(int)
    x, y = steps.T.tolist()
    return {"x": x, "y": y, "steps": _PLACES, "projection": projection}


def cell_record(layer: Layer, row: int) -> dict[str, Any]:
    """What a cell of a map holds: its place, classes, strongest channels, and its samples."""
    channels = layer.dataset("cell_channel")[row].tolist()
    values = numbers(np.asarray(layer.dataset("cell_channel_value")[row]), _DIGITS)
    classes = layer.cell_classes(layer.channels[row]).items()
    return {
        **{name: int(layer.dataset(f"cell_{name}")[row]) for name in ("grid", "row", "column")},
        "classes": [[name, float(f"{value:.{_DIGITS}g}")] for name, value in classes],
        "channels": list(map(list, zip(channels, values, strict=True))),
        "samples": [
            {"path": path, "file": photograph_name(path, data), **_where(layer, sample)}
            for sample, path, data in _members(layer, row)
        ],
    }


def write_photographs(files: SiteFiles, layer: Layer, row: int) -> None:
    """Write the photographs of a cell that no other has. Raises StorageError."""
    # Decoded for its own sake: what is no JPEG file does not get into the site.
    layer.sample_pictures(layer.channels[row])
    for _, path, data in _members(layer, row):
        files.write_once(photograph_name(path, data), data)


def _members(layer: Layer, row: int) -> Iterator[tuple[int, str, bytes]]:
    """Yield number, path and picture of the samples closest to the mean of a cell."""
    samples, pictures = (layer.dataset(f"cell_{name}")[row] for name in ("member", "jpeg"))
    for sample, picture in zip(samples.tolist(), pictures, strict=True):
        if sample >= 0 and len(picture):
            path = str(layer.dataset("sample_path")[sample], "utf-8", "replace")
            yield sample, path, picture.tobytes()


def _where(layer: Layer, sample: int) -> dict[str, Any]:
    """The position of a sample on the layer's map, and its receptive field in the view."""
    if "sample_view_box" not in layer:  # an atlas of an earlier version
        return {}
    row, column = (int(layer.dataset(f"sample_{name}")[sample]) for name in ("row", "column"))
    return {"at": [row, column], "box": layer.dataset("sample_view_box")[sample].tolist()}

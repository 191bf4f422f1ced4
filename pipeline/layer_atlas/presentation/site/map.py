"""Maps on a site: the cells of an activation atlas and what each holds; targets by similarity."""

from typing import Any, Literal

import numpy as np

from layer_atlas.atlas.reader import Layer
from layer_atlas.presentation.layout.grid import Cells
from layer_atlas.presentation.layout.page import Tile
from layer_atlas.presentation.layout.pillow import PillowCanvas
from layer_atlas.presentation.montages.map_picture import fractions
from layer_atlas.presentation.similarity import lay_out
from layer_atlas.presentation.site.files import SiteFiles, numbers

_PICTURE = 96
"""Side of the picture of a sample in pixels."""
_GROUND = "#808080"
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
        "source": str(layer.facts["dataset_source"]),
        "across": _across(layer),
    }


_PLACES = 10_000
"""Steps of a coordinate: finer than any screen."""


def points_data(layer: Layer, projection: Literal["umap", "pca"]) -> dict[str, Any]:
    """The similarity map of a layer: `x` and `y` of each row, 0 to 10,000; -1: no image."""
    places = lay_out(layer, layer.leads(), projection)
    steps = np.where(np.isfinite(places), np.round(places * _PLACES), -1).astype(int)
    x, y = steps.T.tolist()
    return {"x": x, "y": y, "steps": _PLACES, "projection": projection}


def cell_record(layer: Layer, row: int) -> dict[str, Any]:
    """What a cell of a map holds: its place, classes, strongest channels, and its samples."""
    channels = layer.dataset("cell_channel")[row].tolist()
    values = numbers(np.asarray(layer.dataset("cell_channel_value")[row]), _DIGITS)
    samples, files = (layer.dataset(f"cell_{name}")[row] for name in ("member", "jpeg"))
    classes = layer.cell_classes(layer.channels[row]).items()
    return {
        **{name: int(layer.dataset(f"cell_{name}")[row]) for name in ("grid", "row", "column")},
        "classes": [[name, float(f"{value:.{_DIGITS}g}")] for name, value in classes],
        "channels": list(map(list, zip(channels, values, strict=True))),
        "samples": [
            {"slot": slot, "path": _path(layer, sample)}
            for slot, (sample, file) in enumerate(zip(samples.tolist(), files, strict=True))
            if sample >= 0 and len(file)
        ],
    }


def samples_name(row: int) -> str:
    """Name of the file with the samples of a cell; the browser's scripts know it too."""
    return f"samples-{row}.jpg"


def write_samples(files: SiteFiles, folder: str, layer: Layer, row: int) -> None:
    """Write the pictures of a cell's samples, side by side. Raises StorageError."""
    across = _across(layer)
    cells = Cells((0, 0), (_PICTURE, _PICTURE), across)
    canvas = PillowCanvas(cells.size(across), _GROUND)
    for slot, pixels in layer.sample_pictures(layer.channels[row]).items():
        canvas.tile(Tile(cells.box(slot), pixels))
    files.write_picture(f"{folder}/{samples_name(row)}", canvas.picture, 80)


def _across(layer: Layer) -> int:
    return int(layer.dataset("cell_jpeg").shape[1])


def _path(layer: Layer, sample: int) -> str:
    return str(layer.dataset("sample_path")[sample], "utf-8", "replace")

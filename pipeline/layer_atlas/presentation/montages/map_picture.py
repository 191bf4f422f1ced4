"""The map of an activation atlas as one picture: its cells side by side, under their classes.

Cells touch, and those of few samples are smaller, as in Carter et al. 2019. Empty cells stay blank.
A label names the class that the cells around it support most.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.gather import LayerView
from layer_atlas.atlas.layers import Layer, Model
from layer_atlas.presentation.layout.grid import Cells
from layer_atlas.presentation.layout.page import FAINT, INK, Box, Text, Tile
from layer_atlas.presentation.layout.pillow import FONT, SMALLEST, PillowCanvas
from layer_atlas.store.files import write_atomically

_SIDE = 2400
"""Pixels of a side of the map, unless its images are smaller than its cells."""
_LEAST_CELL = 24
_NARROWEST = 640
_MARGIN = 24
_THINNEST = 0.55
"""Side of the smallest image in its cell, as a fraction of the cell."""
_FULL = 0.5
"""Quantile of the numbers of samples from which an image fills its cell."""
_LARGEST_REACH = 3
"""Cells on each side of a cell whose classes are counted with its own."""


def write_maps(view: LayerView, names: Mapping[str, str] | None = None) -> None:
    """Write a map for each grid of a layer, if it has any; others of the layer are removed.

    Args:
        view: the layer.
        names: names of layers for readers, as `collate.names`.
    Raises:
        StorageError: the disk is full or fails.
    """
    wanted = map_paths(view)
    if wanted:
        with h5py.File(view.folder.atlas, "r") as atlas:
            group = atlas[view.group]
            layer = Layer(Model(group.parent, Layer), group).called(names)
            for side, path in wanted.items():
                write_atomically(path, draw_map(layer, side).png())
    for path in view.folder.maps(view.model.label, view.layer.info.name):
        if path not in wanted.values():
            path.unlink(missing_ok=True)


def map_paths(view: LayerView) -> dict[int, Path]:
    """Return the file of the map of each grid of a layer, by its cells per side."""
    if view.samples is None:
        return {}
    names = view.model.label, view.layer.info.name
    return {side: view.folder.map(*names, side) for side in view.samples.objective.grid}


def draw_map(layer: Layer, side: int) -> PillowCanvas:
    """Draw the map of a layer.

    Args:
        layer: of an atlas.
        side: cells per side of the grid.
    Raises:
        UserError: the layer has no such map.
    """
    targets = layer.cells(side)
    height, width = layer.dataset("image").shape[-3:-1]
    cell = max(_LEAST_CELL, min(_SIDE // side, max(height, width)))
    whole = max(cell * side, _NARROWEST) + 2 * _MARGIN, 0
    size = round(min(40, max(18, whole[0] / 55)))
    top = _MARGIN + FONT.line(size) + FONT.line(0.6 * size) + _MARGIN // 2
    cells = Cells(((whole[0] - cell * side) // 2, top), (cell, cell), side)
    canvas = PillowCanvas((whole[0], top + cell * side + _MARGIN))
    for text in _heading(layer, side, targets, size, whole[0]):
        canvas.text(text)
    for position, fraction in fractions(layer, targets).items():
        target = int(targets.flat[position])
        made = layer.fate(target) not in ("failed", "missing")
        canvas.tile(
            Tile(_inner(cells.box(position), fraction), layer.lead(target) if made else None)
        )
    for plate, text in _labels(layer, targets, cells):
        canvas.tile(plate)
        canvas.text(text)
    return canvas


def _heading(
    layer: Layer, side: int, targets: NDArray[np.int64], size: int, width: int
) -> Iterator[Text]:
    """The title, and a line on what the map shows."""
    objective, facts = layer.recipe["objective"], layer.facts
    of = f" in {', '.join(objective['classes'])}" if objective.get("classes") else ""
    shown = (
        f"activation atlas of {facts['photographs']} photographs{of}",
        str(facts["dataset_source"]),
        f"map by {objective['projection']}",
        f"{int((targets >= 0).sum())} of {side} x {side} cells populated",
    )
    bottom = _MARGIN + FONT.line(size)
    box = (_MARGIN, _MARGIN, width - _MARGIN, bottom)
    yield Text(box, f"{layer.model.title}  ·  {layer.reader_name}", size, SMALLEST)
    below = (_MARGIN, bottom, width - _MARGIN, bottom + FONT.line(0.6 * size))
    yield Text(below, "  ·  ".join(shown), 0.6 * size, SMALLEST, FAINT)


def fractions(layer: Layer, targets: NDArray[np.int64]) -> dict[int, float]:
    """The side of the image in each populated cell, by the square root of its samples."""
    held = np.flatnonzero(targets.ravel() >= 0)
    counts = layer["cell_count"][[layer.row(int(target)) for target in targets.ravel()[held]]]
    full = max(1.0, float(np.quantile(counts, _FULL))) if len(counts) else 1.0
    fractions = np.clip(np.sqrt(counts / full), _THINNEST, 1.0)
    return dict(zip(held.tolist(), fractions.tolist(), strict=True))


def _inner(box: Box, fraction: float) -> Box:
    """The middle of a box."""
    left, top, right, bottom = box
    rim = round((right - left) * (1 - fraction) / 2)
    return left + rim, top + rim, right - rim, bottom - rim


# --- labels --------------------------------------------------------------------------------------


def _labels(layer: Layer, targets: NDArray[np.int64], cells: Cells) -> Iterator[tuple[Tile, Text]]:
    """The classes of regions on plates, the strongest first; none overlap."""
    side, (wide, high) = len(targets), cells.cell
    reach = min(side // 10, _LARGEST_REACH)
    left, right = cells.corner[0], cells.corner[0] + side * wide
    size = round(min(26, max(11, 0.16 * wide)))
    taken: list[Box] = []
    for name, (row, column) in _regions(layer, targets, reach):
        words = FONT.shortened(name, size, (2 * reach + 1) * wide - 8)
        room, line = math.ceil(FONT.width(words, size)) + 8, round(1.3 * size)
        middle, bottom = left + (column + 0.5) * wide, cells.corner[1] + (row + 1) * high
        x = round(max(left, min(middle - room / 2, right - room)))
        box = (x, bottom - line - 2, x + room, bottom - 2)
        # Labels stand a region apart: those of neighbours would be of nearly the same cells.
        apart_x, apart_y = max(6, reach * wide), max(6, reach * high)
        around = (box[0] - apart_x, box[1] - apart_y, box[2] + apart_x, box[3] + apart_y)
        if any(_overlap(around, other) for other in taken):
            continue
        taken.append(box)
        plate = np.full((line, room, 3), 255, np.uint8)
        yield Tile(box, plate), Text(box, words, size, colour=INK, align="center")


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _regions(
    layer: Layer, targets: NDArray[np.int64], reach: int
) -> list[tuple[str, tuple[int, int]]]:
    """The class that the cells around each populated cell support most, the strongest first.

    A cell alone has too few samples: its label would be that of a photograph.
    """
    supported: dict[tuple[int, int], dict[str, float]] = {}
    counts = dict(zip(layer.channels, layer["cell_count"].tolist(), strict=True))
    for row, column in np.argwhere(targets >= 0).tolist():
        cell = int(targets[row, column])
        classes = layer.cell_classes(cell)
        supported[row, column] = {name: counts[cell] * value for name, value in classes.items()}
    found = []
    for row, column in supported:
        total: Counter[str] = Counter()
        for down, across in product(range(-reach, reach + 1), repeat=2):
            total.update(supported.get((row + down, column + across), {}))
        if total:
            (name, value), *_ = total.most_common(1)
            found.append((value, name, (row, column)))
    found.sort(key=lambda item: -item[0])
    return [(name, at) for _, name, at in found]

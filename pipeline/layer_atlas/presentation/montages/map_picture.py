"""The map of an activation atlas as one picture: its cells side by side, under their classes.

Cells touch, and those of few samples are smaller, as in Carter et al. 2019. Empty cells stay blank.
A label names the class that a group of neighbouring cells supports most.
"""

import math
from collections.abc import Iterator, Mapping
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
_MOST_LABELS = 80


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
    for position, fraction in _fractions(layer, targets).items():
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


def _fractions(layer: Layer, targets: NDArray[np.int64]) -> dict[int, float]:
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
    """The class of each group of cells on a plate, the largest groups first; none overlap."""
    side = len(targets)
    left, top = cells.corner
    right = left + side * cells.cell[0]
    taken: list[Box] = []
    least = 1 if side <= 10 else 2
    for name, group in sorted(_groups(layer, targets), key=lambda item: -len(item[1])):
        if len(group) < least or len(taken) >= _MOST_LABELS:
            return
        size = round(min(30, max(11, 0.1 * cells.cell[0] * math.sqrt(1 + len(group) / 2))))
        # As wide as the row of the group that it stands in, so that it covers no other group.
        row = _middle(group)
        across = [c for r, c in group if r == row]
        room = max(3 * size, (max(across) - min(across) + 1) * cells.cell[0] - 8)
        words = FONT.shortened(name, size, room)
        wide, high = math.ceil(FONT.width(words, size)) + 6, round(1.2 * size)
        x = left + (min(across) + max(across) + 1) * cells.cell[0] / 2 - wide / 2
        x0 = int(max(left, min(x, right - wide)))
        y0 = top + (row + 1) * cells.cell[1] - high - 3
        box = (x0, y0, x0 + wide, y0 + high)
        if any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        plate = np.full((high, wide, 3), 255, np.uint8)
        yield Tile(box, plate), Text(box, words, size, colour=INK, align="center")


def _overlap(a: Box, b: Box, gap: int = 6) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def _middle(group: list[tuple[int, int]]) -> int:
    """The row of the cell of a group that is nearest to its centre."""
    at = np.asarray(group)
    return group[int(np.argmin(np.square(at - at.mean(axis=0)).sum(axis=1)))][0]


def _groups(
    layer: Layer, targets: NDArray[np.int64]
) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Groups of neighbouring cells that support one class most, as rows and columns."""
    names = {
        (int(row), int(column)): labels[0]
        for row, column in np.argwhere(targets >= 0)
        if (labels := list(layer.cell_classes(int(targets[row, column]))))
    }
    left = set(names)
    while left:
        first = min(left)
        left.remove(first)
        group, waiting = [first], [first]
        while waiting:
            row, column = waiting.pop()
            for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                near = row + down, column + right
                if near in left and names[near] == names[first]:
                    left.remove(near)
                    group.append(near)
                    waiting.append(near)
        yield names[first], group

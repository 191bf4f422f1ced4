"""A matrix as a heat map, and where everything around it stands: numbers in, places out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.presentation.figures.paper.brackets import (
    Bracket,
    bracket_room,
    lines_needed,
    runs,
)
from layer_atlas.presentation.figures.paper.paper import PageSpec
from layer_atlas.presentation.figures.selection.choose import Selection
from layer_atlas.presentation.figures.selection.similarity import standardised

_COLOURS = "RdBu_r"
"""From blue below 0 to red above: told apart with any colour vision."""
_UNKNOWN = 0.87
"""Grey of what has no value."""
_FULL = 99.0
"""Percentile of the values beyond which colours grow no stronger."""
_TREE = 0.08
"""Share of the width that a tree takes up."""
_BAR = 0.09, 1.0
"""Inches that the bar of colours is wide and high."""
_LARGEST = 5.4
"""Inches that a matrix takes at most, on slides twice that."""
_SEEN = 0.1, 0.5
"""Inches from which on an image beside its row shows something, and that it takes at most."""
_WHOLE = 0.8
"""Values have whole dots if so much of the room is used then."""
_WIDEST_LABEL = 0.2
"""Labels take no more of the width."""

Matrix = NDArray[np.float64]


def matrix_of(chosen: Selection) -> Matrix:
    """Responses (n, n) of channels, the columns, to images of channels, the rows.

    In standard deviations of each column; NaN where an image was not made.
    """
    rows = [chosen.layer.row(channel) for channel in chosen.channels]
    responses = chosen.shown.responses[rows][:, list(chosen.channels)]
    made = np.isfinite(responses).all(axis=1)
    found = np.full(responses.shape, np.nan)
    if made.any():
        found[made] = standardised(responses[made])
    return found


def limit_of(matrix: Matrix) -> float:
    """The value at which colours are full: but for a few, none is larger."""
    known = np.abs(matrix[np.isfinite(matrix)])
    return max(1.0, float(np.percentile(known, _FULL))) if len(known) else 1.0


def coloured(values: Matrix, limit: float) -> NDArray[np.uint8]:
    """Values as colours (..., 3), full at plus and minus a limit."""
    known = np.isfinite(values)
    places = np.where(known, values, 0.0) / (2 * limit) + 0.5
    colours = matplotlib.colormaps[_COLOURS](places.clip(0, 1))[..., :3]
    colours = np.where(known[..., None], colours, _UNKNOWN)
    return np.round(255 * colours).astype(np.uint8)


def enlarged(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A matrix of colours (n, n, 3) of that many dots; several values in a dot are averaged."""
    small = Image.Resampling.BOX if side < len(pixels) else Image.Resampling.BILINEAR
    how = small if side % len(pixels) else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((side, side), how))


@dataclass(frozen=True)
class Frame:
    """Widths of the parts of a page in dots, from left to right, and the size of the matrix."""

    width: int
    """Of the page."""
    top: int
    """Of the matrix."""
    axis: int
    """What rows are called, turned."""
    tree: int
    bracket: int
    label: int
    """Labels of rows; 0: they have no room."""
    image: int
    """An image beside each row, likewise."""
    side: int
    """Of the matrix."""
    after: int
    """The bar of colours and its numbers."""
    foot: int
    """Height of what columns are called."""
    bar: tuple[int, int]

    @property
    def before(self) -> int:
        """Width of what stands before the matrix."""
        return self.axis + self.tree + self.bracket + self.label + self.image

    @property
    def used(self) -> int:
        """Width of all parts."""
        return self.before + self.side + self.after

    @property
    def left(self) -> int:
        """Where the parts begin: they stand in the middle of the page."""
        return (self.width - self.used) // 2

    @property
    def matrix(self) -> int:
        """Left edge of the matrix."""
        return self.left + self.before

    @property
    def height(self) -> int:
        """Of everything."""
        return self.top + max(self.side + self.foot, self.bar[1] + 2 * self.foot)


def frame_of(
    paper: PageSpec, names: Sequence[str], groups: Sequence[str], tree: bool, titled: bool
) -> Frame:
    """The parts of the page of a matrix of channels of these names, as large as there is room.

    Args:
        paper: where it is to be.
        names: of the channels.
        groups: of each channel, to be written at its bracket; empty: no brackets.
        tree: whether there is a tree beside the channels.
        titled: whether there is a title above.
    """
    letters, sizes, gap = paper.letters, paper.format, paper.gap
    line, count = letters.line(sizes.small), len(names)
    bare = Frame(
        width=paper.width,
        top=letters.line(sizes.text) + gap if titled else 0,
        axis=line,
        tree=round(_TREE * paper.width) + 2 * gap if tree else 0,
        bracket=0,
        label=0,
        image=0,
        side=0,
        after=3 * gap + paper.dots(_BAR[0]) + round(letters.width("−0.0", sizes.small)),
        foot=line + gap,
        bar=(paper.dots(_BAR[0]), paper.dots(_BAR[1])),
    )
    bare = _bracketed(paper, bare, groups)
    widest = min(letters.widest(names, sizes.least), _WIDEST_LABEL * paper.width)
    labelled = replace(bare, label=math.ceil(widest) + 2 * gap)
    if _room(paper, labelled) // count < letters.line(sizes.least):
        return _filled(paper, bare, count)
    image = _room(paper, labelled) // (count + 1)
    if image < paper.dots(_SEEN[0]):
        return _filled(paper, labelled, count)
    return _filled(paper, replace(labelled, image=min(image, paper.dots(_SEEN[1])) + gap), count)


def _bracketed(paper: PageSpec, frame: Frame, groups: Sequence[str]) -> Frame:
    """With room for brackets and their names, if channels are in groups."""
    cell = _room(paper, frame) / max(1, len(groups))
    lines = lines_needed(
        paper, (Bracket(name, 0, len(run) * cell, 0, 0) for name, run in runs(groups))
    )
    return replace(frame, bracket=bracket_room(paper, lines) + paper.gap) if lines else frame


def _filled(paper: PageSpec, frame: Frame, count: int) -> Frame:
    """With a matrix of the largest size: whole dots per value, unless that wastes much."""
    room = _room(paper, frame)
    whole = room // count * count
    return replace(frame, side=whole if whole >= _WHOLE * room else room)


def _room(paper: PageSpec, frame: Frame) -> int:
    wide = paper.width - frame.before - frame.after
    high = paper.height - frame.top - frame.foot
    return min(wide, high, paper.dots(_LARGEST * paper.format.small / 7))

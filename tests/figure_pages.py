"""What is drawn on the pages of figures: words and pictures with their boxes."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.text import Text

from layer_atlas.presentation.layout.figure import FigureCanvas


def texts(sheet: FigureCanvas) -> tuple[list[str], np.ndarray]:
    """Every text that is seen, and its box (left, bottom, right, top) in dots."""
    for picture in sheet.figure.findobj(AxesImage):
        picture.set_visible(False)  # words have their places without them, and much sooner
    sheet.figure.draw_without_rendering()
    # Axes keep labels for ticks beyond their ends, which are never drawn.
    beyond = {label for axes in sheet.figure.axes for label in unseen(axes)}
    written = [t for t in sheet.figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    found = [text for text in written if text not in beyond]
    boxes = [text.get_window_extent().extents for text in found]
    return [text.get_text() for text in found], np.asarray(boxes).reshape(-1, 4)


def unseen(axes: Axes) -> Iterator[Text]:
    for axis, limits in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, axes.get_ylim())):
        for tick in axis.get_major_ticks():
            if not limits[0] - 1e-9 <= tick.get_loc() <= limits[1] + 1e-9:
                yield tick.label1


def pictures(sheet: FigureCanvas) -> np.ndarray:
    """The boxes of all pictures, in dots."""
    found = sheet.figure.findobj(AxesImage)
    boxes = [picture.get_window_extent().extents for picture in found]
    return np.asarray(boxes).reshape(-1, 4)


def overlap(a: np.ndarray, b: np.ndarray, slack: float = 0.75) -> np.ndarray:
    """Which of the boxes (n, 4) lie over which of (m, 4), by more than less than a dot."""
    apart = [a[:, None, axis + 2] - slack <= b[None, :, axis] for axis in (0, 1)] + [
        b[None, :, axis + 2] - slack <= a[:, None, axis] for axis in (0, 1)
    ]
    return ~np.any(apart, axis=0)


def within(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) lie within which of (m, 4)."""
    low = (a[:, None, :2] >= b[None, :, :2]).all(axis=2)
    return low & (a[:, None, 2:] <= b[None, :, 2:]).all(axis=2)


def check(sheet: FigureCanvas, numbers: bool = False) -> list[str]:
    """All words are on the page and over nothing else; returns them.

    With `numbers`, values may stand within a matrix, but not across its sides.
    """
    words, boxes = texts(sheet)
    images = pictures(sheet)
    width, height = sheet.size
    assert boxes.min() >= -0.75
    assert (boxes[:, 2] <= width + 0.75).all()
    assert (boxes[:, 3] <= height + 0.75).all()
    over = np.argwhere(np.triu(overlap(boxes, boxes), 1))
    assert not len(over), [(words[a], words[b]) for a, b in over[:5]]
    over_images = overlap(boxes, images)
    if numbers:
        over_images &= ~within(boxes, images)
    hidden = np.argwhere(over_images)
    assert not len(hidden), [words[a] for a, _ in hidden[:5]]
    assert not np.triu(overlap(images, images), 1).any()
    return words

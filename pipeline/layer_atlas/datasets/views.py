"""Views: a photograph as a network sees it, square and small, and the way back to the original.

A photograph that cannot be read is a view without pixels that says why; it never stops a run.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.datasets.image_files import as_rgb, check_pixels, is_on_its_side
from layer_atlas.datasets.listing import Entry
from layer_atlas.datasets.sources import DatasetImages

_AHEAD = 64
"""So many views are made before they are asked for: two batches of the network."""

_DRAFT_MARGIN = 2
"""A JPEG is decoded at a fraction of its size if this many times the view's size is left."""

_FILTER = Image.Resampling.BILINEAR
"""As networks are trained and tested (torchvision's presets), with Pillow's antialiasing."""


@dataclass(frozen=True, eq=False)
class View:
    """The centre of a photograph, its shorter side resized."""

    pixels: NDArray[np.uint8] | None
    """(size, size, 3); None if the photograph cannot be read."""
    width: int = 0
    """Of the upright photograph, in pixels."""
    height: int = 0
    """Of the upright photograph, in pixels."""
    reason: str | None = None
    """Why it cannot be read."""


def stream_views(
    dataset_images: DatasetImages, numbered: Iterable[tuple[int, Entry]], size: int, threads: int
) -> Iterator[View]:
    """The views of some photographs, in order, made ahead of whoever takes them.

    Args:
        photographs: the dataset.
        numbered: photographs and their numbers in the dataset; read as views are taken.
        size: height and width of the views.
        threads: how many views are made at a time. None is left when the iterator is closed.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="views")
    waiting: deque[Future[View]] = deque()
    try:
        for index, entry in numbered:
            waiting.append(pool.submit(read_view, dataset_images, index, entry, size))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_view(dataset_images: DatasetImages, index: int, entry: Entry, size: int) -> View:
    """Photograph number `index` of a dataset, as a view."""
    with ExitStack() as opened:
        try:
            image = opened.enter_context(closing(dataset_images.image(index, entry)))
            width, height = image.size
            fraction = _draft(image, size)
            picture = as_rgb(image)
            if is_on_its_side(image):
                width, height = height, width
        except Exception as error:  # noqa: BLE001 - whatever a file from outside trips over
            return View(None, reason=f"{type(error).__name__}: {error}"[:200])
        left, top, right, bottom = (side * fraction for side in _visible(size, width, height))
        # Of a long picture only the centre is resized; all of it might not fit into memory.
        square = picture.resize((size, size), _FILTER, (left, top, right, bottom))
        return View(np.array(square), width, height)


def _draft(image: Image.Image, size: int) -> float:
    """Have a JPEG decoded at a fraction of its size, if a view needs no more; the fraction."""
    width = image.width
    if min(image.size) < 1:
        raise ValueError("the image has no pixels")
    drafted = image.draft(None, (_DRAFT_MARGIN * size, _DRAFT_MARGIN * size))
    check_pixels(image)
    # Not the quotient of the widths: what is left over at the right was filled up to a pixel.
    return drafted[1][2] / width if drafted else 1.0


def to_original(
    box: tuple[int, int, int, int], size: int, width: int, height: int
) -> tuple[int, int, int, int]:
    """Where a box of a view lies in the photograph.

    Args:
        box: left, top, right, bottom in pixels of the view; right and bottom are not in it.
        size: height and width of the view.
        width, height: of the photograph.
    Returns: the same in pixels of the photograph, the smallest box that holds all of it.
    """
    left, top, right, bottom = _visible(size, width, height)
    across, down = (right - left) / size, (bottom - top) / size
    # Rounding must not draw in a neighbour that the box only touches.
    return (
        max(0, math.floor(left + box[0] * across + 1e-6)),
        max(0, math.floor(top + box[1] * down + 1e-6)),
        min(width, math.ceil(left + box[2] * across - 1e-6)),
        min(height, math.ceil(top + box[3] * down - 1e-6)),
    )


def _visible(size: int, width: int, height: int) -> tuple[float, float, float, float]:
    """The part of a picture that its view shows: left, top, right, bottom in its pixels.

    The picture is resized to whole pixels and a square is cut at whole pixels from its middle.
    """
    scale = size / min(width, height)
    resized = (max(size, round(width * scale)), max(size, round(height * scale)))
    left, top = ((side - size) // 2 for side in resized)
    across, down = width / resized[0], height / resized[1]
    return (left * across, top * down, (left + size) * across, (top + size) * down)

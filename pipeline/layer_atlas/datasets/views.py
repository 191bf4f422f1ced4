"""Views: dataset images cropped and resized to the network's input, and the map back.

An unreadable image is a view without pixels that carries the reason; it never stops a run.
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
from layer_atlas.datasets.sources import DatasetImages, Entry

_AHEAD = 64
"""Number of views prepared ahead of the consumer: two batches of the network."""

_DRAFT_MARGIN = 2
"""A JPEG is decoded at a reduced size if this many times the view's size remains."""

_FILTER = Image.Resampling.BILINEAR
"""The filter of training and evaluation (torchvision's presets), with Pillow's antialiasing."""


@dataclass(frozen=True, eq=False)
class View:
    """The centre square of an image, with its shorter side resized."""

    pixels: NDArray[np.uint8] | None
    """(size, size, 3); None if the image cannot be read."""
    width: int = 0
    """Width of the upright image in pixels."""
    height: int = 0
    """Height of the upright image in pixels."""
    reason: str | None = None
    """Reason why it cannot be read."""


def stream_views(
    dataset_images: DatasetImages, numbered: Iterable[tuple[int, Entry]], size: int, threads: int
) -> Iterator[View]:
    """Yield the views of some images in order, prepared ahead by threads.

    Args:
        dataset_images: the dataset.
        numbered: indices in the dataset and entries; consumed as views are taken.
        size: height and width of the views in pixels.
        threads: number of threads. They end when the iterator is closed.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="views")
    # A bounded queue instead of `pool.map`, which would submit a million images at once.
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
    """Read image number `index` of a dataset as a view."""
    with ExitStack() as opened:
        try:
            image = opened.enter_context(closing(dataset_images.image(index, entry)))
            width, height = image.size
            fraction = _draft(image, size)
            rgb = as_rgb(image)
            if is_on_its_side(image):
                width, height = height, width
        except Exception as error:  # noqa: BLE001 - decoders raise anything on damaged files
            return View(None, reason=f"{type(error).__name__}: {error}"[:200])
        left, top, right, bottom = (side * fraction for side in _visible(size, width, height))
        # Only the centre of a long image is resized; all of it might not fit in memory.
        square = rgb.resize((size, size), _FILTER, (left, top, right, bottom))
        return View(np.array(square), width, height)


def _draft(image: Image.Image, size: int) -> float:
    """Set a JPEG to be decoded at a reduced size if that suffices; return the fraction."""
    width = image.width
    if min(image.size) < 1:
        raise ValueError("the image has no pixels")
    drafted = image.draft(None, (_DRAFT_MARGIN * size, _DRAFT_MARGIN * size))
    check_pixels(image)
    # Not the quotient of the widths: the decoder rounds the last pixel up.
    return drafted[1][2] / width if drafted else 1.0


def to_original(
    box: tuple[int, int, int, int], size: int, width: int, height: int
) -> tuple[int, int, int, int]:
    """Map a box of a view to the original image.

    Args:
        box: left, top, right, bottom in pixels of the view; right and bottom are exclusive.
        size: height and width of the view.
        width, height: size of the original image in pixels.
    Returns: the smallest enclosing box in pixels of the original image.
    """
    left, top, right, bottom = _visible(size, width, height)
    across, down = (right - left) / size, (bottom - top) / size
    # The tolerance keeps rounding from including a neighbour that the box only touches.
    return (
        max(0, math.floor(left + box[0] * across + 1e-6)),
        max(0, math.floor(top + box[1] * down + 1e-6)),
        min(width, math.ceil(left + box[2] * across - 1e-6)),
        min(height, math.ceil(top + box[3] * down - 1e-6)),
    )


def _visible(size: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part of an image that its view shows: left, top, right, bottom in its pixels.

    The image is resized to whole pixels and a centre square is cut at whole pixels.
    """
    scale = size / min(width, height)
    resized = (max(size, round(width * scale)), max(size, round(height * scale)))
    left, top = ((side - size) // 2 for side in resized)
    across, down = width / resized[0], height / resized[1]
    return (left * across, top * down, (left + size) * across, (top + size) * down)

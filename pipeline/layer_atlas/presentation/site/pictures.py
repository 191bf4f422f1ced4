"""Pictures of a site: tiles on sheets, so that thousands are a few dozen files."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.drawing import as_tile
from layer_atlas.atlas.reader import Layer
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.site.files import SiteFiles

COLUMNS = 8
PER_SHEET = COLUMNS * COLUMNS
TILE = 160
"""Longer side of a tile in pixels; smaller images are kept as they are."""

_PREVIEW_TILE = 32
_PREVIEW_QUALITY = 60
_PREVIEW_PIXELS = 4_000_000
"""Of all images in small, at most: they are there at once, and shown until their sheets are."""

STRIP = 24
"""Images that stand for a layer among others."""
_STRIP_TILE = 96
_LARGEST = 1024
"""Longer side of an image on its own."""
_GROUND = (128, 128, 128)
_NO_IMAGE = (STATUS["failed"], STATUS["missing"])


def fitted(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Width and height of a picture whose height and width are given, made to fit a square."""
    scale = min(1.0, most / max(size))
    height, width = (max(1, round(side * scale)) for side in size)
    return width, height


def image_size(layer: Layer) -> tuple[int, int]:
    """Height and width of a layer's images."""
    height, width = layer.dataset("image").shape[-3:-1]
    return int(height), int(width)


def has_large(layer: Layer) -> bool:
    """Whether images are larger than their tiles, and have files of their own."""
    return max(image_size(layer)) > TILE


def sheet_name(seed: int, variant: int, number: int) -> str:
    """The file of a sheet of tiles; the browser's scripts know it too."""
    return f"tiles-{seed}-{variant}-{number}.jpg"


def preview_name(seed: int, variant: int) -> str:
    """The file of all images in small; the browser's scripts know it too."""
    return f"preview-{seed}-{variant}.jpg"


def large_name(row: int, seed: int, variant: int) -> str:
    """The file of an image on its own; the browser's scripts know it too."""
    return f"image-{row}-{seed}-{variant}.jpg"


def preview_columns(layer: Layer) -> int:
    """How many images stand side by side on a preview."""
    return math.isqrt(max(len(layer.channels), 1) - 1) + 1


class _Mosaic:
    """Pictures of one size side by side, in rows."""

    def __init__(self, count: int, columns: int, tile: tuple[int, int]) -> None:
        self._columns, self._tile = columns, tile
        size = (columns * tile[0], -(-count // columns) * tile[1])
        self.picture = Image.new("RGB", size, _GROUND)

    def put(self, place: int, picture: Image.Image) -> None:
        """Show a picture at a place, counted along the rows; shrunk if it is larger than a tile."""
        down, across = divmod(place, self._columns)
        if picture.size != self._tile:
            picture = picture.resize(self._tile, Image.Resampling.LANCZOS)
        self.picture.paste(picture, (across * self._tile[0], down * self._tile[1]))


def write_images(files: SiteFiles, folder: str, layer: Layer) -> None:
    """Write all images of a layer: on sheets, in small on one picture, and large ones also each on
    its own.

    One sheet is in memory at a time, besides those that are being encoded.
    """
    for seed in range(len(layer.seeds)):
        for variant in range(max(1, len(layer.variants))):
            _write_series(files, folder, layer, (seed, variant))


def _write_series(files: SiteFiles, folder: str, layer: Layer, which: tuple[int, int]) -> None:
    """Write the images of one seed and variant."""
    count = len(layer.channels)
    preview = _Mosaic(count, preview_columns(layer), _preview_tile(layer))
    for first in range(0, count, PER_SHEET):
        rows = range(first, min(first + PER_SHEET, count))
        sheet = _Mosaic(len(rows), COLUMNS, tile_size(layer))
        for row, pixels in _images(layer, which, rows):
            tile = as_tile(pixels, tile_size(layer))
            sheet.put(row - first, tile)
            preview.put(row, tile)
            if has_large(layer):
                large = as_tile(pixels, fitted(image_size(layer), _LARGEST))
                files.write_picture(f"{folder}/{large_name(row, *which)}", large)
        files.write_picture(f"{folder}/{sheet_name(*which, first // PER_SHEET)}", sheet.picture)
    files.write_picture(f"{folder}/{preview_name(*which)}", preview.picture, _PREVIEW_QUALITY)


def tile_size(layer: Layer) -> tuple[int, int]:
    """Width and height of a layer's tiles."""
    return fitted(image_size(layer), TILE)


def _preview_tile(layer: Layer) -> tuple[int, int]:
    """Width and height of an image among thousands."""
    side = math.isqrt(_PREVIEW_PIXELS // max(len(layer.channels), 1))
    return fitted(image_size(layer), max(1, min(side, _PREVIEW_TILE)))


def _images(
    layer: Layer, which: tuple[int, int], rows: Iterable[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Those of the rows that have an image, and it; one is in memory at a time."""
    images, (seed, variant) = layer.dataset("image"), which
    for row in rows:
        if layer.status[row, seed] not in _NO_IMAGE:
            place = (row, seed, variant) if layer.variants else (row, seed)
            yield row, np.asarray(images[place])


def write_strip(
    files: SiteFiles, folder: str, layer: Layer, places: list[tuple[int, int]]
) -> tuple[int, int]:
    """Write some of a layer's images side by side; returns the size of a tile.

    Args:
        files: to write to.
        folder: of the layer.
        layer: whose images.
        places: row and seed of each.
    """
    tile = fitted(image_size(layer), _STRIP_TILE)
    strip = _Mosaic(max(1, len(places)), max(1, len(places)), tile)
    for place, (row, seed) in enumerate(places):
        for _, pixels in _images(layer, (seed, 0), [row]):
            strip.put(place, as_tile(pixels, tile))
    files.write_picture(f"{folder}/strip.jpg", strip.picture)
    return tile

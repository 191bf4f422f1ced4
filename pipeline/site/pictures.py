"""Pictures of a site: tiles on sheets, so that thousands are a few dozen files."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.collate.drawing import as_tile
from pipeline.jobs import STATUS
from pipeline.reader import Layer
from pipeline.site.files import SiteFiles

COLUMNS = 8
PER_SHEET = COLUMNS * COLUMNS
TILE = 160
"""Longer side of a tile in pixels; smaller images are kept as they are."""

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


def large_name(row: int, seed: int, variant: int) -> str:
    """The file of an image on its own; the browser's scripts know it too."""
    return f"image-{row}-{seed}-{variant}.jpg"


def write_images(files: SiteFiles, folder: str, layer: Layer) -> None:
    """Write all images of a layer: on sheets, and large ones also each on its own.

    One sheet is in memory at a time, besides those that are being encoded.
    """
    for seed in range(len(layer.seeds)):
        for variant in range(max(1, len(layer.variants))):
            for first in range(0, len(layer.channels), PER_SHEET):
                _write_sheet(files, folder, layer, (seed, variant), first)


def _write_sheet(
    files: SiteFiles, folder: str, layer: Layer, which: tuple[int, int], first: int
) -> None:
    width, height = fitted(image_size(layer), TILE)
    count = min(PER_SHEET, len(layer.channels) - first)
    sheet = Image.new("RGB", (COLUMNS * width, -(-count // COLUMNS) * height), _GROUND)
    for place, (row, pixels) in enumerate(_images(layer, which, range(first, first + count))):
        if pixels is None:
            continue
        corner = (place % COLUMNS * width, place // COLUMNS * height)
        sheet.paste(as_tile(pixels, (width, height)), corner)
        if has_large(layer):
            large = as_tile(pixels, fitted(image_size(layer), _LARGEST))
            files.write_picture(f"{folder}/{large_name(row, *which)}", large)
    files.write_picture(f"{folder}/{sheet_name(*which, first // PER_SHEET)}", sheet)


def _images(
    layer: Layer, which: tuple[int, int], rows: range
) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
    """Rows and their images, one in memory at a time; None where there is none."""
    images, (seed, variant) = layer.dataset("image"), which
    for row in rows:
        missing = layer.status[row, seed] in _NO_IMAGE
        place = (row, seed, variant) if layer.variants else (row, seed)
        yield row, None if missing else np.asarray(images[place])


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
    width, height = fitted(image_size(layer), _STRIP_TILE)
    strip = Image.new("RGB", (max(1, len(places)) * width, height), _GROUND)
    for across, (row, seed) in enumerate(places):
        for _, pixels in _images(layer, (seed, 0), range(row, row + 1)):
            if pixels is not None:
                strip.paste(as_tile(pixels, (width, height)), (across * width, 0))
    files.write_picture(f"{folder}/strip.jpg", strip)
    return width, height

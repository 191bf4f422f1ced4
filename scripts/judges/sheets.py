"""Contact sheets: rows of tiles with labels, and numbered tiles without any."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE, GAP, CAPTION = 128, 6, 18
_MARGIN, _HEAD = 170, 40

Tile = tuple[NDArray[np.uint8] | None, str]
"""Pixels (H, W, 3), or None for an empty place, and a caption."""


def labelled_rows(
    title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[Tile]]]
) -> Image.Image:
    """Draw rows of tiles, with a label before each row and a head above each column."""
    width = _MARGIN + len(heads) * (TILE + GAP)
    sheet = Image.new("RGB", (width, _HEAD + len(rows) * (TILE + CAPTION + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, 8, 4, title)
    for column, head in enumerate(heads):
        _write(draw, _MARGIN + column * (TILE + GAP), CAPTION, head)
    for number, (label, tiles) in enumerate(rows):
        top = _HEAD + number * (TILE + CAPTION + GAP)
        _write(draw, 8, top + TILE // 2 - CAPTION // 2, label)
        for column, (pixels, caption) in enumerate(tiles):
            left = _MARGIN + column * (TILE + GAP)
            if pixels is not None:
                sheet.paste(_scaled(pixels, TILE), (left, top))
            _write(draw, left, top + TILE, caption)
    return sheet


def numbered_tiles(images: Sequence[NDArray[np.uint8]], tile: int, columns: int) -> Image.Image:
    """Draw images in rows, numbered from 1, with nothing else."""
    rows = math.ceil(len(images) / columns)
    size = (columns * (tile + GAP), rows * (tile + CAPTION + GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for number, pixels in enumerate(images):
        row, column = divmod(number, columns)
        left, top = column * (tile + GAP), row * (tile + CAPTION + GAP)
        _write(draw, left, top, str(number + 1))
        sheet.paste(_scaled(pixels, tile), (left, top + CAPTION))
    return sheet


def _scaled(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    # Networks may take other colours than three; the first is shown as grey.
    shown = pixels if pixels.shape[2] == 3 else pixels[..., [0, 0, 0]]
    return Image.fromarray(np.ascontiguousarray(shown)).resize(
        (side, side), Image.Resampling.LANCZOS
    )


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, text: str) -> None:
    draw.text((left, top), text, fill="black", font=ImageFont.load_default(size=13))

"""Montages: one PNG per layer, every channel in order under its number.

A title line, then a grid. With several seeds a cell holds them side by side (`seeds: row`), or
there is one grid after the other (`seeds: grid`). Jobs without an image are told apart at a glance:
`dead`, `diverged`, `failed` and `missing` are written where the picture would be or under it.
"""

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.collate.drawing import (
    ALARM,
    FAINT,
    INK,
    LARGEST_SIDE,
    PAPER,
    as_tile,
    draw_empty,
    draw_fitting,
    font,
)
from pipeline.collate.gather import LayerView
from pipeline.config import CollateSettings
from pipeline.jobs import STATUS
from pipeline.recipe import Recipe
from pipeline.records import choice_name
from pipeline.store import OutputFolder, write_atomically

_STATUS_NAMES = {code: name for name, code in STATUS.items()}


@dataclass(frozen=True)
class Layout:
    """Where everything is, in pixels."""

    tile: tuple[int, int]
    """Width and height of an image."""
    columns: int
    rows: int
    across: int
    """Images of a cell, side by side: variants, and seeds unless they have grids of their own."""
    variants: int
    grids: int
    gap: int
    label: int
    """Height of the line of channel numbers."""
    header: int
    """Height of the title."""
    subtitle: int
    """Height of the line above each grid, if there are several."""

    @property
    def cell(self) -> tuple[int, int]:
        """Width and height of a channel's cell, with the gap after it."""
        width = self.across * self.tile[0] + (self.across - 1) * (self.gap // 2)
        return width + self.gap, self.tile[1] + self.label + self.gap

    @property
    def grid_height(self) -> int:
        """Height of one grid with its subtitle."""
        return self.subtitle + self.rows * self.cell[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole picture."""
        width = 2 * self.gap + self.columns * self.cell[0]
        return max(width, 360), self.header + self.grids * self.grid_height + 2 * self.gap

    def tile_corner(self, position: int, seed_index: int, variant: int = 0) -> tuple[int, int]:
        """Top left of the tile of a channel (by its place in the grid), seed and variant."""
        row, column = divmod(position, self.columns)
        grid = seed_index if self.grids > 1 else 0
        across = variant + (0 if self.grids > 1 else seed_index * self.variants)
        x = 2 * self.gap + column * self.cell[0] + across * (self.tile[0] + self.gap // 2)
        y = self.header + grid * self.grid_height + self.subtitle + row * self.cell[1]
        return x, y


def write_montage(folder: OutputFolder, view: LayerView, settings: CollateSettings) -> None:
    """Draw the montage of a layer and put it in its place. Raises StorageError."""
    buffer = io.BytesIO()
    draw_montage(view, settings).save(buffer, "PNG", compress_level=4)
    write_atomically(folder.montage(view.model.label, view.layer.info.name), buffer.getvalue())


def draw_montage(view: LayerView, settings: CollateSettings) -> Image.Image:
    """The montage of a layer: an RGB picture."""
    variants = math.prod(view.variants)
    layout = plan_layout(
        len(view.channels), len(view.plan.seeds), view.image_size, settings, variants
    )
    picture = Image.new("RGB", layout.size, PAPER)
    draw = ImageDraw.Draw(picture)
    status = _draw_tiles(picture, view, layout)
    _draw_title(draw, view, layout, status)
    _draw_labels(draw, view, layout, status)
    return picture


def plan_layout(
    n: int, seeds: int, image_size: tuple[int, int], settings: CollateSettings, variants: int = 1
) -> Layout:
    """Choose columns and tile size for n channels: about a square, and never too large to open."""
    across = variants * (seeds if settings.seeds == "row" else 1)
    grids = seeds if settings.seeds == "grid" and seeds > 1 else 1
    shape = image_size[0] / image_size[1]
    columns = min(n, settings.columns or _even_columns(n, math.sqrt(n * grids * shape / across)))
    rows = math.ceil(n / columns)
    longest = max(columns * across, rows * grids)
    side = min(max(image_size), settings.tile)
    side = max(16, min(side, LARGEST_SIDE // longest - settings.gap))
    tile = (round(side / max(shape, 1.0)), round(side * min(shape, 1.0)))
    label = max(12, round(side * 0.14)) + 4
    header = 2 * settings.gap + max(34, round(side * 0.42))
    subtitle = label + settings.gap if grids > 1 else 0
    gap = settings.gap
    return Layout(tile, columns, rows, across, variants, grids, gap, label, header, subtitle)


def _even_columns(n: int, square: float) -> int:
    """Columns that leave the fewest cells of the last row empty, from a square to twice as wide."""
    candidates = range(max(1, round(square)), max(1, round(2 * square)) + 1)
    return min(candidates, key=lambda columns: (-n % columns, columns))


def _draw_tiles(picture: Image.Image, view: LayerView, layout: Layout) -> NDArray[np.uint8]:
    """Paste every image; returns the status of every job (C, S)."""
    status = view.initial_status()
    draw = ImageDraw.Draw(picture)
    for piece in view.pieces():
        status[piece.rows, piece.seed_index] = piece.result.arrays["status"]
        images = piece.result.arrays["image"]
        images = images.reshape(len(images), layout.variants, *images.shape[-3:])
        for row, variants in zip(piece.rows, images, strict=True):
            for variant, pixels in enumerate(variants):
                corner = layout.tile_corner(int(row), piece.seed_index, variant)
                picture.paste(as_tile(pixels, layout.tile), corner)
    status = view.judged(status)
    for row, seed_index in np.argwhere(np.isin(status, (STATUS["failed"], STATUS["missing"]))):
        for variant in range(layout.variants):
            corner = layout.tile_corner(int(row), int(seed_index), variant)
            draw_empty(draw, corner, layout.tile)
    return status


def _draw_title(
    draw: ImageDraw.ImageDraw, view: LayerView, layout: Layout, status: NDArray[np.uint8]
) -> None:
    width = layout.size[0] - 4 * layout.gap
    size = max(14, round(max(layout.tile) * 0.19))
    title = "   +   ".join(f"{model}  ·  {layer}" for model, layer in view.titles)
    x, y = 2 * layout.gap, layout.gap
    draw_fitting(draw, (x, y), title, INK, size, width)
    counts = ", ".join(
        f"{int((status == code).sum())} {name}"
        for name, code in STATUS.items()
        if name != "ok" and (status == code).any()
    )
    text = count_targets(view)
    text += f"  ·  {describe_recipe(view.model.recipe)}" + (f"  ·  {counts}" if counts else "")
    small = max(13, round(size * 0.62))
    draw_fitting(draw, (x, y + size * 1.35), text, FAINT, small, width)


def count_targets(view: LayerView) -> str:
    """How many targets there are pictures of, and of how many."""
    n, targets = len(view.channels), view.layer.all_targets
    one, several = ("class", "classes") if targets.names else ("channel", "channels")
    if len(targets.sizes) > 1:
        return f"{n} combination{'s' if n > 1 else ''}"
    if n < targets.count:
        return f"{n} of {targets.count} {several}"
    return f"{n} {several if n > 1 else one}"


def _draw_labels(
    draw: ImageDraw.ImageDraw, view: LayerView, layout: Layout, status: NDArray[np.uint8]
) -> None:
    small = font(max(10, layout.label - 6))
    for place, channel in enumerate(view.channels):
        for grid in range(layout.grids):
            here = status[place, grid] if layout.grids > 1 else status[place].max()
            x, y = layout.tile_corner(place, grid if layout.grids > 1 else 0)
            room = layout.cell[0] - layout.gap // 2
            text = _shortened(view.layer.all_targets.label(int(channel)), small, room)
            word = _STATUS_NAMES[int(here)] if here else ""
            after = draw.textlength(text + "  ", small)
            fits = not word or after + draw.textlength(word, small) <= room
            # Where there is no room for the word, the number takes its colour.
            draw.text((x, y + layout.tile[1] + 2), text, INK if fits else ALARM, small)
            if word and fits:
                draw.text((x + after, y + layout.tile[1] + 2), word, ALARM, small)
    if layout.grids > 1:
        for grid, seed in enumerate(view.plan.seeds):
            y = layout.header + grid * layout.grid_height
            draw.text((2 * layout.gap, y), f"seed {seed}", FAINT, small)


def _shortened(text: str, letters: Any, room: float) -> str:
    """A text that fits, cut short if it must be."""
    if letters.getlength(text) <= room:
        return text
    while text and letters.getlength(text + "…") > room:
        text = text[:-1]
    return text + "…"


def describe_recipe(recipe: Recipe) -> str:
    """A recipe in a few words; that images were photographs once is among them."""
    parameterization, optimizer = recipe.parameterization.name, recipe.optimizer
    start = _STARTS.get(recipe.init.name, "")
    height, width = recipe.image_size
    size = f"{height}" if height == width else f"{width} x {height}"
    octaves = f" in {recipe.octaves.count} octaves" if recipe.octaves else ""
    variants = f" ({', '.join(recipe.objective.variant_names)})" if recipe.variants > 1 else ""
    return (
        f"{choice_name(type(recipe.objective))}{variants}, {parameterization}{start}, "
        f"{optimizer.name} {recipe.total_steps} steps{octaves}, {size} px, {recipe.precision}"
    )


_STARTS = {"dataset": " from photographs", "spectrum": " from the spectrum of photographs"}

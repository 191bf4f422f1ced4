"""Montages: one PNG per layer, every channel in order under its number.

A title, then a grid. With several seeds a cell holds them side by side (`seeds: row`), or there is
one grid after the other (`seeds: grid`); several images of one job always stand side by side. Jobs
without an image are told apart at a glance: `dead`, `diverged`, `failed` and `missing` are written
where the picture would be or under it.
"""

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from layer_atlas.atlas.drawing import FAINT, PAPER, as_tile, common_size, draw_empty, font, numbered
from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.config import CollateSettings
from layer_atlas.plan.jobs import FATES, STATUS
from layer_atlas.plan.labels import layer_title, sampling_of, target_label
from layer_atlas.presentation.montages.labels import (
    Label,
    draw_heading,
    facts_of,
    variant_words,
    write_label,
)
from layer_atlas.presentation.montages.layout import Layout, plan_layout
from layer_atlas.store.files import write_atomically
from layer_atlas.store.folder import OutputFolder


def write_montage(folder: OutputFolder, view: LayerView, settings: CollateSettings) -> None:
    """Draw the montage of a layer and put it in its place. Raises StorageError."""
    buffer = io.BytesIO()
    draw_montage(view, settings).save(buffer, "PNG", compress_level=4)
    write_atomically(folder.montage(view.model.label, view.layer.info.name), buffer.getvalue())


def montage_bytes(view: LayerView, settings: CollateSettings) -> int:
    """Memory that the montage of a layer takes while it is drawn."""
    width, height = _layout(view, settings).size
    return 4 * width * height


def _layout(view: LayerView, settings: CollateSettings) -> Layout:
    n, seeds, variants = len(view.targets), len(view.plan.seeds), math.prod(view.variants)
    return plan_layout(n, seeds, view.image_size, settings, variants)


def draw_montage(view: LayerView, settings: CollateSettings) -> Image.Image:
    """The montage of a layer: an RGB picture."""
    layout = _layout(view, settings)
    picture = Image.new("RGB", layout.size, PAPER)
    status = _draw_tiles(picture, view, layout)
    targets = sampling_of(view.plan, view.model, view.layer).words()
    title = layer_title(view.model, view.layer)
    facts = [targets, _fates(status), *facts_of(view), _environments(view)]
    draw_heading(picture, layout, title, facts)
    draw = ImageDraw.Draw(picture)
    for label in _labels(view, layout, status):
        write_label(draw, label)
    if layout.grids > 1:
        for grid, seed in enumerate(view.plan.seeds):
            corner = (2 * layout.gap, layout.header + grid * layout.grid_height)
            draw.text(corner, f"seed {seed}", FAINT, font(layout.letters))
    return picture


def _draw_tiles(picture: Image.Image, view: LayerView, layout: Layout) -> NDArray[np.uint8]:
    """Paste every image; returns the status of every job (C, S)."""
    status = view.initial_status()
    draw = ImageDraw.Draw(picture)
    for jobs in view.stored_jobs():
        status[jobs.rows, jobs.seed_index] = jobs.arrays["status"]
        for row, images in zip(jobs.rows.tolist(), jobs.arrays["image"], strict=True):
            variants = images.reshape(layout.variants, *images.shape[-3:])
            for variant, pixels in enumerate(variants):
                corner = layout.tile_corner(row, jobs.seed_index, variant)
                picture.paste(as_tile(pixels, layout.tile), corner)
    status = view.judged(status)
    for row, seed_index in np.argwhere(np.isin(status, (STATUS["failed"], STATUS["missing"]))):
        for variant in range(layout.variants):
            draw_empty(draw, layout.tile_corner(int(row), int(seed_index), variant), layout.tile)
    return status


def _fates(status: NDArray[np.uint8]) -> str:
    """How many jobs came to nothing, and how."""
    counts = {word: int((status == code).sum()) for code, word in FATES.items()}
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def _environments(view: LayerView) -> str:
    count = len(view.environments())
    return f"made with {count} environments" if count > 1 else ""


def _labels(view: LayerView, layout: Layout, status: NDArray[np.uint8]) -> Iterator[Label]:
    """All words below images: names of variants, seeds, then targets."""
    fates = np.vectorize(lambda code: FATES.get(code, ""), otypes=[object])(status)
    yield from _captions(view, layout, fates)
    recipe, channels = view.model.recipe, view.layer.targets
    texts = [target_label(recipe, view.layer, channel) for channel in channels]
    # Names that are long are cut short rather than made as small as can be.
    size = common_size(texts, layout.letters, layout.room, round(0.7 * layout.letters))
    for place, text in enumerate(texts):
        for grid in range(layout.grids):
            fate = "" if layout.blocks > 1 else fates[place, grid]
            corner = layout.line_corner(-1, place, grid)
            yield Label(corner, text, size, layout.room, fate=fate)


def _captions(view: LayerView, layout: Layout, fates: NDArray[Any]) -> Iterator[Label]:
    """What tells the images of a cell apart: seeds, with their fates, and variants."""
    seeds = numbered("seed", view.plan.seeds, layout.block) if layout.blocks > 1 else []
    variants = variant_words(view, layout.tile[0]) if layout.variants > 1 else []
    size = min(
        common_size(seeds, layout.letters, layout.block),
        common_size(variants, layout.letters, layout.tile[0]),
    )
    for (place, seed), fate in np.ndenumerate(fates):
        for variant, name in enumerate(variants):
            corner = layout.line_corner(0, place, seed, variant)
            yield Label(corner, name, size, layout.tile[0], FAINT)
        if seeds:
            corner = layout.line_corner(-2, place, seed)
            yield Label(corner, seeds[seed], size, layout.block, FAINT, fate)

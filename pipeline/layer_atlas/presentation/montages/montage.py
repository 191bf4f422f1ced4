"""Montages: one PNG per layer, every target in order under its number.

With several seeds a cell holds their images side by side (`seeds: row`), or there is one grid after
the other (`seeds: grid`); several images of one job always stand side by side. Jobs that came to
nothing are named in red: `dead`, `diverged`, `failed`, `missing`; the last two have empty boxes.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.display import colours_shown
from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.config import CollateSettings
from layer_atlas.plan.jobs import FATES, STATUS, UNTRAINED
from layer_atlas.plan.labels import layer_title, sampling_of, target_label, weights_words
from layer_atlas.presentation.layout.grid import Layout, plan_layout
from layer_atlas.presentation.layout.page import FAINT, Text, Tile
from layer_atlas.presentation.layout.pillow import FONT, SMALLEST, PillowCanvas
from layer_atlas.store.files import write_atomically
from layer_atlas.store.folder import OutputFolder


def write_montage(folder: OutputFolder, view: LayerView, settings: CollateSettings) -> None:
    """Draw the montage of a layer and write it to the output folder. Raises StorageError."""
    canvas = draw_montage(view, settings)
    write_atomically(folder.montage(view.model.label, view.layer.info.name), canvas.png())


def montage_bytes(view: LayerView, settings: CollateSettings) -> int:
    """Memory that drawing the montage of a layer takes."""
    width, height = _layout(view, settings).size
    return 4 * width * height


def _layout(view: LayerView, settings: CollateSettings) -> Layout:
    n, seeds, variants = len(view.targets), len(view.plan.seeds), math.prod(view.variants)
    return plan_layout(n, seeds, view.image_size, settings, variants)


def draw_montage(view: LayerView, settings: CollateSettings) -> PillowCanvas:
    """Draw the montage of a layer."""
    layout = _layout(view, settings)
    canvas = PillowCanvas(layout.size)
    status = _draw_tiles(canvas, view, layout)
    targets = sampling_of(view.plan, view.model, view.layer).words()
    facts = [targets, _fates(status), *layer_facts(view), _environments(view)]
    for text in layout.heading(layer_title(view.model, view.layer), facts):
        canvas.text(text)
    for text in _labels(view, layout, status):
        canvas.text(text)
    for grid, seed in enumerate(view.plan.seeds) if layout.grids > 1 else ():
        canvas.text(layout.grid_title(grid, f"seed {seed}"))
    return canvas


def _draw_tiles(canvas: PillowCanvas, view: LayerView, layout: Layout) -> NDArray[np.uint8]:
    """Paint every image, one shard in memory at a time; returns the status of every job (C, S)."""
    status = view.initial_status()
    for jobs in view.stored_jobs():
        status[jobs.rows, jobs.seed_index] = jobs.arrays["status"]
        # Tiles go straight to the canvas: a layer's images may not fit in memory together.
        for row, images in zip(jobs.rows.tolist(), jobs.arrays["image"], strict=True):
            variants = images.reshape(layout.variants, *images.shape[-3:])
            for variant, pixels in enumerate(variants):
                canvas.tile(Tile(layout.tile_box(row, jobs.seed_index, variant), pixels))
    # Only the data set can tell silent channels from dead ones.
    status = view.judged(status)
    for row, seed_index in np.argwhere(np.isin(status, (STATUS["failed"], STATUS["missing"]))):
        for variant in range(layout.variants):
            canvas.tile(Tile(layout.tile_box(int(row), int(seed_index), variant), None))
    return status


def _fates(status: NDArray[np.uint8]) -> str:
    """Count the jobs that came to nothing, by their fates."""
    counts = {word: int((status == code).sum()) for code, word in FATES.items()}
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def _environments(view: LayerView) -> str:
    count = len(view.environments())
    return f"made with {count} environments" if count > 1 else ""


def layer_facts(view: LayerView) -> list[str]:
    """Weights, recipe, and how images of unusual colours are shown."""
    model = view.model
    # An untrained network is named so in the title.
    alone = model.origin.weights == UNTRAINED and len(model.origins) == 1
    weights = "" if alone else weights_words(model)
    return [weights, model.recipe.summary(), colours_shown(view.colours)]


def variant_labels(view: LayerView, width: float = math.inf) -> list[str]:
    """Labels of variants; those that have but a number could pass for a target."""
    names = view.model.recipe.objective.variant_names
    if names != tuple(map(str, range(len(names)))):
        return list(names)
    return FONT.without_common_word([f"image {name}" for name in names], SMALLEST, width)


def _labels(view: LayerView, layout: Layout, status: NDArray[np.uint8]) -> Iterator[Text]:
    """All texts below images: names of variants, seeds, then targets."""
    fates = np.vectorize(lambda code: FATES.get(code, ""), otypes=[object])(status)
    yield from _image_labels(view, layout, fates)
    recipe, targets = view.model.recipe, view.layer.targets
    labels = [target_label(recipe, view.layer, target) for target in targets]
    # Long names are cut short rather than made as small as can be.
    size = FONT.size(labels, layout.room, layout.letters, max(SMALLEST, 0.7 * layout.letters))
    for position, words in enumerate(labels):
        for grid in range(layout.grids):
            fate = "" if layout.blocks > 1 else fates[position, grid]
            corner = layout.line_corner(-1, position, grid)
            yield from layout.label(corner, words, size, layout.room, fate=fate)


def _image_labels(view: LayerView, layout: Layout, fates: NDArray[Any]) -> Iterator[Text]:
    """Labels that tell the images of a cell apart: seeds, with their fates, and variants."""
    seeds, variants = [], []
    if layout.blocks > 1:
        seeds = [f"seed {seed}" for seed in view.plan.seeds]
        seeds = FONT.without_common_word(seeds, SMALLEST, layout.block)
    if layout.variants > 1:
        variants = variant_labels(view, layout.tile[0])
    size = min(
        FONT.size(seeds, layout.block, layout.letters),
        FONT.size(variants, layout.tile[0], layout.letters),
    )
    for (position, seed), fate in np.ndenumerate(fates):
        for variant, name in enumerate(variants):
            corner = layout.line_corner(0, position, seed, variant)
            yield from layout.label(corner, name, size, layout.tile[0], FAINT)
        if seeds:
            corner = layout.line_corner(-2, position, seed)
            yield from layout.label(corner, seeds[seed], size, layout.block, FAINT, fate)

"""Montages: one PNG per layer, every target in order under its number; animations of its images.

With several seeds a cell holds their images side by side (`seeds: row`), or there is one grid after
the other (`seeds: grid`); several images of one job always stand side by side. Jobs that came to
nothing are named in red: `dead`, `diverged`, `failed`, `missing`; the last two have empty boxes.

Animations show every image during its optimization: a strip to print, whose frames stand from left
to right, each over its step, and a WebP to watch, which stays at its last frame for a while. Both
are made of the snapshots in the shards, one job in memory at a time.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.display import colours_shown, in_colour
from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.recipe import snapshot_steps
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.jobs import FATES, UNTRAINED, WITHOUT_IMAGE
from layer_atlas.plan.labels import (
    given_name,
    layer_title,
    sampling_of,
    target_label,
    target_name,
    weights_words,
)
from layer_atlas.plan.plan import LayerPlan, Plan
from layer_atlas.presentation.layout.grid import (
    SEPARATOR,
    Layout,
    choose_columns,
    fewest_rows,
    plan_layout,
)
from layer_atlas.presentation.layout.page import FAINT, Text, Tile
from layer_atlas.presentation.layout.pillow import FONT, SMALLEST, PillowCanvas
from layer_atlas.store.files import write_atomically
from layer_atlas.store.folder import OutputFolder

_OTHER_FACTS = "12 dead, 3 failed"
"""Leaves room for the images that came to nothing: they are counted after the layout."""


def write_montage(folder: OutputFolder, view: LayerView, settings: CollateSettings) -> None:
    """Draw the montage of a layer and write it to the output folder. Raises StorageError."""
    canvas = draw_montage(view, settings)
    write_atomically(folder.montage(view.model.label, view.layer.info.name), canvas.png())


def montage_bytes(view: LayerView, settings: CollateSettings) -> int:
    """Memory that drawing the montage of a layer takes."""
    width, height = montage_layout(view, settings).size
    return 4 * width * height


def montage_layout(view: LayerView, settings: CollateSettings) -> Layout:
    """Lay out the montage of a layer."""
    n, seeds, variants = len(view.targets), len(view.plan.seeds), math.prod(view.variants)
    known = SEPARATOR.join(filter(None, [_targets(view), *layer_facts(view), _OTHER_FACTS]))
    return plan_layout(n, seeds, view.image_size, settings, variants, known)


def _targets(view: LayerView) -> str:
    return sampling_of(view.plan, view.model, view.layer).words()


def draw_montage(view: LayerView, settings: CollateSettings) -> PillowCanvas:
    """Draw the montage of a layer."""
    layout = montage_layout(view, settings)
    canvas = PillowCanvas(layout.size)
    status = _draw_tiles(canvas, view, layout)
    facts = [_targets(view), _fates(status), *layer_facts(view), _environments(view)]
    layer = with_reader_name(view, settings.names)
    for text in layout.heading(layer_title(view.model, layer), facts):
        canvas.text(text)
    for text in _labels(view, layout, status):
        canvas.text(text)
    for grid, seed in enumerate(view.plan.seeds) if layout.grids > 1 else ():
        canvas.text(layout.grid_title(grid, f"seed {seed}"))
    return canvas


def with_reader_name(view: LayerView, names: Mapping[str, str] | None) -> LayerPlan:
    """The layer of a view under the name that readers know, for headings."""
    given = given_name(names, view.model.label, view.layer.info.name)
    return replace(view.layer, info=replace(view.layer.info, name=given)) if given else view.layer


def check_names(settings: CollateSettings, plan: Plan) -> None:
    """Raise UserError where a name is given to a layer that the plan does not have."""
    layers = [(model.label, layer.info.name) for model in plan.models for layer in model.layers]
    known = {place for label, name in layers for place in (name, f"{label}/{name}")}
    for name in settings.names or ():
        if name not in known:
            raise unknown("layer of collate.names", name, {name for _, name in layers})


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
    for row, seed_index in np.argwhere(np.isin(status, WITHOUT_IMAGE)):
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


_SUFFIXES: dict[str, tuple[str, ...]] = {
    "none": (),
    "strip": (".png",),
    "webp": (".webp",),
    "both": (".png", ".webp"),
}
_FRAMES_PER_ROW = 10

_PLAYED = 2400.0
"""Milliseconds for all frames but the last."""
_SHORTEST, _LONGEST = 40, 400
"""Milliseconds of a frame."""
_LAST = 1500
"""Milliseconds of the last frame."""
_QUALITY = 90
"""WebP quality: looks like the frames themselves in a quarter of their size; the atlas is exact."""


@dataclass(frozen=True)
class Animation:
    """The snapshots of an image."""

    frames: NDArray[np.uint8]
    """The frames (N, H, W, C)."""
    steps: Sequence[int]
    """The step of each frame."""
    title: str
    facts: Sequence[str]
    """The image's fate, and how it was made."""


def check_snapshots(settings: CollateSettings, snapshots: int) -> None:
    """Raise UserError where animations are requested and no snapshots are kept."""
    if settings.animations != "none" and not snapshots:
        raise UserError(
            f"collate.animations={settings.animations} needs snapshots, and this sweep keeps none: "
            "run it with snapshots=8, which keeps every 8th, or use collate.animations=none."
        )


def write_animations(view: LayerView, settings: CollateSettings) -> None:
    """Write the animations of a layer, and remove others of the layer.

    Raises:
        StorageError: the disk is full or fails.
    """
    written: set[Path] = set()
    for jobs in view.stored_jobs():
        columns = (jobs.rows.tolist(), jobs.arrays["status"].tolist(), jobs.arrays["snapshot"])
        for row, code, images in zip(*columns, strict=True):
            for variant, frames in enumerate(images.reshape(-1, *images.shape[-4:])):
                animation = _animation(view, frames, (row, jobs.seed_index, variant), code)
                for path in _paths(view, settings, row, jobs.seed_index, variant):
                    write_atomically(path, _ENCODERS[path.suffix](animation, settings))
                    written.add(path)
    # Channels that are no longer in the plan leave files behind.
    for path in view.folder.animations(view.model.label, view.layer.info.name):
        if path not in written:
            path.unlink(missing_ok=True)


def animation_paths(
    view: LayerView, status: NDArray[np.uint8], settings: CollateSettings
) -> Iterator[Path]:
    """Yield the files that a layer's animations must have, by the status (C, S) of its jobs."""
    if settings.animations == "none":
        return
    made = ~np.isin(status, WITHOUT_IMAGE)
    variants = range(view.model.recipe.variants)
    for (row, seed_index), variant in product(np.argwhere(made).tolist(), variants):
        yield from _paths(view, settings, row, seed_index, variant)


def _paths(
    view: LayerView, settings: CollateSettings, row: int, seed_index: int, variant: int
) -> Iterator[Path]:
    """Yield the files of an image's animations."""
    target = view.layer.target_space.numbers(view.layer.targets[row])
    name = f"channel-{target}.seed-{view.plan.seeds[seed_index]}"
    if view.variants:
        name += f".variant-{view.model.recipe.objective.variant_names[variant]}"
    for suffix in _SUFFIXES[settings.animations]:
        yield view.folder.animation(view.model.label, view.layer.info.name, name + suffix)


def _animation(
    view: LayerView, frames: NDArray[np.uint8], image: tuple[int, int, int], status: int
) -> Animation:
    row, seed_index, variant = image
    recipe, target = view.model.recipe, view.layer.targets[row]
    title = [
        layer_title(view.model, view.layer),
        target_name(recipe, view.layer, target),
        f"seed {view.plan.seeds[seed_index]}",
        *([variant_labels(view)[variant]] if view.variants else []),
    ]
    facts = [view.fate(row, status), *layer_facts(view)]
    return Animation(frames, snapshot_steps(recipe), "  ·  ".join(title), facts)


def draw_strip(animation: Animation, settings: CollateSettings) -> PillowCanvas:
    """Draw all frames side by side, each over its step."""
    n, height, width, _ = animation.frames.shape
    # About twice as wide as high where they are many.
    most = max(_FRAMES_PER_ROW, math.isqrt(2 * n))
    arranged = replace(settings, columns=choose_columns([n], fewest_rows(n, most)))
    facts = SEPARATOR.join(filter(None, animation.facts))
    layout = plan_layout(n, 1, (height, width), arranged, facts=facts)
    canvas = PillowCanvas(layout.size)
    for text in layout.heading(animation.title, animation.facts):
        canvas.text(text)
    steps = [f"step {step}" for step in animation.steps]
    steps = FONT.without_common_word(steps, SMALLEST, layout.room)
    size = FONT.size(steps, layout.room, layout.letters)
    for position, (frame, step) in enumerate(zip(animation.frames, steps, strict=True)):
        canvas.tile(Tile(layout.tile_box(position), frame))
        for text in layout.label(layout.line_corner(-1, position), step, size, layout.room):
            canvas.text(text)
    return canvas


def durations(n: int) -> list[int]:
    """Milliseconds that each of n frames is shown; the last one is shown longer."""
    each = min(max(round(_PLAYED / n), _SHORTEST), _LONGEST)
    return [each] * (n - 1) + [_LAST]


def _webp(animation: Animation) -> bytes:
    first, *others = (Image.fromarray(frame) for frame in in_colour(animation.frames))
    buffer = io.BytesIO()
    first.save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=durations(len(animation.frames)),
        loop=0,
        quality=_QUALITY,
    )
    return buffer.getvalue()


_ENCODERS: dict[str, Callable[[Animation, CollateSettings], bytes]] = {
    ".png": lambda animation, settings: draw_strip(animation, settings).png(),
    ".webp": lambda animation, _: _webp(animation),
}

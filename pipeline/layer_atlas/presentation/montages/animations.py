"""Animations: every image during its optimization, as a strip to print and a WebP to watch.

Each target, seed and variant has a strip, whose frames stand from left to right, each over its
step, and an animation that stays at its last frame for a while and begins again. Both are made of
the snapshots in the shards, one job in memory at a time.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.display import in_colour
from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.recipe import snapshot_steps
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import layer_title, target_name
from layer_atlas.presentation.layout.grid import plan_layout
from layer_atlas.presentation.layout.page import Tile
from layer_atlas.presentation.layout.pillow import FONT, SMALLEST, PillowCanvas
from layer_atlas.presentation.montages.montage import layer_facts, variant_labels
from layer_atlas.store.files import write_atomically

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
    made = ~np.isin(status, (STATUS["failed"], STATUS["missing"]))
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
    rows = math.ceil(n / max(_FRAMES_PER_ROW, math.sqrt(2 * n)))
    arranged = replace(settings, columns=math.ceil(n / rows))
    layout = plan_layout(n, 1, (height, width), arranged)
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

"""Animations: every image on its way, as a strip to print and an animation to watch.

Of each channel, seed and variant there is a strip, whose frames stand from left to right, in rows
if they are many, each over its step; and an animation that stays at its last frame for a while and
begins again. They are made of the snapshots in the shards, one job in memory at a time.
"""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from layer_atlas.atlas.drawing import PAPER, as_tile, common_size, in_colour, numbered
from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.recipe import snapshot_steps
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import layer_title, target_name
from layer_atlas.presentation.montages.labels import (
    Label,
    draw_heading,
    facts_of,
    variant_words,
    write_label,
)
from layer_atlas.presentation.montages.layout import plan_layout
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
"""Milliseconds of the last one."""
_QUALITY = 90
"""Looks like the frames themselves, in a quarter of their size; they are in the atlas, exact."""


@dataclass(frozen=True)
class Animation:
    """An image on its way."""

    frames: NDArray[np.uint8]
    """(N, H, W, C)."""
    steps: Sequence[int]
    """After how many steps each is."""
    title: str
    facts: Sequence[str]
    """What became of it, and how it was made."""


def check_snapshots(settings: CollateSettings, snapshots: int) -> None:
    """Make sure that there is something to show; raises UserError."""
    if settings.animations != "none" and not snapshots:
        raise UserError(
            f"collate.animations={settings.animations} needs snapshots, and this sweep keeps none: "
            "run it with snapshots=8, which keeps every 8th, or use collate.animations=none."
        )


def write_animations(view: LayerView, settings: CollateSettings) -> None:
    """Draw the animations of a layer and put them in their place; others of the layer are removed.

    Raises:
        StorageError: the disk is full or fails.
    """
    written: set[Path] = set()
    for jobs in view.stored_jobs():
        columns = (jobs.rows.tolist(), jobs.arrays["status"].tolist(), jobs.arrays["snapshot"])
        for row, code, images in zip(*columns, strict=True):
            for variant, frames in enumerate(images.reshape(-1, *images.shape[-4:])):
                animation = _film(view, frames, (row, jobs.seed_index, variant), code)
                for path in _places(view, settings, row, jobs.seed_index, variant):
                    write_atomically(path, _ENCODERS[path.suffix](animation, settings))
                    written.add(path)
    for path in view.folder.animations(view.model.label, view.layer.info.name):
        if path not in written:
            path.unlink(missing_ok=True)


def animation_paths(
    view: LayerView, status: NDArray[np.uint8], settings: CollateSettings
) -> Iterator[Path]:
    """Where the animations of a layer must be, by the status (C, S) of its jobs."""
    if settings.animations == "none":
        return
    made = ~np.isin(status, (STATUS["failed"], STATUS["missing"]))
    variants = range(view.model.recipe.variants)
    for (row, seed_index), variant in product(np.argwhere(made).tolist(), variants):
        yield from _places(view, settings, row, seed_index, variant)


def _places(
    view: LayerView, settings: CollateSettings, row: int, seed_index: int, variant: int
) -> Iterator[Path]:
    """The files of an image's animations."""
    target = view.layer.target_space.numbers(view.layer.targets[row])
    name = f"channel-{target}.seed-{view.plan.seeds[seed_index]}"
    if view.variants:
        name += f".variant-{view.model.recipe.objective.variant_names[variant]}"
    for suffix in _SUFFIXES[settings.animations]:
        yield view.folder.animation(view.model.label, view.layer.info.name, name + suffix)


def _film(
    view: LayerView, frames: NDArray[np.uint8], image: tuple[int, int, int], status: int
) -> Animation:
    row, seed_index, variant = image
    recipe, channel = view.model.recipe, view.layer.targets[row]
    title = [
        layer_title(view.model, view.layer),
        target_name(recipe, view.layer, channel),
        f"seed {view.plan.seeds[seed_index]}",
        *([variant_words(view)[variant]] if view.variants else []),
    ]
    facts = [view.fate(row, status), *facts_of(view)]
    return Animation(frames, snapshot_steps(recipe), "  ·  ".join(title), facts)


def draw_strip(animation: Animation, settings: CollateSettings) -> Image.Image:
    """All frames side by side, each over its step: an RGB picture."""
    n, height, width, _ = animation.frames.shape
    # About twice as wide as high where they are many.
    rows = math.ceil(n / max(_FRAMES_PER_ROW, math.sqrt(2 * n)))
    arranged = replace(settings, columns=math.ceil(n / rows))
    layout = plan_layout(n, 1, (height, width), arranged)
    picture = Image.new("RGB", layout.size, PAPER)
    draw_heading(picture, layout, animation.title, animation.facts)
    draw = ImageDraw.Draw(picture)
    steps = numbered("step", animation.steps, layout.room)
    size = common_size(steps, layout.letters, layout.room)
    for place, (frame, step) in enumerate(zip(animation.frames, steps, strict=True)):
        picture.paste(as_tile(frame, layout.tile), layout.tile_corner(place))
        write_label(draw, Label(layout.line_corner(-1, place), step, size, layout.room))
    return picture


def durations(n: int) -> list[int]:
    """How long each of n frames is shown, in milliseconds; the last one longer."""
    each = min(max(round(_PLAYED / n), _SHORTEST), _LONGEST)
    return [each] * (n - 1) + [_LAST]


def _strip(animation: Animation, settings: CollateSettings) -> bytes:
    buffer = io.BytesIO()
    draw_strip(animation, settings).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _animation(animation: Animation, settings: CollateSettings) -> bytes:
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


_ENCODERS = {".png": _strip, ".webp": _animation}

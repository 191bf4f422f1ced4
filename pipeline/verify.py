"""Verification: digests of shards, the atlas against the store, activations against images."""

from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.collate.gather import LayerView, Piece, layer_views
from pipeline.config import Config
from pipeline.errors import EXIT_FAILED_JOBS, EXIT_OK, UserError
from pipeline.jobs import STATUS
from pipeline.manifest import plan_of
from pipeline.records import build
from pipeline.shard_file import PICTURES
from pipeline.store import OutputFolder
from pipeline.tasks.base import open_bench
from pipeline.wording import count_images, target_name

TOLERANCE = 1e-3
"""Largest relative difference between a stored activation and one measured again."""

SAMPLE = 64
"""Images measured again per layer."""

_COMPARED = (
    "status",
    "activation",
    "activation_robust",
    "activation_max",
    "high_frequency",
    "clipped",
    "trace",
    "response",
    "start",
    "part_activation",
)


def verify(manifest: dict[str, Any], folder: OutputFolder) -> int:
    """Check an output folder and print what was found; returns the exit code.

    Corrupt shards are set aside, so that the next run computes them again.
    """
    plan = plan_of(manifest)
    views = list(layer_views(folder, plan))
    if not folder.atlas.exists():
        raise UserError(f"there is no {folder.atlas} yet; `atlas collate name=...` makes it.")
    checked = sum(len(located) for view in views for _, _, located in view.located())
    try:
        with h5py.File(folder.atlas, "r") as atlas:
            problems = [problem for view in views for problem in _compare(atlas, view)]
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        problems = [
            f"{folder.atlas} cannot be read ({error}); collate it"
        ]  # h5py raises any of them
    if checked < plan.n_jobs:
        problems.append(f"{count_images(plan, plan.n_jobs - checked)} missing; run it again")
    problems += [f"corrupt shard set aside: {path}" for view in views for path in view.corrupt]
    made_with = build(Config, manifest["config"])
    worst, measured = _measure_again(made_with, views)
    if worst > TOLERANCE:
        problems.append(f"activations measured again differ by up to {100 * worst:.3g} %")
    print(f"{count_images(plan, checked)}: shards and atlas compared, {len(problems)} problems")
    print(f"{measured} activations measured again, largest difference {100 * worst:.3g} %")
    for problem in problems:
        print(f"  {problem}")
    return EXIT_FAILED_JOBS if problems else EXIT_OK


def _compare(atlas: h5py.File, view: LayerView) -> Iterator[str]:
    """Differences between a layer of the atlas and its shards."""
    name = view.group
    if name not in atlas:
        yield f"{name} is not in the atlas; collate it"
        return
    group = atlas[name]
    jobs = (len(view.channels), len(view.plan.seeds))
    shape = (*jobs, *view.variants, *view.image_size, view.colours)
    same_axes = group["image"].shape == shape and np.array_equal(group["channel"], view.channels)
    if not same_axes or group["seed"][:].tolist() != list(view.plan.seeds):
        yield f"{name} in the atlas is of another plan; collate it"
        return
    for piece in view.pieces():
        for dataset, rows in _datasets(view, piece):
            for row, value in rows:
                try:
                    stored = group[dataset][row, piece.seed_index]
                    if dataset == "status" and stored == STATUS["silent"]:
                        stored = STATUS["dead"]  # which only the photographs could tell
                    same = np.array_equal(stored, value, dataset not in PICTURES)
                except (OSError, ValueError, KeyError) as error:
                    yield f"{name}/{dataset} cannot be read: {error}"
                    break
                if not same:
                    recipe, channel = view.model.recipe, view.layer.channels[row]
                    target = target_name(recipe, view.layer, channel)
                    yield f"{name}/{dataset} of {target} differs from its shard"


def _datasets(
    view: LayerView, piece: Piece
) -> Iterator[tuple[str, Iterator[tuple[int, NDArray[Any]]]]]:
    """What is compared of some jobs: of each dataset the rows and their values."""
    for name in _COMPARED:
        # Shards that were made before a statistic was thought of lack it.
        if name in piece.result.arrays:
            yield name, zip(piece.rows.tolist(), piece.result.arrays[name], strict=True)
    for name in view.pictures:
        yield name, piece.pictures(name)


def _measure_again(config: Config, views: list[LayerView]) -> tuple[float, int]:
    """Largest relative difference of activations measured again, and how many were."""
    worst, measured = 0.0, 0
    models = {model.title: model for model in config.models}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for model in {view.model.label: view.model for view in views}.values():
        wanted = [models[label] for label in model.networks]
        bench = open_bench(wanted, model, views[0].folder, device)
        for view in (view for view in views if view.model is model):
            layer = bench.layer(view.layer.info, view.layer.others)
            for stored, pixels, channels in _sample(view):
                again = layer.measure(pixels, channels)["activation"]
                scale = np.maximum(np.abs(stored), 1e-6)
                difference = float(np.max(np.abs(again - stored) / scale))
                worst = max(worst, difference if np.isfinite(difference) else np.inf)
                measured += len(channels)
    return worst, measured


def _sample(view: LayerView) -> Iterator[tuple[NDArray[Any], NDArray[Any], list[int]]]:
    """Activations, images and channels of up to SAMPLE live jobs, spread over the layer."""
    total = len(view.channels) * len(view.plan.seeds)
    stride = max(1, total // SAMPLE)
    for piece in view.pieces():
        arrays = piece.result.arrays
        chosen = [
            i
            for i, row in enumerate(piece.rows)
            if row % stride == 0 and arrays["status"][i] == STATUS["ok"]
        ]
        if chosen:
            channels = arrays["channel"][chosen].tolist()
            images = [images for _, images in piece.pictures("image", chosen)]
            yield arrays["activation"][chosen], np.stack(images), channels

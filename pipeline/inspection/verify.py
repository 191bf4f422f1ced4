"""Verification: digests of shards, the atlas against the store, activations against images."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.collate.compare import compare
from pipeline.collate.gather import LayerView, layer_views
from pipeline.errors import EXIT_FAILED_JOBS, EXIT_OK, UserError
from pipeline.inspection.versions import mixture_in_store
from pipeline.jobs import STATUS
from pipeline.plan import Plan
from pipeline.settings.config import Config
from pipeline.settings.records import build, canonical_json
from pipeline.store.folder import OutputFolder
from pipeline.store.manifest import plan_of, read_manifest
from pipeline.tasks.base import open_bench
from pipeline.wording import count_images, inert

TOLERANCE = 1e-3
"""Largest relative difference between a stored activation and one measured again."""

SAMPLE = 64
"""Images measured again per layer."""


def verify(config: Config, folder: OutputFolder) -> int:
    """Check an output folder and print what was found; returns the exit code.

    Corrupt shards are set aside, so that the next run computes them again.

    Args:
        config: names the code that may be run: networks and functions of the user's own.
        folder: what to check.
    Raises:
        UserError: there is no run or no atlas, or its networks cannot be loaded.
        StorageError: the store cannot be read.
    """
    manifest = read_manifest(folder)
    plan = plan_of(manifest)
    views = list(layer_views(folder, plan))
    if not folder.atlas.exists():
        raise UserError(f"there is no {folder.atlas} yet; `atlas collate name=...` makes it.")
    checked = plan.n_jobs - sum(shard.units for view in views for _, shard in view.left())
    problems = compare(folder)
    if checked < plan.n_jobs:
        problems.append(f"{count_images(plan, plan.n_jobs - checked)} missing; run it again")
    made_with = build(Config, manifest["config"])
    foreign = sorted(code_of(made_with, plan) - code_of(config))
    if foreign:
        measured = _not_measured(foreign)
    else:
        worst, n = _measure_again(made_with, views)
        measured = f"{n} activations measured again, largest difference {100 * worst:.3g} %"
        if worst > TOLERANCE:
            problems.append(f"activations measured again differ by up to {100 * worst:.3g} %")
    print(f"{count_images(plan, checked)}: shards and atlas compared, {len(problems)} problems")
    print(measured)
    for sentence in mixture_in_store(plan, views):
        print(sentence)
    for problem in problems:
        print(f"  {inert(problem)}")
    return EXIT_FAILED_JOBS if problems else EXIT_OK


def code_of(config: Config, plan: Plan | None = None) -> set[str]:
    """What of a sweep is code by name, with its arguments: networks and functions of users."""
    named = [(model.target, model.args) for model in config.models]
    records: list[Any] = [config.objective, config.parameterization]
    for recipe in (model.recipe for model in plan.models) if plan else ():
        records += [recipe.objective, recipe.parameterization]
    for record in records:
        name = getattr(record, "function", None) or getattr(record, "target", None)
        named.append((name, getattr(record, "args", None)))
    return {f"{name}({canonical_json(args)})" if args else name for name, args in named if name}


def _not_measured(foreign: Sequence[str]) -> str:
    return (
        f"activations are not measured again: that runs code which only the manifest names "
        f"({', '.join(map(inert, foreign))}). If you know it, give the overrides of the run."
    )


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

"""Verification: checksums of shards, the atlas against the store, activations against images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layer_atlas.atlas.gather import layer_views
from layer_atlas.atlas.hdf5 import compare
from layer_atlas.config.config import Config
from layer_atlas.config.records import build, canonical_json
from layer_atlas.errors import UserError, sanitize
from layer_atlas.logs import step
from layer_atlas.plan.labels import count_images
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest
from layer_atlas.sweep.monitor import mixture_in_store
from layer_atlas.sweep.remeasure import remeasure


@dataclass(frozen=True)
class Verification:
    """What a verification checked and found."""

    notes: list[str]
    """Sentences about what was compared and measured."""
    problems: list[str]
    """Everything that is wrong; names in them are not sanitized."""


def verify(config: Config, folder: OutputFolder) -> Verification:
    """Verify an output folder.

    Corrupt shards are set aside, so that the next run computes them again.

    Args:
        config: names the user code that may run: networks and functions.
        folder: the output folder.
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
    with step("comparing the atlas with its shards"):
        problems = compare(folder)
    if checked < plan.n_jobs:
        problems.append(f"{count_images(plan, plan.n_jobs - checked)} missing; run it again")
    made_with = build(Config, manifest["config"])
    # A manifest may be somebody else's: only code that the command line names as well may run.
    foreign = sorted(code_of(made_with, plan) - code_of(config))
    if foreign:
        measured = _not_measured(foreign)
    else:
        with step("measuring activations again"):
            again = remeasure(made_with, views)
        problems += again.problems
        measured = (
            f"{again.count} activations measured again by plain hooks on networks loaded afresh, "
            f"largest difference {100 * again.worst:.3g} %"
        )
    compared = f"{count_images(plan, checked)}: shards and atlas compared, {len(problems)} problems"
    return Verification([compared, measured, *mixture_in_store(plan, views)], problems)


def code_of(config: Config, plan: Plan | None = None) -> set[str]:
    """The user code of a sweep, by dotted name and arguments: networks and functions."""
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
        f"({', '.join(map(sanitize, foreign))}). If you know it, give the overrides of the run."
    )

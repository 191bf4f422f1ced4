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
from layer_atlas.presentation.collate import changes, forget
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


def verify(folder: OutputFolder, untrusted: Sequence[str] = ()) -> Verification:
    """Verify an output folder, by the config that it was made with.

    Corrupt shards are set aside, so that the next run computes them again. It writes an atlas
    again that is damaged or does not agree with them.

    Args:
        folder: the output folder.
        untrusted: user code of the run that may not be executed. If there is any, no activation is
            measured again.
    Raises:
        UserError: there is no run or no atlas, or its networks cannot be loaded.
        StorageError: the store cannot be read.
    """
    manifest = read_manifest(folder)
    plan = plan_of(manifest)
    if not folder.atlas.exists():
        raise UserError(f"there is no {folder.atlas} yet; `atlas collate name=...` makes it.")
    with step("comparing the atlas with its shards"):
        problems = [*compare(folder), *changes(folder)]
    damaged = bool(problems)
    if damaged:
        forget(folder)
    # Listed after the comparison, which sets corrupt shards aside.
    views = list(layer_views(folder, plan))
    checked = plan.n_jobs - sum(shard.units for view in views for _, shard in view.left())
    if checked < plan.n_jobs:
        problems.append(f"{count_images(plan, plan.n_jobs - checked)} missing; run it again")
    if untrusted:
        measured = _not_measured(folder, untrusted)
    else:
        with step("measuring activations again"):
            again = remeasure(build(Config, manifest["config"]), views)
        problems += again.problems
        measured = (
            f"{again.count} activations measured again by plain hooks on networks loaded afresh, "
            f"largest difference {100 * again.worst:.3g} %"
        )
    found = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    compared = f"{count_images(plan, checked)}: shards and atlas compared, {found}"
    remedy = ["the next run makes what is damaged again"] * damaged
    return Verification([compared, measured, *mixture_in_store(plan, views), *remedy], problems)


def code_only_in_manifest(config: Config, manifest: dict[str, Any]) -> list[str]:
    """List the user code that a manifest names and the config does not.

    A manifest may be somebody else's, so the user decides whether it is executed.
    """
    made_with = build(Config, manifest["config"])
    return sorted(code_of(made_with, plan_of(manifest)) - code_of(config))


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


def _not_measured(folder: OutputFolder, untrusted: Sequence[str]) -> str:
    from_memory = [name for name in untrusted if name.startswith("memory:")]
    if from_memory:
        return (
            f"activations are not measured again: {sanitize(from_memory[0].partition(':')[2])!r} "
            "was a module in memory of a Python process."
        )
    return (
        f"activations are not measured again: that runs code which only the manifest names "
        f"({', '.join(map(sanitize, untrusted))}). If you know it: `atlas verify yes "
        f"{folder.choice}`"
    )

"""The cells of activation atlases: targets that are known once a dataset was seen."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layer_atlas.config.config import Config
from layer_atlas.config.objectives import ActivationAtlasObjective
from layer_atlas.datasets.activation_map import read_map
from layer_atlas.datasets.tasks import LayerSamples, statistics_of
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import LayerPlan, ModelPlan, Plan
from layer_atlas.plan.targets import select_targets, spaced
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import SUFFIX, OutputFolder
from layer_atlas.sweep.planning.planner import shard_size


def with_maps(plan: Plan, config: Config, folder: OutputFolder, devices: Sequence[str]) -> Plan:
    """Return a plan with the populated cells of the maps that are there as targets.

    Raises:
        UserError: none of the chosen cells is populated.
    """
    inputs = dict(plan.inputs)
    models = tuple(_with_maps(model, plan, folder, inputs) for model in plan.models)
    if models == plan.models:
        return plan
    planned = replace(plan, models=models, inputs=inputs)
    return replace(planned, shard_size=shard_size(config, models, devices))


def lacks_maps(plan: Plan) -> list[str]:
    """List the layers whose cells are not known yet, as `model/layer`."""
    return [
        f"{model.label}/{layer.info.name}"
        for model in plan.models
        if model.recipe.objective.of_dataset
        for layer in model.layers
        if not layer.targets
    ]


def _with_maps(
    model: ModelPlan, plan: Plan, folder: OutputFolder, inputs: dict[str, str]
) -> ModelPlan:
    objective = model.recipe.objective
    if not isinstance(objective, ActivationAtlasObjective) or plan.dataset_plan is None:
        return model
    maps, layers = dict[str, str](), list[LayerPlan]()
    for layer in model.layers:
        samples = statistics_of(model, layer.info.name, plan.dataset_plan)
        assert isinstance(samples, LayerSamples)
        try:
            populated = set(read_map(folder, samples).target.tolist())
        except (FileNotFoundError, CorruptFile):
            layers.append(replace(layer, targets=()))
            continue
        where = f"{model.label}/{layer.info.name}"
        chosen = select_targets(plan.selection, layer.target_space, where)
        targets = tuple(target for target in chosen if target in populated)
        if not targets:
            raise UserError(
                f"channels={plan.selection!r} selects no cell of {where} that is populated: "
                f"{len(populated)} of {layer.target_space.count} are. Choose others, a coarser "
                "objective.grid, or a smaller objective.least."
            )
        # A copy among the inputs serves workers, and its digest the keys of images.
        path = folder.product(samples.product)
        maps[layer.info.name] = _reference(path)
        inputs[maps[layer.info.name]] = str(path)
        layers.append(replace(layer, targets=spaced(targets)))
    recipe = replace(model.recipe, objective=replace(objective, maps=maps or None))
    return replace(model, recipe=recipe, layers=tuple(layers))


def _reference(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() + SUFFIX

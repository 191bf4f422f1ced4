"""What the dataset decides in a plan: its listing, and the cells of activation maps."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from layer_atlas.config.config import Config
from layer_atlas.config.objectives import (
    ActivationAtlasObjective,
    FacetsObjective,
    StrongestImagesObjective,
)
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.datasets.activation_map import check_atlas, read_map
from layer_atlas.datasets.sources import DatasetImages, look_through, open_dataset, read_view
from layer_atlas.datasets.tasks import LayerSamples, statistics_of
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import DatasetPlan, LayerPlan, ModelPlan, Plan, shard_size
from layer_atlas.plan.targets import select_targets, spaced
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import SUFFIX, OutputFolder
from layer_atlas.sweep.planning.inspection import SMALLEST_IMAGE
from layer_atlas.visualization.saliency import check_available


def plan_dataset(config: Config) -> DatasetPlan | None:
    """List the dataset images, if there are any; raises UserError."""
    # A missing package is reported now rather than after hours of optimization.
    check_available(config.saliency)
    settings = config.dataset
    if settings is None:
        return None
    dataset_images = open_dataset(settings)
    # Facets are understood by the images that they are made of.
    of_facets = config.objective.top if isinstance(config.objective, FacetsObjective) else 0
    # Unreadable images are skipped later, which would leave nothing of a folder of other files.
    _check_readable(dataset_images, settings.source)
    if isinstance(config.objective, ActivationAtlasObjective):
        check_atlas(config.objective, dataset_images)
    listing, count = look_through(dataset_images.entries())
    return DatasetPlan(
        source=f"{settings.name} {settings.source}",
        listing=listing,
        count=count,
        top=settings.top,
        bottom=settings.bottom,
        reference=settings.reference,
        examples=max(of_facets, min(settings.examples, max(settings.top, settings.bottom))),
        saliency=config.saliency,
    )


def _check_readable(dataset_images: DatasetImages, source: str) -> None:
    """Check that one image can be read, in most cases the first; raises UserError."""
    first = None
    for index, entry in enumerate(dataset_images.entries()):
        reason = read_view(dataset_images, index, entry, SMALLEST_IMAGE).reason
        if reason is None:
            return
        first = first or f"of {entry.path!r}, {reason}"
    raise UserError(
        f"none of the photographs of {source!r} can be read: {first}. Give JPEG, PNG or WebP files."
    )


def with_dataset(config: Config, listing: str) -> Config:
    """Name the dataset by its content in what uses it, so that other images make other keys."""
    init, objective = config.init, config.objective
    if isinstance(init, DatasetInit):
        init = replace(init, dataset=listing)
    if isinstance(objective, StrongestImagesObjective):
        objective = replace(objective, dataset=listing)
    return replace(config, init=init, objective=objective)


# --- cells of activation maps: targets that are known once the dataset was seen -------------------


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

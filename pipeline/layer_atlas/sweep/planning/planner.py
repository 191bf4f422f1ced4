"""From networks to plan: the recipe of every model, the targets of every layer, the dataset."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.datasets import FolderDataset
from layer_atlas.config.inputs import Find, Inputs
from layer_atlas.config.objectives import (
    DirectionObjective,
    JointObjective,
    LogitObjective,
    Objective,
    ProbabilityObjective,
)
from layer_atlas.config.recipe import DatasetInit, Recipe
from layer_atlas.config.records import digest, plain
from layer_atlas.datasets.listing import look_through
from layer_atlas.datasets.sources import DatasetImages, open_dataset
from layer_atlas.datasets.views import read_view
from layer_atlas.errors import UserError
from layer_atlas.models.layers import match_layers
from layer_atlas.models.load import Network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import (
    MOST_TARGETS,
    DatasetPlan,
    LayerPlan,
    LayerRef,
    ModelPlan,
    Plan,
    SkippedModel,
    jobs_at_once,
)
from layer_atlas.plan.targets import TargetSpace, select_targets, spaced
from layer_atlas.sweep.planning.devices import resolve_precision
from layer_atlas.sweep.planning.inspection import (
    SMALLEST_IMAGE,
    CheckedLayers,
    EarlierChecks,
    InspectedModel,
    check_layers,
    check_some_are_left,
    unless_unusable,
)
from layer_atlas.visualization.objectives import ObjectiveContext, make_objective
from layer_atlas.visualization.objectives.base import not_yet
from layer_atlas.visualization.objectives.custom import with_source
from layer_atlas.visualization.objectives.directions import RANDOM_DIRECTIONS
from layer_atlas.visualization.parameterizations.check import check_parameterization
from layer_atlas.visualization.parameterizations.generator import (
    with_source as with_generator_source,
)
from layer_atlas.visualization.saliency import check_available


def make_plan(
    config: Config,
    inspected: Sequence[InspectedModel | SkippedModel],
    devices: list[str],
    earlier: Plan | None = None,
) -> Plan:
    """Decide the channels of every layer and the recipe of every model.

    Args:
        config: what is wanted.
        inspected: the networks, in the order of the config's models.
        devices: where workers will run.
        earlier: the plan of an earlier run; what its networks compute is compared with now.
    Raises:
        UserError: a mistake in the config, or a layer that cannot be optimised.
    """
    precision = resolve_precision(config.precision, devices)
    dataset_stats = plan_dataset(config)
    if dataset_stats is not None and isinstance(config.init, DatasetInit):
        config = replace(config, init=replace(config.init, dataset=dataset_stats.listing))
    inputs = Inputs()
    planned: list[ModelPlan | SkippedModel]
    if isinstance(config.objective, JointObjective):
        networks = [found for found in inspected if isinstance(found, InspectedModel)]
        planned = [_plan_joint(config, config.objective, networks, precision, inputs, earlier)]
    else:
        pairs = zip(config.models, inspected, strict=True)
        planned = [_plan_model(config, m, found, precision, inputs, earlier) for m, found in pairs]
        check_some_are_left(planned, config)
    models = tuple(model for model in planned if isinstance(model, ModelPlan))
    skipped_models = tuple(model for model in planned if isinstance(model, SkippedModel))
    sources = {reference: str(path) for reference, path in inputs.sources.items()}
    fitting = min(jobs_at_once(model.recipe, model.colours) for model in models)
    shard_size = min(config.shard_size, fitting)
    asked = config.channels
    return Plan(models, config.seeds, shard_size, dataset_stats, sources, skipped_models, asked)


def _plan_model(
    config: Config,
    model: ModelConfig,
    found: InspectedModel | SkippedModel,
    precision: str,
    inputs: Inputs,
    earlier: Plan | None,
) -> ModelPlan | SkippedModel:
    if isinstance(found, SkippedModel):
        return found
    plan = partial(_plan_network, config, model, found, precision, inputs, earlier)
    return unless_unusable(model, plan)


def _plan_network(
    config: Config,
    model: ModelConfig,
    found: InspectedModel,
    precision: str,
    inputs: Inputs,
    earlier: Plan | None,
) -> ModelPlan:
    network = found.network
    wanted = found.choose(model.layers or config.objective.own_layers)
    objective = with_source(config.objective)
    checked = _checked(config, found, wanted, precision, earlier)
    recipe = make_recipe(config, objective, [found], checked.precision, inputs)
    layers = tuple(
        resolve_targets(config, recipe, inputs.find, [(network, info)]) for info in checked.layers
    )
    return _model_plan(network, recipe, layers, checked.note)


def _plan_joint(
    config: Config,
    objective: JointObjective,
    inspected: list[InspectedModel],
    precision: str,
    inputs: Inputs,
    earlier: Plan | None,
) -> ModelPlan:
    """One layer that stands for all terms: that of the first."""
    found = terms_of(objective, [(one.network, one.layers) for one in inspected])
    notes, read = [], {}
    for one in inspected:
        own = [layer for network, layer in found if network is one.network]
        checked = _checked(config, one, own, precision, earlier)
        precision = checked.precision
        notes.append(checked.note)
        read[one.network.label] = {layer.name: layer for layer in checked.layers}
    found = [(network, read[network.label][layer.name]) for network, layer in found]
    pairs = zip(objective.terms, found, strict=True)
    terms = tuple(
        replace(term, model="", network=digest(plain(network.identity)), layer=layer.name)
        for term, (network, layer) in pairs
    )
    recipe = make_recipe(config, replace(objective, terms=terms), inspected, precision, inputs)
    first = found[0][0]
    layer = resolve_targets(config, recipe, inputs.find, found)
    return _model_plan(first, recipe, (layer,), "; ".join(filter(None, notes)))


def _model_plan(
    network: Network, recipe: Recipe, layers: tuple[LayerPlan, ...], note: str
) -> ModelPlan:
    return ModelPlan(
        label=network.label,
        network=network.identity,
        input_size=network.input_size,
        recipe=recipe,
        layers=layers,
        note=note,
        origin=network.origin,
    )


def _checked(
    config: Config,
    found: InspectedModel,
    wanted: Sequence[LayerInfo],
    precision: str,
    earlier: Plan | None,
) -> CheckedLayers:
    known = EarlierChecks() if earlier is None else _known(earlier, found, precision)
    return check_layers(found, wanted, precision, config.precision == "auto", known)


def _known(earlier: Plan, found: InspectedModel, precision: str) -> EarlierChecks:
    """What an earlier plan knows of the same network, for images of the same size.

    In another precision paths are chosen anew.
    """
    layers: dict[str, LayerInfo] = {}
    notes: set[str] = set()
    for model in earlier.models:
        read = [(model.network, layer.info) for layer in model.layers]
        read += [(tap.network, tap.info) for layer in model.layers for tap in layer.others]
        own = [info for network, info in read if network == found.network.identity]
        if own and model.recipe.image_size == found.image_size:
            same = model.recipe.precision == precision
            layers |= {info.name: info if same else replace(info, path="") for info in own}
            notes.add(model.note)
    return EarlierChecks(layers, "; ".join(sorted(filter(None, notes))))


def make_recipe(
    config: Config,
    objective: Objective,
    networks: Sequence[InspectedModel],
    precision: str,
    inputs: Inputs,
) -> Recipe:
    """The recipe of images for layers of some networks, which were checked.

    Raises:
        UserError: parts of it do not go together, or a file that it names is of no use.
    """
    try:
        recipe = Recipe(
            objective=objective,
            parameterization=with_generator_source(config.parameterization),
            transforms=config.transforms,
            optimizer=config.optimizer,
            image_size=networks[0].image_size,
            precision=precision,
            regularizers=config.regularizers,
            init=config.init,
            mask=config.mask,
            octaves=config.octaves,
            snapshots=config.snapshots,
            keep_prefix_tokens=config.keep_prefix_tokens,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    recipe = inputs.resolved(recipe)
    check_parameterization(recipe, len(networks[0].network.mean), inputs.find)
    return recipe


def resolve_targets(
    config: Config,
    recipe: Recipe,
    find: Find,
    layers: Sequence[tuple[Network, LayerInfo]],
) -> LayerPlan:
    """What is wanted of a layer, or of several that are read together.

    Args:
        config: which targets.
        recipe: the objective, its files resolved.
        find: the files that the recipe refers to.
        layers: the layer and its network first, further ones after it.
    Raises:
        UserError: the objective does not fit the layer, or there are no such targets.
    """
    (network, info), *others = layers
    where = " and ".join(f"{of.label}/{layer.name}" for of, layer in layers)
    surroundings = ObjectiveContext(
        layers=tuple(layer for _, layer in layers),
        activations=not_yet,
        find=find,
        colours=len(network.mean),
        size=recipe.image_size,
        device=torch.device("cpu"),
    )
    objective = make_objective(recipe.objective, surroundings)
    targets = TargetSpace(objective.sizes, _names(recipe, network, objective.sizes))
    _refuse_all_random(recipe, config)
    chosen = select_targets(config.channels, targets, where)
    if len(chosen) > MOST_TARGETS:
        raise UserError(
            f"channels={config.channels!r} are {len(chosen)} targets of {where}; a sweep takes at "
            f"most {MOST_TARGETS} of a layer."
        )
    return LayerPlan(
        info,
        spaced(chosen),
        None if targets == TargetSpace((info.n_channels,)) else targets,
        tuple(LayerRef(of.label, of.identity, layer, of.origin) for of, layer in others),
    )


def _names(recipe: Recipe, network: Network, sizes: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the classes, if targets are the classes that the network tells apart."""
    of_classes = isinstance(recipe.objective, LogitObjective | ProbabilityObjective)
    return network.categories if of_classes and sizes == (len(network.categories),) else ()


def _refuse_all_random(recipe: Recipe, config: Config) -> None:
    objective = recipe.objective
    random = isinstance(objective, DirectionObjective) and not objective.vectors
    if random and config.channels == "all":
        raise UserError(
            f"there are {RANDOM_DIRECTIONS} random directions; say which: channels='0:64', or give "
            "a file of directions as objective.vectors."
        )


def terms_of(
    objective: JointObjective, networks: Sequence[tuple[Network, list[LayerInfo]]]
) -> list[tuple[Network, LayerInfo]]:
    """The layer of each term and its network.

    Args:
        objective: as it is in the config.
        networks: all networks with all their layers; a term without a model is of the first.
    Raises:
        UserError: a term names a layer that its model does not have, or networks differ in colours.
    """
    by_label = {network.label: (network, layers) for network, layers in networks}
    first = networks[0][0].label
    found = [_layer_of(term.layer, *by_label[term.model or first]) for term in objective.terms]
    colours = {len(network.mean) for network, _ in found}
    if len(colours) > 1:
        raise UserError(f"the models of a joint objective differ in colours: {sorted(colours)}.")
    return found


def _layer_of(name: str, network: Network, layers: list[LayerInfo]) -> tuple[Network, LayerInfo]:
    matches = match_layers((name,), layers, network.module, network.label)
    if len(matches) > 1:
        raise UserError(
            f"a term of the objective needs one layer, and {name!r} of model {network.label!r} is "
            f"{len(matches)}: {', '.join(match.name for match in matches[:5])}, ..."
        )
    return network, matches[0]


def plan_dataset(config: Config) -> DatasetPlan | None:
    """Look through the photographs, if there are any; raises UserError."""
    check_available(config.saliency)
    settings = config.dataset
    if settings is None:
        return None
    dataset_images = open_dataset(settings)
    source = settings.path if isinstance(settings, FolderDataset) else settings.dataset
    _check_readable(dataset_images, source)
    listing, count = look_through(dataset_images.entries())
    return DatasetPlan(
        source=f"{settings.name} {source}",
        listing=listing,
        count=count,
        top=settings.top,
        bottom=settings.bottom,
        reference=settings.reference,
        examples=min(settings.examples, max(settings.top, settings.bottom)),
        saliency=config.saliency,
    )


def _check_readable(dataset_images: DatasetImages, source: str) -> None:
    """Make sure that one photograph can be read, mostly the first; raises UserError."""
    first = None
    for index, entry in enumerate(dataset_images.entries()):
        reason = read_view(dataset_images, index, entry, SMALLEST_IMAGE).reason
        if reason is None:
            return
        first = first or f"of {entry.path!r}, {reason}"
    raise UserError(
        f"none of the photographs of {source!r} can be read: {first}. Give JPEG, PNG or WebP files."
    )

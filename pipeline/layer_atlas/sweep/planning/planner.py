"""From networks to plan: the recipe of every model, the channels of every layer."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.inputs import Inputs
from layer_atlas.config.objectives import JointObjective
from layer_atlas.config.recipe import DatasetInit, Recipe
from layer_atlas.config.records import digest, plain
from layer_atlas.models.load import Network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LayerPlan, ModelPlan, Plan, SkippedModel, jobs_at_once
from layer_atlas.sweep.planning.checks import CheckedLayers, EarlierChecks, check_layers
from layer_atlas.sweep.planning.datasets import plan_dataset
from layer_atlas.sweep.planning.inspection import InspectedModel
from layer_atlas.sweep.planning.recipe import make_recipe
from layer_atlas.sweep.planning.resolve_targets import resolve_targets, terms_of
from layer_atlas.sweep.planning.skipped import check_some_are_left, unless_unusable
from layer_atlas.sweep.scheduling.devices import resolve_precision
from layer_atlas.visualization.objectives.custom import with_source


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

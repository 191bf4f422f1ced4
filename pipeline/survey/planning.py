"""From networks to plan: the recipe of every model, the channels of every layer."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pipeline.aim import aim, terms_of
from pipeline.objectives.custom import with_source
from pipeline.plan import LeftOut, ModelPlan, Plan, jobs_at_once
from pipeline.scheduling.devices import resolve_precision
from pipeline.settings.config import Config, ModelConfig
from pipeline.settings.inputs import Inputs
from pipeline.settings.objectives import JointObjective
from pipeline.settings.recipe import DatasetInit
from pipeline.settings.records import digest, plain
from pipeline.survey.left_out import check_some_are_left, unless_unusable
from pipeline.survey.networks import Survey
from pipeline.survey.photographs import plan_study
from pipeline.survey.recipe import make_recipe


def make_plan(config: Config, surveys: Sequence[Survey | LeftOut], devices: list[str]) -> Plan:
    """Decide the channels of every layer and the recipe of every model; raises UserError."""
    precision = resolve_precision(config.precision, devices)
    study = plan_study(config)
    if study is not None and isinstance(config.init, DatasetInit):
        config = replace(config, init=replace(config.init, dataset=study.listing))
    inputs = Inputs()
    planned: list[ModelPlan | LeftOut]
    if isinstance(config.objective, JointObjective):
        networks = [found for found in surveys if isinstance(found, Survey)]
        planned = [_plan_joint(config, config.objective, networks, precision, inputs)]
    else:
        pairs = zip(config.models, surveys, strict=True)
        planned = [_plan_model(config, m, found, precision, inputs) for m, found in pairs]
        check_some_are_left(planned, config)
    models = tuple(model for model in planned if isinstance(model, ModelPlan))
    left_out = tuple(model for model in planned if isinstance(model, LeftOut))
    sources = {reference: str(path) for reference, path in inputs.sources.items()}
    fitting = min(jobs_at_once(model.recipe, model.colours) for model in models)
    shard_size = min(config.shard_size, fitting)
    asked = config.channels
    return Plan(models, config.seeds, shard_size, study, sources, left_out, asked)


def _plan_model(
    config: Config,
    model: ModelConfig,
    found: Survey | LeftOut,
    precision: str,
    inputs: Inputs,
) -> ModelPlan | LeftOut:
    if isinstance(found, LeftOut):
        return found
    plan = partial(_plan_network, config, model, found, precision, inputs)
    return unless_unusable(model, plan)


def _plan_network(
    config: Config, model: ModelConfig, found: Survey, precision: str, inputs: Inputs
) -> ModelPlan:
    network = found.network
    wanted = found.choose(model.layers or config.objective.own_layers)
    objective = with_source(config.objective)
    recipe = make_recipe(config, objective, [(found, wanted)], precision, inputs)
    layers = tuple(aim(config, recipe, inputs.find, [(network, info)]) for info in wanted)
    size, origin = network.input_size, network.origin
    return ModelPlan(network.label, network.identity, size, recipe, layers, origin)


def _plan_joint(
    config: Config,
    objective: JointObjective,
    surveys: list[Survey],
    precision: str,
    inputs: Inputs,
) -> ModelPlan:
    """One layer that stands for all terms: that of the first."""
    found = terms_of(objective, [(survey.network, survey.layers) for survey in surveys])
    wanted = [
        (survey, [layer for network, layer in found if network is survey.network])
        for survey in surveys
    ]
    pairs = zip(objective.terms, found, strict=True)
    terms = tuple(
        replace(term, model="", network=digest(plain(network.identity)), layer=layer.name)
        for term, (network, layer) in pairs
    )
    recipe = make_recipe(config, replace(objective, terms=terms), wanted, precision, inputs)
    first = found[0][0]
    layer = aim(config, recipe, inputs.find, found)
    size, origin = first.input_size, first.origin
    return ModelPlan(first.label, first.identity, size, recipe, (layer,), origin)

"""Aim: the objective meets the layers, and the channels that are asked for become targets."""

from collections.abc import Sequence

import torch

from layer_atlas.config.config import Config
from layer_atlas.config.inputs import Find
from layer_atlas.config.objectives import (
    DirectionObjective,
    JointObjective,
    LogitObjective,
    ProbabilityObjective,
)
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError
from layer_atlas.models.layers import match_layers
from layer_atlas.models.load import Network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import MOST_TARGETS, LayerPlan, LayerRef
from layer_atlas.plan.targets import TargetSpace, select_targets, spaced
from layer_atlas.visualization.objectives import ObjectiveContext, make_objective
from layer_atlas.visualization.objectives.base import not_yet
from layer_atlas.visualization.objectives.directions import RANDOM_DIRECTIONS


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

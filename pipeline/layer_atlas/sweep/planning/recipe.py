"""The recipe of a model's images."""

from collections.abc import Sequence

from layer_atlas.config.config import Config
from layer_atlas.config.inputs import Inputs
from layer_atlas.config.objectives import Objective
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError
from layer_atlas.sweep.planning.inspection import InspectedModel
from layer_atlas.visualization.parameterizations.check import check_parameterization
from layer_atlas.visualization.parameterizations.generator import (
    with_source as with_generator_source,
)


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

"""Models that a sweep goes on without."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.objectives import JointObjective
from layer_atlas.errors import UnusableFile, UserError
from layer_atlas.plan.plan import SkippedModel

T = TypeVar("T")


def unless_unusable(model: ModelConfig, do: Callable[[], T]) -> T | SkippedModel:
    """What becomes of a model; where its weights are of no use, that."""
    try:
        return do()
    except UnusableFile as error:
        return SkippedModel(model.title, str(error))


def check_some_are_left(found: Sequence[object], config: Config) -> None:
    """A sweep goes on while a model is left, unless its images are for all of them together.

    Raises:
        UserError: what is wrong with the first that is left out.
    """
    skipped_models = [model for model in found if isinstance(model, SkippedModel)]
    all_needed = isinstance(config.objective, JointObjective)
    if skipped_models and (all_needed or len(skipped_models) == len(found)):
        raise UserError(skipped_models[0].why)

"""Models that a sweep goes on without."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.objectives import JointObjective
from layer_atlas.errors import UnusableFile, UserError
from layer_atlas.plan.plan import LeftOut

T = TypeVar("T")


def unless_unusable(model: ModelConfig, do: Callable[[], T]) -> T | LeftOut:
    """What becomes of a model; where its weights are of no use, that."""
    try:
        return do()
    except UnusableFile as error:
        return LeftOut(model.title, str(error))


def check_some_are_left(found: Sequence[object], config: Config) -> None:
    """A sweep goes on while a model is left, unless its images are for all of them together.

    Raises:
        UserError: what is wrong with the first that is left out.
    """
    left_out = [model for model in found if isinstance(model, LeftOut)]
    all_needed = isinstance(config.objective, JointObjective)
    if left_out and (all_needed or len(left_out) == len(found)):
        raise UserError(left_out[0].why)

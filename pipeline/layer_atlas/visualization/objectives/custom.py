"""An objective of the user's own."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from layer_atlas.config.objectives import CustomObjective, Objective
from layer_atlas.config.records import implements
from layer_atlas.errors import UserError
from layer_atlas.imports import import_callable, import_planned, source_digest
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.visualization.objectives.base import Activations, ObjectiveContext
from layer_atlas.visualization.objectives.base import Objective as Kind


@implements(CustomObjective)
class Custom(Kind):
    """s = f(a), f being any differentiable function of a batch's activations.

    Raises:
        UserError: a function that cannot be imported, fails, or does not return a score per sample.
    """

    def __init__(self, record: CustomObjective, surroundings: ObjectiveContext) -> None:
        self.name, self.args = record.function, record.args or {}
        self.function = import_planned(record.function, _SETTING, _RETURNS, record.source)
        self.per_channel = _asks_for_channels(self.function)
        self.sizes = (surroundings.layers[0].n_channels if self.per_channel else 1,)
        self._try_out(surroundings.layers[0], surroundings.device)

    @torch.no_grad()
    def _try_out(self, layer: LayerInfo, device: torch.device) -> None:
        """Call the function once, so that what is wrong with it shows before a sweep begins."""
        activation = torch.zeros(8, layer.n_channels, layer.positions, device=device)
        self.responses([activation], torch.zeros(8, dtype=torch.int64, device=device))

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """The score: (B, 1) float32."""
        told = {**self.args, **({"channel": targets} if self.per_channel else {})}
        try:
            score: Any = self.function(activations[0].float(), **told)
        except Exception as error:
            raise UserError(f"{_SETTING}={self.name!r} failed: {error!r}.") from error
        if not isinstance(score, Tensor) or score.shape != targets.shape:
            shape = list(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise UserError(
                f"{_SETTING}={self.name!r} returned {shape} for activations of "
                f"{list(activations[0].shape)}; it must return a tensor of shape "
                f"[{len(targets)}]: a score per sample."
            )
        return score.float()[:, None]


_SETTING = "objective.function"
_RETURNS = "that takes activations (B, C, positions) and returns scores (B,)"


def _asks_for_channels(function: Callable[..., Any]) -> bool:
    try:
        return "channel" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions of C tell nothing
        return False


def with_source(record: Objective) -> Objective:
    """A record that also tells the code which a function of the user's own is made of.

    Raises:
        UserError: the function cannot be imported.
    """
    if not isinstance(record, CustomObjective):
        return record
    function = import_callable(record.function, _SETTING, _RETURNS)
    return replace(record, source=source_digest(function))

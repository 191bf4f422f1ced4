"""Custom objective: a function of the user's own."""

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
    """s = f(a), where f is any differentiable function of a batch's activations.

    Raises:
        UserError: the function cannot be imported, fails, or does not return one score per sample.
    """

    def __init__(self, record: CustomObjective, context: ObjectiveContext) -> None:
        self.name, self.args = record.function, record.args or {}
        self.function = import_planned(record.function, _SETTING, _RETURNS, record.source)
        self.per_channel = _takes_channels(self.function)
        self.sizes = (context.layers[0].n_channels if self.per_channel else 1,)
        self._dry_run(context.layers[0], context.device)

    @torch.no_grad()
    def _dry_run(self, layer: LayerInfo, device: torch.device) -> None:
        """Call the function once, so that its errors appear before the sweep begins."""
        # Eight samples: with one, a function that forgets the batch axis would pass.
        activation = torch.zeros(8, layer.n_channels, layer.positions, device=device)
        self.responses([activation], torch.zeros(8, dtype=torch.int64, device=device))

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the score: (B, 1) float32."""
        arguments = {**self.args, **({"channel": targets} if self.per_channel else {})}
        try:
            score: Any = self.function(activations[0].float(), **arguments)
        except (torch.OutOfMemoryError, MemoryError):  # no mistake: a smaller batch will do
            raise
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


def _takes_channels(function: Callable[..., Any]) -> bool:
    try:
        return "channel" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some C functions have no signature
        return False


def with_source(record: Objective) -> Objective:
    """Return a record that includes the digest of the source of a user's function.

    Raises:
        UserError: the function cannot be imported.
    """
    if not isinstance(record, CustomObjective):
        return record
    function = import_callable(record.function, _SETTING, _RETURNS)
    return replace(record, source=source_digest(function))

"""The contract of the family: from activations to scores.

An `Objective` reads activations of a batch of B samples, a tensor (B, K, L) for each layer that it
is about: K channels, L positions. Sample b is about target number `targets[b]`.
- `responses` are what the target answers at each position, (B, L) float32.
- `score` (B,) is their mean; higher is better. It is what is recorded and stored.
- `climbed` (B,) is what the ascent follows: mostly the score. Where images of a job are to differ,
  or to keep to something, that is added here, so that scores stay comparable.

With V variants per job a batch holds whole jobs, sample b being variant b % V of its job. Only the
variants of one job may look at each other.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find
from layer_atlas.plan.jobs import LayerInfo

Activations = Sequence[Tensor]
"""Of each layer that an objective reads: (B, K, L)."""


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective may need to know before it begins."""

    layers: tuple[LayerInfo, ...]
    """The layers that it reads."""
    activations: Callable[[Tensor], Activations]
    """The network in fp32: images (B, C, H, W) in [0, 1] to activations."""
    find: Find
    """The files that the recipe refers to."""
    colours: int
    size: tuple[int, int]
    """Height and width of the images."""
    device: torch.device


LEAST_COSINE = 0.1
"""Below it a cosine stops counting, so that a gradient leads out of there; lucid does the same."""


def not_yet(images: Tensor) -> Activations:
    """Shows nothing to a network: for plans, which need to know no activations."""
    raise LookupError("no network is at hand while a sweep is planned")


class Objective(ABC):
    """Maps activations to scores."""

    sizes: tuple[int, ...]
    """How many targets there are; for combinations, of each part."""

    @abstractmethod
    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """What each sample's target answers at each position: (B, L) float32."""

    def score(self, activations: Activations, targets: Tensor) -> Tensor:
        """Scores (B,), float32."""
        return self.responses(activations, targets).mean(dim=1)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and what the ascent follows (B,), float32."""
        score = self.score(activations, targets)
        return score, score

    def parts(self, activations: Activations, targets: Tensor) -> Tensor | None:
        """What each part of a target that consists of several answers: (B, parts) float32."""
        return None


def total(values: Tensor) -> Tensor:
    """The sum of each sample's values (B, K, L): (B,).

    Channels first: many times faster than all at once where these lie side by side in memory.
    """
    return values.sum(dim=1).sum(dim=1)


def picked(activation: Tensor, channels: Tensor) -> Tensor:
    """One channel per sample of (B, K, L): (B, L) float32."""
    rows: Tensor = _Picked.apply(activation, channels)
    return rows.float()


class _Picked(torch.autograd.Function):
    """The picking. Its gradient has the activations' own layout."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, channels: Tensor) -> Tensor:
        index = channels[:, None, None].expand(-1, 1, activation.shape[2])
        ctx.save_for_backward(index)
        ctx.template = torch.empty_like(activation, device="meta")
        return activation.gather(1, index).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Any other layout would be converted by every operation on the way back.
        (index,) = ctx.saved_tensors
        gradient = torch.zeros_like(ctx.template, device=grads[0].device)
        return gradient.scatter_(1, index, grads[0].unsqueeze(1)), None


class Signs:
    """Turns responses round where they are to be lowered.

    Args:
        sign: `positive`, `negative`, or `both`: then even samples are raised and odd ones lowered.
    """

    def __init__(self, sign: str, device: torch.device) -> None:
        values = {"positive": [1.0], "negative": [-1.0], "both": [1.0, -1.0]}[sign]
        self.trivial = values == [1.0]
        self.values = torch.tensor(values, device=device)[:, None]

    def __call__(self, responses: Tensor) -> Tensor:
        """Responses (B, L), turned round or not: (B, L)."""
        if self.trivial:
            return responses
        jobs = responses.view(-1, len(self.values), responses.shape[1])
        return (jobs * self.values).flatten(0, 1)


def parts_of(targets: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The channels (B,) of each part of targets (B,) that are combinations, the first part first.

    As `TargetSpace.parts` does it.
    """
    found = []
    for size in reversed(sizes):
        found.append(targets % size)
        targets = targets // size
    return found[::-1]

"""The contract of objectives: functions of activations that return scores.

An `Objective` reads activations of a batch of B samples: for each of its layers a tensor (B, K, L)
of K channels and L positions. Sample b has the target number `targets[b]`.
- `responses` (B, L) float32 are the responses of the target at each position.
- `score` (B,) is their mean; higher is better. It is recorded and stored.
- `surrogate` (B,) is what the optimization maximizes, usually the score. Objectives that make the
  images of a job differ, or keep them close to a reference, add their term here, so that scores
  stay comparable.

An objective about dataset images turns those of each job into `references`. They follow the
activations that `surrogate` is given.

With V variants per job a batch holds whole jobs, sample b being variant b % V of its job. Only the
variants of one job may depend on each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layer_atlas.config import objectives as records
from layer_atlas.config.inputs import Find
from layer_atlas.plan.jobs import LayerInfo

Activations = Sequence[Tensor]
"""Activations of each layer that an objective reads: (B, K, L)."""


@dataclass(frozen=True)
class ObjectiveContext:
    """What an objective may read when it is constructed."""

    layers: tuple[LayerInfo, ...]
    """The layers that it reads."""
    activations: Callable[[Tensor], Activations]
    """The network in fp32: images (B, C, H, W) in [0, 1] to activations."""
    find: Find
    """Resolves the files that the recipe refers to."""
    colours: int
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    device: torch.device


LEAST_COSINE = 0.1
"""Lower bound of cosines, so that the gradient does not vanish below it; lucid does the same."""


def not_yet(images: Tensor) -> Activations:
    """Stand in for the network while a sweep is planned, which needs no activations."""
    raise LookupError("no network is at hand while a sweep is planned")


class Objective:
    """A function of activations that returns scores; by default the mean response of a channel."""

    sizes: tuple[int, ...]
    """Number of targets; for combinations, the number of each part."""

    def __init__(self, record: records.Objective, context: ObjectiveContext) -> None:
        self.sizes = (context.layers[0].n_channels,)

    def responses(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the response of each sample's target at each position: (B, L) float32."""
        return picked(activations[0], targets)

    def score(self, activations: Activations, targets: Tensor) -> Tensor:
        """Return the scores (B,), float32."""
        return self.responses(activations, targets).mean(dim=1)

    def surrogate(self, activations: Activations, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and the values to maximize (B,), float32."""
        score = self.score(activations, targets)
        return score, score

    def references(self, dataset_images: Tensor | None, targets: Tensor) -> tuple[Tensor, ...]:
        """Return what the surrogate compares each job with: tensors with a row per job.

        Args:
            dataset_images: (n, N, C, H, W) in [0, 1], the N strongest of each job's target.
            targets: (n,) int64.
        """
        return ()

    def records(self, references: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what of the references is stored with each job, by name: tensors (n, ...)."""
        return {}

    def parts(self, activations: Activations, targets: Tensor) -> Tensor | None:
        """Return the response of each part of a composite target: (B, parts) float32."""
        return None


def total(values: Tensor) -> Tensor:
    """Sum each sample's values (B, K, L): (B,).

    Channels are summed first: this is many times faster than a joint sum in channels-last layout.
    """
    return values.sum(dim=1).sum(dim=1)


def picked(activation: Tensor, channels: Tensor) -> Tensor:
    """Select one channel per sample of (B, K, L): (B, L) float32."""
    rows: Tensor = _Picked.apply(activation, channels)
    return rows.float()


class _Picked(torch.autograd.Function):
    """Channel selection with a gradient in the layout of the activations."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, channels: Tensor) -> Tensor:
        index = channels[:, None, None].expand(-1, 1, activation.shape[2])
        ctx.save_for_backward(index)
        # A meta tensor keeps shape, dtype and strides without the memory.
        ctx.template = torch.empty_like(activation, device="meta")
        return activation.gather(1, index).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Every operation of the backward pass would convert another layout.
        (index,) = ctx.saved_tensors
        gradient = empty_as(ctx.template, grads[0].device).zero_()
        return gradient.scatter_(1, index, grads[0].unsqueeze(1)), None


def empty_as(template: Tensor, device: torch.device) -> Tensor:
    """Allocate a tensor with shape, strides and dtype of a meta tensor."""
    # Not `torch.empty_like`, which imports sympy for meta tensors: 0.9 s before the first step.
    shape, strides = template.shape, template.stride()
    return torch.empty_strided(shape, strides, dtype=template.dtype, device=device)


class Signs:
    """Negates responses that are to be minimized.

    Args:
        sign: `positive`, `negative`, or `both`, which maximizes even samples and minimizes odd
            ones.
        device: device of the responses.
    """

    def __init__(self, sign: str, device: torch.device) -> None:
        values = {"positive": [1.0], "negative": [-1.0], "both": [1.0, -1.0]}[sign]
        self.trivial = values == [1.0]
        self.values = torch.tensor(values, device=device)[:, None]

    def __call__(self, responses: Tensor) -> Tensor:
        """Return the responses (B, L) with their signs: (B, L)."""
        if self.trivial:
            return responses
        jobs = responses.view(-1, len(self.values), responses.shape[1])
        return (jobs * self.values).flatten(0, 1)


def parts_of(targets: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Split composite targets (B,) into the channels (B,) of each part, first part first.

    It is the inverse of `TargetSpace`'s numbering, like `TargetSpace.parts`.
    """
    # A target is a number in mixed radix whose last digit is the last part.
    channels = []
    for size in reversed(sizes):
        channels.append(targets % size)
        targets = targets // size
    return channels[::-1]

"""Objectives: what the ascent climbs.

The contract of the family: `target(activation, channel)` picks from a batch's activations the
responses that each sample is about; their mean is the sample's score, shape (B,), higher is better.
Sample b reads activation[b] alone.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.recipe import ChannelObjective


class Objective(Protocol):
    """Maps activations to the responses of each sample's target."""

    def target(self, activation: Tensor, channel: Tensor) -> Tensor:
        """(B, C, L) activations and (B,) channel numbers to responses (B, L)."""
        ...

    def score(self, activation: Tensor, channel: Tensor) -> Tensor:
        """(B, C, L) activations and (B,) channel numbers to scores (B,), float32."""
        ...


class ChannelMean:
    """Mean of one channel over all positions: s = mean_l a[channel, l].

    The "channel" objective of Olah et al. 2017, "Feature Visualization", section "Optimization
    objectives".
    """

    def target(self, activation: Tensor, channel: Tensor) -> Tensor:
        """(B, C, L) activations and (B,) channel numbers to responses (B, L), float32."""
        picked: Tensor = _Picked.apply(activation, channel)
        return picked.float()

    def score(self, activation: Tensor, channel: Tensor) -> Tensor:
        """(B, C, L) activations and (B,) channel numbers to scores (B,), float32."""
        return self.target(activation, channel).mean(dim=1)


class _Picked(torch.autograd.Function):
    """One channel per sample of (B, C, L): (B, L). The gradient has the activations' own layout."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor, channel: Tensor) -> Tensor:
        index = channel[:, None, None].expand(-1, 1, activation.shape[2])
        ctx.save_for_backward(index)
        ctx.template = torch.empty_like(activation, device="meta")
        return activation.gather(1, index).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # Any other layout would be converted by every operation on the way back.
        (index,) = ctx.saved_tensors
        gradient = torch.zeros_like(ctx.template, device=grads[0].device)
        return gradient.scatter_(1, index, grads[0].unsqueeze(1)), None


def make_objective(config: ChannelObjective) -> Objective:
    """The objective that a recipe names."""
    return {"channel": ChannelMean}[config.name]()

"""Objectives: what the ascent climbs.

The contract of the family: `target(activation, channel)` picks from a batch's activations the
responses that each sample is about; their mean is the sample's score, shape (B,), higher is better.
Sample b reads activation[b] alone.
"""

from typing import Protocol

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
        rows = torch.arange(len(channel), device=activation.device)
        return activation[rows, channel].float()

    def score(self, activation: Tensor, channel: Tensor) -> Tensor:
        """(B, C, L) activations and (B,) channel numbers to scores (B,), float32."""
        return self.target(activation, channel).mean(dim=1)


def make_objective(config: ChannelObjective) -> Objective:
    """The objective that a recipe names."""
    return {"channel": ChannelMean}[config.name]()

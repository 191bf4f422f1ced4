"""Batches whose size cannot be seen in the results."""

import torch
from torch import Tensor

CPU_BATCH_MULTIPLE = 8
"""On a CPU, batches are filled up to a multiple of this. Matrix products of fewer rows take other
kernels and give other last bits; measured, multiples of 8 always agree with each other."""


def filled_up(n: int, device: torch.device) -> Tensor:
    """Positions 0 to n - 1; the last is repeated to a CPU batch of which no bit depends."""
    lacking = -n % CPU_BATCH_MULTIPLE if device.type == "cpu" else 0
    return torch.arange(n + lacking, device=device).clamp_max(n - 1)

"""Arithmetic settings of the process, and batch sizes that leave no trace in the results."""

import torch
from torch import Tensor


def make_arithmetic_explicit() -> None:
    """fp32 means fp32, and the same kernels every time, whatever the library's defaults."""
    # Attention without gradients would else be of other rounding than with them, and slower, and
    # would not call the modules that it consists of.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


CPU_BATCH_MULTIPLE = 8
"""On a CPU, batches are filled up to a multiple of this. Matrix products of fewer rows take other
kernels and give other last bits; measured, multiples of 8 always agree with each other."""


def filled_up(n: int, device: torch.device) -> Tensor:
    """Positions 0 to n - 1; the last is repeated to a CPU batch of which no bit depends."""
    lacking = -n % CPU_BATCH_MULTIPLE if device.type == "cpu" else 0
    return torch.arange(n + lacking, device=device).clamp_max(n - 1)

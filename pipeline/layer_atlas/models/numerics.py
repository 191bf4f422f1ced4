"""Arithmetic settings of the process, and batch padding that does not affect results."""

import torch
from torch import Tensor


def make_arithmetic_explicit() -> None:
    """Make fp32 mean fp32 and kernels deterministic, whatever the library's defaults."""
    # The fast path of attention runs without gradients only: it rounds differently, is slower, and
    # does not call its submodules, so that their hooks do not fire.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    # Benchmarking picks kernels by timing, and so may differ from run to run.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


CPU_BATCH_MULTIPLE = 8
"""CPU batches are padded to a multiple of this.

Matrix products of fewer rows use other kernels and give other last bits; by measurement, all
multiples of 8 agree with each other.
"""


def filled_up(n: int, device: torch.device) -> Tensor:
    """Return indices 0 to n - 1, on a CPU padded with the last one to a multiple of 8."""
    missing = -n % CPU_BATCH_MULTIPLE if device.type == "cpu" else 0
    return torch.arange(n + missing, device=device).clamp_max(n - 1)

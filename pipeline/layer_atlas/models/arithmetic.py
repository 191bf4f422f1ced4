"""Arithmetic settings of the process."""

import torch


def make_arithmetic_explicit() -> None:
    """fp32 means fp32, and the same kernels every time, whatever the library's defaults."""
    # Attention without gradients would else be of other rounding than with them, and slower, and
    # would not call the modules that it consists of.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True

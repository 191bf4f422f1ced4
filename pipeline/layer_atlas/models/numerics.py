"""Numerics: explicit arithmetic, batch padding that does not affect results, fingerprints.

A fingerprint reduces an activation to a few numbers, comparable over time and across machines. Two
networks with the same weights may compute different things: edited code, another mode, another
version of a library, a faulty device.
"""

import math
from collections.abc import Sequence

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


def filled_up(n: int, device: torch.device, gpu_multiple: int = 1) -> Tensor:
    """Return indices 0 to n - 1, padded with the last one.

    Args:
        n: number of samples.
        device: where they are computed; on a CPU they are padded to a multiple of 8.
        gpu_multiple: what they are padded to a multiple of on a GPU.
    """
    missing = -n % (CPU_BATCH_MULTIPLE if device.type == "cpu" else gpu_multiple)
    return torch.arange(n + missing, device=device).clamp_max(n - 1)


_FREQUENCIES = [math.sqrt(prime) for prime in (2, 3, 5, 7)]
"""Frequencies of the directions: irrational, and none a multiple of another."""

TOLERANCE = 5e-3
"""Bound on the effect of rounding on any device; other causes move some of the numbers by more."""


def fingerprint(activation: Tensor) -> tuple[float, ...]:
    """Return the norm of an activation, and projections of its means relative to the norm.

    Args:
        activation: (B, K, L).
    Returns: the norm, four projections of the means over positions (B, K), and four of the means
        over channels (B, L); empty if the activation is not finite.
    """
    values = activation.detach().float()
    norm = float(values.norm()) / math.sqrt(max(values.numel(), 1))
    if not math.isfinite(norm):
        return ()
    # Both means, because each is blind to a permutation of the axis that it averages.
    means = values.mean(dim=2), values.mean(dim=1)
    projections = (p / max(norm, 1e-30) for mean in means for p in _projections(mean))
    return (norm, *projections)


def _projections(means: Tensor) -> list[float]:
    """Project means onto four waves over all their elements."""
    flat = means.double().cpu().flatten()
    index = torch.arange(len(flat), dtype=torch.float64)
    # Fixed waves instead of random vectors: their values do not depend on torch's generator.
    waves = (torch.cos(2 * math.pi * torch.frac(index * frequency)) for frequency in _FREQUENCIES)
    return [float(flat @ wave) / math.sqrt(len(flat)) for wave in waves]


def is_same(actual: Sequence[float], expected: Sequence[float]) -> bool:
    """Return whether two fingerprints are of the same activation; true where one is missing."""
    if not actual or not expected:
        return True
    norms = math.isclose(actual[0], expected[0], rel_tol=TOLERANCE, abs_tol=1e-12)
    pairs = zip(actual[1:], expected[1:], strict=True)
    return norms and all(abs(left - right) <= TOLERANCE for left, right in pairs)

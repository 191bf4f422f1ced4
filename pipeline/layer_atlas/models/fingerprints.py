"""Fingerprints: a few numbers that an activation comes down to, to compare over time and machines.

Two networks with the same weights may compute different things: edited code, another mode, another
version of a library, a broken device.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_TURNS = [math.sqrt(prime) for prime in (2, 3, 5, 7)]
"""Frequencies of the directions, none of which is a multiple of another."""

TOLERANCE = 5e-3
"""Rounding moves the numbers by less, on any device; anything else moves some of them by more."""


def fingerprint(activation: Tensor) -> tuple[float, ...]:
    """The norm of an activation, and projections of its means relative to that.

    Args:
        activation: (B, K, L).
    Returns: the norm, four projections of the means over positions (B, K), and four of the means
        over channels (B, L); empty if the activation is not finite.
    """
    values = activation.detach().float()
    norm = float(values.norm()) / math.sqrt(max(values.numel(), 1))
    if not math.isfinite(norm):
        return ()
    means = values.mean(dim=2), values.mean(dim=1)
    projections = (p / max(norm, 1e-30) for mean in means for p in _projections(mean))
    return (norm, *projections)


def _projections(means: Tensor) -> list[float]:
    """On four waves over all of some means."""
    flat = means.double().cpu().flatten()
    place = torch.arange(len(flat), dtype=torch.float64)
    waves = (torch.cos(2 * math.pi * torch.frac(place * turn)) for turn in _TURNS)
    return [float(flat @ wave) / math.sqrt(len(flat)) for wave in waves]


def is_same(found: Sequence[float], known: Sequence[float]) -> bool:
    """Whether two fingerprints are of the same activation; where one is missing nobody can say."""
    if not found or not known:
        return True
    norms = math.isclose(found[0], known[0], rel_tol=TOLERANCE, abs_tol=1e-12)
    pairs = zip(found[1:], known[1:], strict=True)
    return norms and all(abs(left - right) <= TOLERANCE for left, right in pairs)

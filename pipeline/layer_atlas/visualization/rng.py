"""Counter-based random numbers: the same draws on any device, in any order, without state.

Philox4x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". A draw is a pure
function of (job key, stream, step, index). A resumed sweep therefore has no generator state to
restore, and the numbers of a sample do not depend on its batch.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

INITIAL, WARP, START, VARIANT, OCTAVE, DIRECTION, POSITION = range(7)
FLIP, PERSPECTIVE, CROP, COLOURS, BLUR, NOISE_SD, NOISE_KEY, CUTOUT = range(16, 24)
"""Streams, one for each use of random numbers."""

NOISE = 2**16
"""First stream of the noisy copies of a dataset image, one stream per copy."""

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_ROUNDS = 10


def keys(job_keys: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """Convert the first 64 bits of each hexadecimal job key to two 32-bit words: (B, 2) int64."""
    words = [[int(key[:8], 16), int(key[8:16], 16)] for key in job_keys]
    return torch.tensor(words, dtype=torch.int64, device=device)


def derived(keys: Tensor, stream: int, number: int) -> Tensor:
    """Derive random keys (B, 2) int64 for another start, variant or octave.

    Number 0 returns the keys themselves.

    Args:
        keys: (B, 2) int64.
        stream: stream of the purpose.
        number: number of the start, variant or octave.
    """
    if number == 0:
        return keys
    return _words(keys, stream, number + 1, 2)[:, number].contiguous()


def step_keys(keys: Tensor, stream: int, steps: int) -> Tensor:
    """Derive random keys for the draws of jobs at each step: (B, steps, 2) int64."""
    return _words(keys, stream, steps, 2)


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Compute four words of 32 random bits per counter.

    Args:
        counter: four int64 tensors that broadcast together, each holding 32-bit words.
        key: two such tensors.
    Returns: four int64 tensors of the broadcast shape, values in [0, 2**32).
    """
    k0, k1 = key
    # Not `torch.broadcast_shapes`, which imports sympy: 0.9 s at the start of every process.
    c0, c1, c2, c3, *_ = torch.broadcast_tensors(*counter, *key)  # type: ignore[no-untyped-call]
    for _ in range(_ROUNDS):
        # int64 products wrap modulo 2**64, which keeps all the required bits. In-place operations
        # on temporaries, because memory bandwidth is the bottleneck.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_and_(_MASK).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (p0 >> 32).bitwise_and_(_MASK).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = p1.bitwise_and_(_MASK), p0.bitwise_and_(_MASK)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def uniform(keys: Tensor, stream: int, steps: int, n: int) -> Tensor:
    """Draw uniform numbers in the open interval (0, 1).

    Args:
        keys: (B, 2) int64 from `keys`.
        stream: stream of the purpose.
        steps: number of steps, counted from 0.
        n: numbers per sample and step.
    Returns: (B, steps, n) float32; entry [b, s, i] depends on keys[b], stream, s and i alone.
    """
    words = _words(keys, stream, steps, n)
    # 23 bits plus one half: exact in float32, never 0 and never 1.
    return ((words >> 9).to(torch.float32) + 0.5) * 2.0**-23


def normal(keys: Tensor, stream: int, n: int) -> Tensor:
    """Draw standard normal numbers by Box and Muller: (B, n) float32 from keys (B, 2)."""
    half = (n + 1) // 2
    u = uniform(keys, stream, 1, 2 * half)[:, 0].double()
    # Logarithm and cosine in double: devices then agree in all but a few of 10**8 roundings.
    radius = torch.sqrt(-2.0 * torch.log(u[:, :half]))
    angle = 2.0 * torch.pi * u[:, half:]
    both = [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.cat([part.float() for part in both], dim=1)[:, :n]


def quick_normal(keys: Tensor, n: int) -> Tensor:
    """Draw standard normal numbers from 65,536 values: (B, n) float32 from keys (B, 2), within 4.3.

    For noise that is drawn per pixel at every step: it takes a fifth of the time of `normal`. 16
    bits select a quantile from a table, so devices agree to the bit.
    """
    words = _words(keys, INITIAL, 1, (n + 1) // 2)[:, 0]
    # Reinterpreting the memory yields two numbers per word without shifts.
    halves = words.to(torch.int32).view(torch.int16)[:, :n]
    return _quantiles(keys.device)[halves.int() + 2**15]


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Standard normal quantiles at the centres of 65,536 equal intervals: (65536,) float32."""
    probabilities = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(probabilities)
    return quantiles.float().to(device)


def _words(keys: Tensor, stream: int, steps: int, n: int) -> Tensor:
    blocks = (n + 3) // 4
    index = torch.arange(blocks, device=keys.device)[None, None, :]
    step = torch.arange(steps, device=keys.device)[None, :, None]
    # Stream and step occupy words of the counter, so that streams never overlap.
    constant = torch.full_like(index, stream)
    key = (keys[:, 0, None, None], keys[:, 1, None, None])
    words = philox((index, step, constant, torch.zeros_like(index)), key)
    return torch.stack(words, dim=-1).reshape(len(keys), steps, 4 * blocks)[..., :n]

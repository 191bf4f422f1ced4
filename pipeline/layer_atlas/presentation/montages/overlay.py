"""Saliency maps drawn over their photographs: what counts keeps its colours, the rest fades."""

import numpy as np
from numpy.typing import NDArray

SMOOTHING = 0.03
"""Standard deviation of the display's smoothing, as a share of the longer side: the maps of single
gradients are speckles, too thin to show a colour through."""

PAPER = 255.0
"""What the photograph fades to."""

FADED = 0.35
"""How much of the grey photograph is left where the map is zero, to see what was there."""


def overlay(pixels: NDArray[np.uint8], saliency: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photograph where the map is strong, a pale grey print of it where not.

    w * photograph + (1 - w) * (FADED * grey + (1 - FADED) * PAPER) with w = s / max s, s being the
    map under a Gaussian and grey the mean of the colours. A map of zeros gives the print alone.
    The smoothing is for display: what is stored is the map as it is.

    Args:
        pixels: (H, W, 3).
        saliency: (H, W).
    Returns: (H, W, 3).
    """
    weight = _weights(saliency)[..., None]
    photograph = pixels.astype(np.float64)
    grey = photograph.mean(axis=2, keepdims=True)
    faded = FADED * grey + (1.0 - FADED) * PAPER
    mixed = weight * photograph + (1.0 - weight) * faded
    rounded: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return rounded


def _weights(saliency: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How much of the photograph shows: (H, W) in [0, 1]; 0 everywhere for a map of zeros."""
    smooth = saliency.astype(np.float64)
    sigma = SMOOTHING * max(saliency.shape)
    for axis in (0, 1):
        smooth = (_gaussian(saliency.shape[axis], sigma) @ smooth).T
    peak = smooth.max()
    return smooth / peak if peak > 0 else smooth


def _gaussian(size: int, sigma: float) -> NDArray[np.float64]:
    """A matrix (size, size) that smooths a column; each row sums to 1, also at the borders."""
    place = np.arange(size)
    kernel = np.exp(-0.5 * ((place[:, None] - place[None, :]) / sigma) ** 2)
    rows: NDArray[np.float64] = kernel / kernel.sum(axis=1, keepdims=True)
    return rows

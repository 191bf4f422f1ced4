"""Which channels of a layer are alike: by what the whole layer answers to their images.

Responses are standardised by channel of the layer, and compared by the cosine, as in figures; but
block by block, so that a layer of any width fits into memory.
"""

from collections.abc import Iterator

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Layer

NEIGHBOURS = 12
SIMILAR = 0.5
"""Cosine from which on channels are called similar: more than half of their standardised responses
point the same way."""
_BLOCK_BYTES = 2**25
_STILL = 1e-6
"""What is spread less does not tell channels apart, and what is shorter has no direction."""


def nearest(layer: Layer, lead: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The channels whose images are answered most alike.

    Args:
        layer: of C channels.
        lead: which seed's image stands for each (C,).
    Returns: rows (C, n), the most similar first and never the channel itself, and cosines (C, n).
    """
    count = len(lead)
    n = min(NEIGHBOURS, count - 1)
    rows, cosines = np.zeros((count, n), np.intp), np.full((count, n), -np.inf, np.float32)
    if n < 1 or "response" not in layer:
        return rows[:, :0], cosines[:, :0]
    responses = _Responses(layer, lead)
    for start, some in responses.blocks():
        mine = slice(start, start + len(some))
        for other_start, others in responses.blocks():
            alike = some @ others.T
            places = np.arange(other_start, other_start + len(others))
            alike[places[None] == np.arange(mine.start, mine.stop)[:, None]] = -np.inf
            _keep_best(rows[mine], cosines[mine], places, alike)
    return rows, cosines


def _keep_best(
    rows: NDArray[np.intp],
    cosines: NDArray[np.float32],
    places: NDArray[np.intp],
    alike: NDArray[np.float32],
) -> None:
    """Put what is better than the worst so far into the rows and cosines, best first."""
    every = np.concatenate([cosines, alike], axis=1)
    names = np.concatenate([rows, np.broadcast_to(places, alike.shape)], axis=1)
    best = np.argsort(-every, axis=1, kind="stable")[:, : rows.shape[1]]
    rows[...] = np.take_along_axis(names, best, axis=1)
    cosines[...] = np.take_along_axis(every, best, axis=1)


class _Responses:
    """Standardised responses of unit length, read in blocks of channels."""

    def __init__(self, layer: Layer, lead: NDArray[np.intp]) -> None:
        self._data: h5py.Dataset = layer.dataset("response")
        self._lead, self._variants = lead, bool(layer.variants)
        width = int(self._data.shape[-1])
        self._rows = max(1, _BLOCK_BYTES // (4 * width))
        self._mean, self._spread = self._moments(width)
        self._whole = self._standard(0, len(lead)) if len(lead) <= self._rows else None

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First row and responses (n, K) of each block."""
        if self._whole is not None:
            yield 0, self._whole
            return
        for start in range(0, len(self._lead), self._rows):
            yield start, self._standard(start, start + self._rows)

    def _moments(self, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each response (K,), of the images that there are."""
        count, total, squares = 0, np.zeros(width), np.zeros(width)
        for start in range(0, len(self._lead), self._rows):
            block = self._raw(start, start + self._rows)
            made = block[np.isfinite(block).all(axis=1)].astype(np.float64)
            count += len(made)
            total += made.sum(axis=0)
            squares += np.square(made).sum(axis=0)
        mean = total / max(count, 1)
        return mean, np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))

    def _standard(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows (n, K) of length 1; zeros where there is no image."""
        raw = self._raw(start, stop)
        made = np.isfinite(raw).all(axis=1, keepdims=True)
        rows = np.where(made, raw - self._mean, 0.0)
        rows = np.divide(rows, self._spread, out=np.zeros_like(rows), where=self._spread > _STILL)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit = np.divide(rows, length, out=np.zeros_like(rows), where=length > _STILL)
        return np.asarray(unit, np.float32)

    def _raw(self, start: int, stop: int) -> NDArray[np.float32]:
        """Responses (n, K) to the images that stand for channels; NaN where there are none."""
        lead = self._lead[start:stop]
        found: NDArray[np.float32] = np.empty((len(lead), self._data.shape[-1]), np.float32)
        for seed in np.unique(lead):
            place = (slice(start, start + len(lead)), int(seed))
            block = self._data[(*place, 0) if self._variants else place]
            found[lead == seed] = block[lead == seed]
        return found

"""What a sheet of evidence shows of one channel: plain arrays and texts, wherever they are from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.drawing import Box
from layer_atlas.config.datasets import MOST_PHOTOGRAPHS

MOST_IMAGES = 3
"""Seeds shown of a channel."""


@dataclass(frozen=True)
class EvidenceRow:
    """What a sheet shows of one channel: k strongest and b weakest photographs of S x S pixels."""

    channel: int
    images: tuple[NDArray[np.uint8] | None, ...]
    """One per seed, (H, W, 3); None where there is none."""
    words: tuple[str, ...]
    """One per seed: its fate if that is to be told (`dead`, `failed`, `missing`), else empty."""
    strongest: NDArray[np.uint8]
    """(k, S, S, 3) in falling order of response."""
    overlays: NDArray[np.uint8] | None
    """(s, S, S, 3) saliency of the first s of the strongest; None: not made."""
    weakest: NDArray[np.uint8]
    """(b, S, S, 3) in rising order of response."""
    boxes: NDArray[np.integer]
    """(k, 4): left, top, right, bottom (right and bottom outside) in pixels of the strongest: the
    receptive field of the largest response. Framed where it is less than the whole."""
    facts: Mapping[str, str]
    """Short names and values for the caption, in order."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.images) <= MOST_IMAGES or len(self.words) != len(self.images):
            raise ValueError(f"a row takes 1 to {MOST_IMAGES} images and a word for each.")
        if max(len(self.strongest), len(self.weakest)) > MOST_PHOTOGRAPHS:
            raise ValueError(f"a row takes at most {MOST_PHOTOGRAPHS} photographs of a kind.")
        if len(self.saliency) > len(self.strongest):
            raise ValueError("a row takes no more overlays than strongest photographs.")
        if self.boxes.shape != (len(self.strongest), 4):
            raise ValueError(f"boxes must be (k, 4) of k photographs, not {self.boxes.shape}.")

    @property
    def saliency(self) -> Sequence[NDArray[np.uint8]]:
        """The overlays, none if none were made."""
        return () if self.overlays is None else tuple(self.overlays)

    @property
    def frames(self) -> list[Box | None]:
        """The part of each of the strongest to be framed, within it; None where it is all."""
        side = self.strongest.shape[1] if len(self.strongest) else 0
        clipped = [tuple(box) for box in self.boxes.clip(0, side).tolist()]
        return [box if box != (0, 0, side, side) else None for box in clipped]

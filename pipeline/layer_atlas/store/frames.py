"""Frames: what arrays from a file must be like before anything is done with them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.store.arrays import Pictures, Stored
from layer_atlas.store.checksummed_file import CorruptFile

Arrays = dict[str, NDArray[Any]]

_OVERHEAD = 2**20
"""Bytes of a file besides its arrays; what packing them may add is at most as much again."""


@dataclass(frozen=True)
class UpTo:
    """A side of an array that may be shorter; sides of one name are equally long."""

    most: int
    name: str


@dataclass(frozen=True)
class Frame:
    """What an array must be like."""

    dtype: str
    shape: tuple[int | UpTo, ...]
    values: range | None = None
    """Of whole numbers: those that there may be; None for any."""
    packed: bool = False
    """Whether it is of pictures, packed one by one."""
    needed: bool = True
    """Whether a file without it is no use."""

    @property
    def largest(self) -> tuple[int, ...]:
        """Shape of the largest such array."""
        return tuple(side.most if isinstance(side, UpTo) else side for side in self.shape)

    @property
    def most_bytes(self) -> int:
        """What that takes."""
        return math.prod(self.largest) * np.dtype(self.dtype).itemsize

    def fits(self, array: Stored, lengths: dict[str, int]) -> bool:
        """Whether an array is like this, as far as can be told without reading it.

        Args:
            array: the array.
            lengths: of sides that are known by their names; others are noted.
        """
        same_type = array.dtype == np.dtype(self.dtype).str
        if not same_type or isinstance(array, Pictures) != self.packed:
            return False
        if len(array.shape) != len(self.shape):
            return False
        return all(
            side <= wanted.most and side == lengths.setdefault(wanted.name, side)
            if isinstance(wanted, UpTo)
            else side == wanted
            for wanted, side in zip(self.shape, array.shape, strict=True)
        )

    def holds(self, array: NDArray[Any]) -> bool:
        """Whether the values of an array can be."""
        values = self.values
        if values is None or not array.size:
            return True
        return len(values) > 0 and values[0] <= array.min() and array.max() <= values[-1]


def most_bytes(frames: Iterable[Frame]) -> int:
    """What a file with the largest such arrays takes at most."""
    return 2 * sum(frame.most_bytes for frame in frames) + _OVERHEAD


def fitting(arrays: Mapping[str, Stored], frames: Mapping[str, Frame]) -> dict[str, Stored]:
    """The arrays that have a frame, once it is clear that they fit it; none is read.

    Raises:
        CorruptFile: one does not, or one that is needed is not there.
    """
    for name, frame in frames.items():
        if frame.needed and name not in arrays:
            raise CorruptFile(f"there is no array {name!r}")
    found = {name: arrays[name] for name in frames if name in arrays}
    lengths: dict[str, int] = {}
    for name, array in found.items():
        if not frames[name].fits(array, lengths):
            raise CorruptFile(f"array {name!r} is {array.dtype} {list(array.shape)}")
    return found


def read_arrays(arrays: Mapping[str, Stored], frames: Mapping[str, Frame]) -> Arrays:
    """Read arrays that fit their frames.

    Raises:
        CorruptFile: a number is out of range, or pictures cannot be unpacked.
    """
    read: Arrays = {}
    for name, array in arrays.items():
        try:
            read[name] = array.read()
        except ValueError as error:
            raise CorruptFile(f"array {name!r}: {error}") from error
        if not frames[name].holds(read[name]):
            raise CorruptFile(f"array {name!r} holds numbers that cannot be")
    return read

"""Where arrays lie in a file: a table of their places, and reading by it alone.

Arrays are written as HDF5, for every tool that knows it. They are read without the HDF5 library: it
follows links into other files, makes as much memory as a file asks for, and crashes or hangs on a
file that was made to that end. A table holds nothing but numbers, which can be checked.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

DTYPES = frozenset({"|u1", "<i4", "<i8", "<f4", "<f8"})
"""Types of numbers that files hold."""

PICTURE_FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
"""How pictures are packed, one to a chunk; the atlas packs them alike."""

_MOST_AXES = 16

_CHECKSUM_BYTES = 4
"""Behind what is packed."""


@dataclass(frozen=True)
class Numbers:
    """An array that lies in a file as it is."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    body: memoryview

    @property
    def n_bytes(self) -> int:
        """What it takes in the file."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def read(self) -> NDArray[Any]:
        """The array."""
        count = math.prod(self.shape)
        flat = np.frombuffer(self.body, self.dtype, count, self.start if count else 0)
        return flat.reshape(self.shape).copy()


@dataclass(frozen=True)
class Pictures:
    """An array of pictures (n, ..., *picture) of bytes, each packed by itself."""

    dtype: str
    shape: tuple[int, ...]
    places: NDArray[np.int64]
    """(pictures, 2) where each begins, and how long it is."""
    body: memoryview

    @property
    def n_bytes(self) -> int:
        """What it takes in the file."""
        return int(self.places[:, 1].sum())

    @property
    def picture_bytes(self) -> int:
        """Of one picture."""
        return math.prod(self.shape) // max(len(self.places), 1)

    def check(self) -> None:
        """Make sure that all of them can be unpacked; raises ValueError."""
        for start, length in self.places.tolist():
            unpacked(bytes(self.body[start : start + length]), self.picture_bytes)

    def packed(self, row: int) -> Iterator[bytes]:
        """The pictures of a row, in order, as they lie in the file.

        Raises:
            IndexError: there is no such row.
        """
        each = len(self.places) // self.shape[0]
        for start, length in self.places.reshape(self.shape[0], each, 2)[row].tolist():
            yield bytes(self.body[start : start + length])

    def row(self, row: int) -> NDArray[np.uint8]:
        """The pictures of a row (..., *picture).

        Raises:
            ValueError: they are not what the table says.
        """
        flat = b"".join(unpacked(p, self.picture_bytes) for p in self.packed(row))
        return np.frombuffer(flat, np.uint8).reshape(self.shape[1:]).copy()

    def read(self) -> NDArray[np.uint8]:
        """All of them. Raises ValueError: they are not what the table says."""
        rows = [self.row(row) for row in range(self.shape[0])]
        return np.stack(rows) if rows else np.zeros(self.shape, np.uint8)


Stored = Numbers | Pictures


def unpacked(picture: bytes, size: int) -> bytes:
    """The bytes of a packed picture.

    Raises:
        ValueError: they are not `size`, or HDF5 would not read them.
    """
    packed, checksum = picture[:-_CHECKSUM_BYTES], picture[-_CHECKSUM_BYTES:]
    if fletcher32(packed) != checksum:
        raise ValueError("the checksum of a picture is wrong")
    stream = zlib.decompressobj()
    try:
        # No more than asked for is unpacked, whatever there is.
        pixels = stream.decompress(packed, size)
        rest = stream.decompress(stream.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(f"a picture cannot be unpacked: {error}") from error
    if len(pixels) != size or rest or not stream.eof:
        raise ValueError(f"a packed picture is not of {size} bytes")
    return pixels


def fletcher32(data: bytes) -> bytes:
    """The checksum that HDF5 puts behind a chunk: sums of its 16-bit words, modulo 65,535."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2")
    low = high = 0
    for start in range(0, len(words), len(_WEIGHTS)):
        block = words[start : start + len(_WEIGHTS)].astype(np.float64)
        high += low * len(block) + int(_WEIGHTS[len(_WEIGHTS) - len(block) :] @ block)
        low += int(block.sum())
    # What is a multiple of 65,535 is told as that, and only nothing but zeros as 0.
    low, high = ((total - 1) % 0xFFFF + 1 if total else 0 for total in (low, high))
    return (high << 16 | low).to_bytes(_CHECKSUM_BYTES, "little")


_WEIGHTS = np.arange(2**16, 0, -1, dtype=np.float64)
"""How often each word of a block counts; in floats, which multiply faster and here are exact."""


# --- writing -------------------------------------------------------------------------------------


def write_pictures(file: h5py.Group, name: str, pictures: NDArray[np.uint8], axes: int) -> None:
    """Write an array of pictures, which are its last axes, packed one by one."""
    chunks = (1,) * (pictures.ndim - axes) + pictures.shape[-axes:]
    file.create_dataset(name, data=pictures, chunks=chunks, **PICTURE_FILTERS)


def table_of(file: h5py.File) -> dict[str, Any]:
    """The table of a file that was just written, as plain data."""
    file.flush()  # till then nothing has its place
    return {name: _entry(dataset) for name, dataset in file.items()}


def _entry(dataset: h5py.Dataset) -> dict[str, Any]:
    told = {"dtype": dataset.dtype.str, "shape": list(dataset.shape)}
    if dataset.dtype.str not in DTYPES:
        raise TypeError(f"{dataset.name} has type {dataset.dtype}, not one of {sorted(DTYPES)}")
    if dataset.chunks is None:
        return {**told, "start": dataset.id.get_offset() or 0}
    chunks = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
    chunks.sort(key=lambda chunk: chunk.chunk_offset)
    return {**told, "packed": [[chunk.byte_offset, chunk.size] for chunk in chunks]}


# --- reading -------------------------------------------------------------------------------------


def read_table(table: Mapping[str, Any], body: memoryview) -> dict[str, Stored]:
    """The arrays of a table, not yet read.

    Args:
        table: plain data from a file.
        body: what its places count in.
    Raises:
        ValueError: it is no table, or what it tells cannot lie in so many bytes.
    """
    try:
        arrays = {name: _stored(entry, body) for name, entry in table.items()}
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no table of arrays: {error!r}") from error
    # Arrays that share their bytes would be larger than any file.
    if sum(array.n_bytes for array in arrays.values()) > len(body):
        raise ValueError("the arrays are larger than the file")
    return arrays


def _stored(entry: Mapping[str, Any], body: memoryview) -> Stored:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    sides = len(shape) <= _MOST_AXES and all(type(side) is int and side >= 0 for side in shape)
    if dtype not in DTYPES or not sides:
        raise ValueError(f"an array of {dtype!r} and shape {shape}")
    if "packed" in entry and dtype == "|u1":
        return _pictures(shape, entry["packed"], body)
    array = Numbers(dtype, shape, entry["start"], body)
    if type(array.start) is not int or not 0 <= array.start <= len(body) - array.n_bytes:
        raise ValueError("an array lies beyond the file")
    return array


def _pictures(shape: tuple[int, ...], packed: list[list[int]], body: memoryview) -> Pictures:
    places = np.asarray(packed, np.int64).reshape(len(packed), 2)
    starts, lengths = places.T
    if (places < 0).any() or (lengths > len(body) - starts).any():
        raise ValueError("a picture lies beyond the file")
    n, size = len(places), math.prod(shape)
    even = size == 0 if n == 0 else bool(shape) and n % max(shape[0], 1) == size % n == 0 < size
    if not even:
        raise ValueError(f"{n} pictures of shape {shape}")
    return Pictures("|u1", shape, places, body)

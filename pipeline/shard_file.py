"""One shard as one sealed file; its header says whose jobs are inside."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline import sealed_file
from pipeline.jobs import STATUS, Shard, ShardResult
from pipeline.records import canonical_json
from pipeline.sealed_file import CorruptFile

SCHEMA = "layer-atlas-shard/1"

PICTURES = {"image": 3, "snapshot": 3, "alpha": 2}
"""Arrays of pictures, and how many axes each picture has: they are stored one to a chunk."""

IMAGE_FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
"""How images are packed, one image to a chunk; the atlas packs them alike."""


@dataclass(frozen=True)
class Header:
    """Whose jobs a shard file holds."""

    series: str
    channels: tuple[int, ...]
    user_block: int


def encode(shard: Shard, result: ShardResult) -> bytes:
    """The bytes of a shard file."""

    def fill(file: h5py.File) -> None:
        file.attrs["identity"] = canonical_json(shard.series.identity)
        file.attrs["facts"] = canonical_json(result.facts)
        for name, array in result.arrays.items():
            if name in PICTURES:
                chunks = (1,) * (array.ndim - PICTURES[name]) + array.shape[-PICTURES[name] :]
                file.create_dataset(name, data=array, chunks=chunks, **IMAGE_FILTERS)
            else:
                file[name] = array
        file["status"].attrs["meaning"] = canonical_json(STATUS)

    header = {"schema": SCHEMA, "series": shard.series.key, "channels": shard.channels}
    return sealed_file.seal(header, fill)


def read_header(data: bytes) -> Header:
    """Parse the header at the beginning of a shard file; raises CorruptFile."""
    return _header(sealed_file.read_header(data, SCHEMA))


def _header(values: dict[str, Any]) -> Header:
    try:
        return Header(str(values["series"]), tuple(values["channels"]), int(values["user_block"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"no readable header: {error}") from error


def decode(data: bytes, pictures: bool = True) -> tuple[Header, ShardResult]:
    """Check the digest of a shard file and read it.

    Args:
        data: the file.
        pictures: whether to read the pictures too, which are nearly all of it.
    Raises:
        CorruptFile: the digest does not match, or what it covers cannot be read.
    """
    without = () if pictures else PICTURES
    values, arrays, attributes = sealed_file.unseal(data, SCHEMA, without)
    try:
        facts = json.loads(str(attributes["facts"]))
    except (KeyError, ValueError) as error:
        raise CorruptFile(f"no readable facts: {error}") from error
    return _header(values), ShardResult(arrays, facts)


def pictures_of(data: bytes, name: str, rows: Iterable[int]) -> Iterator[NDArray[np.uint8]]:
    """An array of pictures in a checked shard file, job by job: never all of it in memory.

    Args:
        data: the file.
        name: of the array.
        rows: of which jobs.
    """
    with h5py.File(io.BytesIO(data), "r") as file:
        for row in rows:
            yield file[name][row]


def packed_pictures(
    data: bytes, name: str, rows: Iterable[int]
) -> Iterator[tuple[int, tuple[int, ...], bytes]]:
    """Pictures of some jobs, packed as they are: one chunk of `IMAGE_FILTERS` each.

    Args:
        data: a checked shard file.
        name: of the array.
        rows: of which jobs.
    Returns: the row of each picture, where among the other axes it begins, and its bytes.
    """
    with h5py.File(io.BytesIO(data), "r") as file:
        pictures = file[name]
        many = pictures.shape[1 : -PICTURES[name]]
        for row in rows:
            for place in np.ndindex(many):
                corner = (*place, *(0,) * PICTURES[name])
                yield row, corner, bytes(pictures.id.read_direct_chunk((row, *corner))[1])


def check(data: bytes) -> Header:
    """Check the digest of a shard file; raises CorruptFile."""
    return _header(sealed_file.check(data, SCHEMA))

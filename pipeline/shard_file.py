"""One shard as one sealed file; its header says whose jobs are inside."""

import io
import json
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

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


def decode(data: bytes) -> tuple[Header, ShardResult]:
    """Check the digest of a shard file and read it.

    Raises:
        CorruptFile: the digest does not match, or what it covers cannot be read.
    """
    values, arrays, attributes = sealed_file.unseal(data, SCHEMA)
    try:
        facts = json.loads(str(attributes["facts"]))
    except (KeyError, ValueError) as error:
        raise CorruptFile(f"no readable facts: {error}") from error
    return _header(values), ShardResult(arrays, facts)


def packed_pictures(data: bytes, name: str) -> list[tuple[tuple[int, ...], bytes]]:
    """Pictures of a checked shard file, packed as they are: one chunk of `IMAGE_FILTERS` each.

    Args:
        data: the file.
        name: of the array.
    Returns: where in the array each begins, row first, and its bytes.
    """
    with h5py.File(io.BytesIO(data), "r") as file:
        pictures = file[name]
        many = pictures.shape[: -PICTURES[name]]
        corners = [(*place, *(0,) * PICTURES[name]) for place in np.ndindex(many)]
        return [(c, bytes(pictures.id.read_direct_chunk(c)[1])) for c in corners]


def check(data: bytes) -> Header:
    """Check the digest of a shard file; raises CorruptFile."""
    return _header(sealed_file.check(data, SCHEMA))

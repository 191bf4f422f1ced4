"""One shard as one HDF5 file that carries its own digest.

The file opens with an HDF5 user block, which every HDF5 tool skips: a line of JSON that says whose
jobs are inside, a line with the SHA-256 of the whole file (counted with that digest as zeros), then
padding. So the header of a shard is read without touching HDF5, and a changed byte anywhere is seen
before the HDF5 library gets to parse it.
"""

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from pipeline.jobs import STATUS, Shard, ShardResult
from pipeline.records import canonical_json

SCHEMA = "layer-atlas-shard/1"
HEADER_BYTES = 64 * 1024
"""Enough of a file to hold any header: a shard of some 10,000 channels."""

IMAGE_FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
"""How images are packed, one image to a chunk; the atlas packs them alike."""

_ZEROS = b"0" * 64


class CorruptShard(Exception):
    """The bytes are not those that were committed."""


@dataclass(frozen=True)
class Header:
    """Whose jobs a shard file holds."""

    series: str
    channels: tuple[int, ...]
    user_block: int


def encode(shard: Shard, result: ShardResult) -> bytes:
    """The bytes of a shard file."""
    user_block = 512
    while True:
        header = {"schema": SCHEMA, "series": shard.series.key, "channels": shard.channels}
        first_line = canonical_json({**header, "user_block": user_block}).encode() + b"\n"
        block = first_line + b"sha256 " + _ZEROS + b"\n"
        if len(block) <= user_block:
            break
        user_block *= 2
    data = block.ljust(user_block, b" ") + _hdf5(shard, result, user_block)[user_block:]
    return data.replace(_ZEROS, hashlib.sha256(data).hexdigest().encode(), 1)


def _hdf5(shard: Shard, result: ShardResult, user_block: int) -> bytes:
    # Built in memory: on a full disk the HDF5 library may take the process down with it.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=user_block) as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["identity"] = canonical_json(shard.series.identity)
        file.attrs["facts"] = canonical_json(result.facts)
        for name, array in result.arrays.items():
            if name == "image":
                file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), **IMAGE_FILTERS)
            else:
                file[name] = array
        file["status"].attrs["meaning"] = canonical_json(STATUS)
    return buffer.getvalue()


def read_header(data: bytes) -> Header:
    """Parse the header at the beginning of a shard file.

    Raises:
        CorruptShard: there is none.
    """
    try:
        values = json.loads(data[: data.index(b"\n")])
        if values["schema"] != SCHEMA:
            raise ValueError(f"schema {values['schema']!r}")
        return Header(str(values["series"]), tuple(values["channels"]), int(values["user_block"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptShard(f"no readable header: {error}") from error


def decode(data: bytes) -> tuple[Header, ShardResult]:
    """Check the digest of a shard file and read it.

    Raises:
        CorruptShard: the digest does not match, or what it covers cannot be read.
    """
    header = check(data)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            arrays = {name: np.asarray(file[name]) for name in file}
            facts = json.loads(str(file.attrs["facts"]))
    except (OSError, KeyError, ValueError) as error:
        raise CorruptShard(f"unreadable HDF5: {error}") from error
    return header, ShardResult(arrays, facts)


def packed_images(data: bytes) -> list[bytes]:
    """The images of a checked shard file, packed as they are: one chunk of `IMAGE_FILTERS` each."""
    with h5py.File(io.BytesIO(data), "r") as file:
        images = file["image"]
        corners = [(row, 0, 0, 0) for row in range(len(images))]
        return [bytes(images.id.read_direct_chunk(corner)[1]) for corner in corners]


def check(data: bytes) -> Header:
    """Check the digest of a shard file; raises CorruptShard."""
    header = read_header(data)
    start = data.index(b"\n") + len(b"\nsha256 ")
    stated = data[start : start + 64]
    # Spliced rather than replaced: only this one place may differ from what was hashed.
    actual = hashlib.sha256(data[:start] + _ZEROS + data[start + 64 :]).hexdigest().encode()
    if stated != actual:
        raise CorruptShard("the digest does not match the content")
    return header

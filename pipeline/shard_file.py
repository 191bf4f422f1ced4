"""One shard as one sealed file; its header says whose jobs are inside."""

import io
import json
from dataclasses import dataclass
from typing import Any

import h5py

from pipeline import sealed_file
from pipeline.jobs import STATUS, Shard, ShardResult
from pipeline.records import canonical_json
from pipeline.sealed_file import CorruptFile

SCHEMA = "layer-atlas-shard/1"

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
            if name in ("image", "alpha"):
                file.create_dataset(name, data=array, chunks=(1, *array.shape[1:]), **IMAGE_FILTERS)
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


def packed_images(data: bytes) -> list[bytes]:
    """The images of a checked shard file, packed as they are: one chunk of `IMAGE_FILTERS` each."""
    with h5py.File(io.BytesIO(data), "r") as file:
        images = file["image"]
        corners = [(row, 0, 0, 0) for row in range(len(images))]
        return [bytes(images.id.read_direct_chunk(corner)[1]) for corner in corners]


def check(data: bytes) -> Header:
    """Check the digest of a shard file; raises CorruptFile."""
    return _header(sealed_file.check(data, SCHEMA))

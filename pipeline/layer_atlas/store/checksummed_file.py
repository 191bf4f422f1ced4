"""Arrays as one file that carries its own digest.

The file opens with three lines: JSON that says what is inside, the SHA-256 of the whole file
(counted with that digest as zeros), and JSON that says where each array lies. Padding follows, then
an HDF5 file with the arrays: what stands before it is what HDF5 calls a user block, which every
HDF5 tool skips. So the header is read from the first bytes alone, and a changed byte anywhere is
seen.

A digest is no signature: whoever makes a file can seal it. So a file is read as its third line says
(`stored`), within its own bytes, and nothing in it is believed.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import h5py

from layer_atlas.config.records import canonical_json, parse_object
from layer_atlas.store.arrays import Stored, read_table, table_of

HEADER_BYTES = 64 * 1024
"""Enough of a file to hold any header: a shard of some 10,000 channels."""

_ZEROS = b"0" * 64


class CorruptFile(Exception):
    """The bytes are not those that were committed, or not of what they should be."""


@dataclass(frozen=True)
class Sealed:
    """A file whose digest is right."""

    header: dict[str, Any]
    arrays: dict[str, Stored]
    """Not yet read; what is read of them is within the file, but may be anything."""


def seal(header: Mapping[str, Any], fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of a file.

    Args:
        header: what the file is; `schema` says of which kind.
        fill: writes the arrays: numbers as they are, and pictures by `write_pictures`.
    """
    hdf5, arrays = _hdf5(header, fill)
    table = canonical_json(arrays).encode() + b"\n"
    user_block = 512
    while len(opening(header, user_block) + table) > user_block:
        user_block *= 2
    return stamped((opening(header, user_block) + table).ljust(user_block, b" ") + hdf5)


def opening(header: Mapping[str, Any], user_block: int) -> bytes:
    """The first two lines of a file; its digest is yet to be put in."""
    line = canonical_json({**header, "user_block": user_block}).encode()
    return line + b"\nsha256 " + _ZEROS + b"\n"


def stamped(data: bytes) -> bytes:
    """A file with the digest that it should have, whatever it had."""
    start = _digest_place(data)
    stated = _digest(data, start).encode()
    return data[:start] + stated + data[start + len(stated) :]


def _digest_place(data: bytes) -> int:
    return data.index(b"\n") + len(b"\nsha256 ")


def _digest(data: bytes, start: int) -> str:
    # Only this one place is not as it is in the file; piece by piece, without a copy of it all.
    sha = hashlib.sha256(data[:start] + _ZEROS)
    sha.update(memoryview(data)[start + len(_ZEROS) :])
    return sha.hexdigest()


def _hdf5(
    header: Mapping[str, Any], fill: Callable[[h5py.File], None]
) -> tuple[bytes, dict[str, Any]]:
    # Built in memory: on a full disk the HDF5 library may take the process down with it.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["schema"] = header["schema"]
        fill(file)
        table = table_of(file)
    return buffer.getvalue(), table


def read_header(data: bytes, schema: str) -> dict[str, Any]:
    """Parse the header at the beginning of a file.

    Raises:
        CorruptFile: there is none of this schema.
    """
    try:
        values = parse_object(data[: data.index(b"\n")])
        if values.get("schema") != schema:
            raise ValueError(f"schema {values.get('schema')!r}")
    except ValueError as error:
        raise CorruptFile(f"no readable header: {error}") from error
    return values


def check(data: bytes, schema: str) -> dict[str, Any]:
    """Check the digest of a file; returns its header. Raises CorruptFile."""
    header = read_header(data, schema)
    start = _digest_place(data)
    if data[start : start + len(_ZEROS)] != _digest(data, start).encode():
        raise CorruptFile("the digest does not match the content")
    return header


def unseal(data: bytes, schema: str) -> Sealed:
    """Check a file and see what is in it.

    Args:
        data: the file.
        schema: of which kind it must be.
    Raises:
        CorruptFile: the digest does not match, or what it covers is no such file.
    """
    header = check(data, schema)
    try:
        line = data.index(b"\n", _digest_place(data)) + 1
        table = parse_object(data[line : data.index(b"\n", line)])
        body = memoryview(data)[_user_block(header) :]
        return Sealed(header, read_table(table, body))
    except ValueError as error:
        raise CorruptFile(f"unreadable: {error}") from error


def _user_block(header: dict[str, Any]) -> int:
    size = header.get("user_block")
    if type(size) is not int or size < 0:
        raise ValueError(f"user_block {size!r}")
    return size

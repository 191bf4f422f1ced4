"""Arrays as one HDF5 file that carries its own digest.

The file opens with an HDF5 user block, which every HDF5 tool skips: a line of JSON that says what
is inside, a line with the SHA-256 of the whole file (counted with that digest as zeros), then
padding. So the header is read without touching HDF5, and a changed byte anywhere is seen before the
HDF5 library gets to parse it.
"""

import hashlib
import io
import json
from collections.abc import Callable, Container, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.records import canonical_json

HEADER_BYTES = 64 * 1024
"""Enough of a file to hold any header: a shard of some 10,000 channels."""

_ZEROS = b"0" * 64


class CorruptFile(Exception):
    """The bytes are not those that were committed."""


def seal(header: Mapping[str, Any], fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of a file.

    Args:
        header: what the file is; `schema` says of which kind.
        fill: writes the contents.
    """
    user_block = 512
    while len(opening(header, user_block)) > user_block:
        user_block *= 2
    block = opening(header, user_block).ljust(user_block, b" ")
    return stamped(block + _hdf5(header, fill, user_block)[user_block:])


def opening(header: Mapping[str, Any], user_block: int) -> bytes:
    """The two lines that a file opens with; its digest is yet to be put in."""
    line = canonical_json({**header, "user_block": user_block}).encode()
    return line + b"\nsha256 " + _ZEROS + b"\n"


def stamped(data: bytes) -> bytes:
    """A file whose digest is zeros, with its digest."""
    start = _digest_place(data)
    stated = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + stated + data[start + len(stated) :]


def _digest_place(data: bytes) -> int:
    return data.index(b"\n") + len(b"\nsha256 ")


def _hdf5(header: Mapping[str, Any], fill: Callable[[h5py.File], None], user_block: int) -> bytes:
    # Built in memory: on a full disk the HDF5 library may take the process down with it.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=user_block) as file:
        file.attrs["schema"] = header["schema"]
        fill(file)
    return buffer.getvalue()


def read_header(data: bytes, schema: str) -> dict[str, Any]:
    """Parse the header at the beginning of a file.

    Raises:
        CorruptFile: there is none of this schema.
    """
    try:
        values = json.loads(data[: data.index(b"\n")])
        if values["schema"] != schema:
            raise ValueError(f"schema {values['schema']!r}")
        return dict(values)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptFile(f"no readable header: {error}") from error


def check(data: bytes, schema: str) -> dict[str, Any]:
    """Check the digest of a file; returns its header. Raises CorruptFile."""
    header = read_header(data, schema)
    start = _digest_place(data)
    stated = data[start : start + 64]
    # Only this one place may differ from what was hashed; piece by piece, without a copy of it all.
    sha = hashlib.sha256(data[:start] + _ZEROS)
    sha.update(memoryview(data)[start + 64 :])
    if stated != sha.hexdigest().encode():
        raise CorruptFile("the digest does not match the content")
    return header


def unseal(
    data: bytes, schema: str, without: Container[str] = ()
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, Any]]:
    """Check a file and read it: its header, arrays and attributes.

    Args:
        data: the file.
        schema: of which kind it must be.
        without: names of arrays that are not needed.
    Raises:
        CorruptFile: the digest does not match, or what it covers cannot be read.
    """
    header = check(data, schema)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            names = [name for name in file if name not in without]
            return header, {name: np.asarray(file[name]) for name in names}, dict(file.attrs)
    except (OSError, KeyError, ValueError) as error:
        raise CorruptFile(f"unreadable HDF5: {error}") from error

"""Files of an output folder: written whole or not at all, read up to a size, arrays with a digest.

A checksummed file holds arrays in the safetensors format: a length (8 bytes), a JSON header of that
length, and the bytes of the arrays back to back, as every safetensors tool reads them. The header
begins with `__metadata__`: first the SHA-256 digest, which so lies at the same place of every file,
then the schema and the record.

The digest covers the whole file, with its own 64 digits counted as zeros. It detects damage, not
forgery: anybody can compute one. So the reader trusts no file. It bounds the header, accepts only
arrays that lie back to back and fill the file, and checks dtypes, shapes and values against specs.
"""

import contextlib
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from layer_atlas.config.records import canonical_json, parse_object
from layer_atlas.errors import StorageError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    with written_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing; it appears under its name when the block ends without an error.

    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    # Unique, as several processes may write one file; cut, as names have a largest length.
    temporary = path.parent / f".{path.name[:40]}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            # Before the rename: the name must never lead to data that a power cut loses.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        # The new name is in the folder, which is a file of its own to the disk.
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. Raises StorageError."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename a corrupt file, so that it counts as not done; nothing is deleted."""
    aside = path.with_name(f"{path.name}.corrupt-{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.rename(aside)
    return aside


@contextlib.contextmanager
def aside_if_corrupt(path: Path) -> Iterator[None]:
    """Set a file aside if reading it raises CorruptFile, and name it in the error."""
    try:
        yield
    except CorruptFile as error:
        set_aside(path)
        raise CorruptFile(f"{path}: {error}") from error


def read_at_most(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes.

    Raises:
        CorruptFile: it is longer; then nothing is read.
        OSError: it does not exist or cannot be read.
    """
    with open(path, "rb") as file:
        # Of the open file, as the path may lead to another one by now.
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise CorruptFile(f"the file is longer than {most} bytes, the most that it can have")
        return file.read(size)


def read_object(path: Path, most: int = 2**24) -> dict[str, Any]:
    """Read a JSON object from a file, whoever wrote it.

    Args:
        path: the file.
        most: largest size in bytes; a longer file is not read.
    Raises:
        ValueError: it is longer, or no JSON object.
        OSError: it does not exist or cannot be read.
    """
    try:
        return parse_object(read_at_most(path, most))
    except CorruptFile as error:
        raise ValueError(str(error)) from error


def read_checked(
    path: Path, schema: str, specs: Mapping[str, "ArraySpec"]
) -> tuple[dict[str, Any], "Arrays"]:
    """Read the record of a checksummed file, and its arrays that have a spec.

    Raises:
        CorruptFile: the file is damaged, or its arrays do not conform.
        OSError: it does not exist or cannot be read.
    """
    file = decode(read_at_most(path, largest_file(specs.values())), schema)
    return file.record, conforming(file.arrays, specs)


Arrays = dict[str, NDArray[Any]]

Part = bytes | memoryview
"""Neighbouring bytes of a file."""

HEADER_BYTES = 2**20
"""Largest header. Names of layers and types of modules may take hundreds of kilobytes of it."""

_DTYPES = {"U8": "|u1", "I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
"""Dtypes of arrays in files: the format's names, and numpy's."""

_OPENING = b'{"__metadata__":{"sha256":"'
_LENGTH = 8
_ZEROS = b"0" * 64
_DIGEST = slice(_LENGTH + len(_OPENING), _LENGTH + len(_OPENING) + len(_ZEROS))

_MOST_AXES = 16

_SPARE_BYTES = 2**20
"""Room in a file for its header, and for arrays that no spec names."""


class CorruptFile(Exception):
    """The bytes are not those that were committed, or do not hold what they must."""


@dataclass(frozen=True)
class ChecksummedFile:
    """A file whose digest is right."""

    record: dict[str, Any]
    """Plain data about the file, unchecked."""
    arrays: Arrays
    """Read-only views into the bytes of the file, not yet checked against any spec."""


# --- writing -------------------------------------------------------------------------------------


def encode(schema: str, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Serialize arrays and a record; equal contents give equal bytes.

    Args:
        schema: kind and version of the file.
        record: plain data about it.
        arrays: of the dtypes that files hold.
    Raises:
        TypeError: an array has another dtype.
        ValueError: the header is too long for any reader.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    # Widest dtypes first, as the safetensors library orders them: this aligns every array.
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    table, end = {}, 0
    for name, array in ordered:
        if array.dtype.str not in names:
            raise TypeError(f"array {name!r} is {array.dtype}, not one of {sorted(names)}")
        start, end = end, end + array.nbytes
        dtype, shape = names[array.dtype.str], array.shape
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
    metadata = {"sha256": _ZEROS.decode(), "schema": schema, "record": canonical_json(record)}
    header = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":")).encode()
    header = header.ljust(math.ceil(len(header) / _LENGTH) * _LENGTH)
    if len(header) > HEADER_BYTES:
        raise ValueError(f"a header of {len(header)} bytes; readers accept {HEADER_BYTES}")
    opening = len(header).to_bytes(_LENGTH, "little") + header
    # The arrays themselves: every copy of a shard's images costs as much as writing them.
    parts: list[Part] = [opening, *(np.ravel(array).data for _, array in ordered)]
    return b"".join([opening[: _DIGEST.start], _digest(parts), *_behind_digest(parts)])


def stamped(data: bytes) -> bytes:
    """Return a file with the right digest, whatever digest it had."""
    return b"".join([data[: _DIGEST.start], _digest([data]), *_behind_digest([data])])


def _digest(parts: Sequence[Part]) -> bytes:
    """Compute the digest of a file in parts, the first of which has the place of the digest."""
    sha = hashlib.sha256(memoryview(parts[0])[: _DIGEST.start])
    sha.update(_ZEROS)
    for part in _behind_digest(parts):
        sha.update(part)
    return sha.hexdigest().encode()


def _behind_digest(parts: Sequence[Part]) -> Iterator[Part]:
    """Yield what follows the digest in a file."""
    yield memoryview(parts[0])[_DIGEST.stop :]
    yield from parts[1:]


# --- reading -------------------------------------------------------------------------------------


def decode(data: bytes, schema: str) -> ChecksummedFile:
    """Check the digest of a file, and find its arrays.

    Args:
        data: the file.
        schema: the kind and version that it must have.
    Raises:
        CorruptFile: the digest does not match, or the content is no file of this schema.
    """
    # First of all: damage must not reach the parser of the header.
    if data[_DIGEST] != _digest([data]):
        raise CorruptFile("the digest does not match the content")
    start = _LENGTH + _header_length(data[:_LENGTH])
    header, record = _parse_header(data[_LENGTH:start], schema)
    del header["__metadata__"]
    try:
        return ChecksummedFile(record, _arrays(header, memoryview(data)[start:]))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CorruptFile("the header describes no arrays of this file") from error


def read_record(path: Path, schema: str) -> dict[str, Any]:
    """Read the record of a file from its header alone; the digest is not checked.

    Raises:
        CorruptFile: the header is not that of a file of this schema.
        OSError: the file does not exist or cannot be read.
    """
    with open(path, "rb") as file:
        return _parse_header(file.read(_header_length(file.read(_LENGTH))), schema)[1]


def _header_length(field: bytes) -> int:
    length = int.from_bytes(field, "little")
    if not len(_OPENING) < length <= HEADER_BYTES:
        raise CorruptFile(f"a header of {length} bytes")
    return length


def _parse_header(header: bytes, schema: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parse a header; returns all of it, and the record in it."""
    try:
        if not header.startswith(_OPENING):
            raise ValueError("it does not begin with a digest")
        values = parse_object(header)
        metadata = values["__metadata__"]
        if metadata["schema"] != schema:
            raise ValueError(f"schema {str(metadata['schema'])[:80]!r}, not {schema!r}")
        return values, parse_object(metadata["record"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"no readable header: {error!r}") from error


def _arrays(table: Mapping[str, Any], body: memoryview) -> Arrays:
    """Views of the arrays in the body of a file; they must fill it, one behind the other."""
    arrays: Arrays = {}
    end = 0
    # Sorted, because the order of keys in the header is free.
    for name, entry in sorted(table.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"]
        # A bool is an int for Python, and two negative sides have a positive product.
        if len(shape) > _MOST_AXES or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("impossible shape")
        start, stop = entry["data_offsets"]
        if start != end or stop - start != math.prod(shape) * dtype.itemsize:
            raise ValueError("arrays overlap, leave a gap, or do not fit their bytes")
        # A view: one file takes its size in memory once, however many arrays are read.
        arrays[name] = np.ndarray(tuple(shape), dtype, body, start)
        end = stop
    if end != len(body):
        raise ValueError(f"arrays of {end} bytes in a file that has {len(body)}")
    return arrays


# --- specs ---------------------------------------------------------------------------------------


class AtMost(NamedTuple):
    """A side of an array that may be shorter; sides of one name must have one length."""

    length: int
    name: str


@dataclass(frozen=True)
class ArraySpec:
    """The dtype, shape and values that an array must have."""

    dtype: str
    shape: tuple[int | AtMost, ...]
    values: range | None = None
    """Allowed values of integers; `None` allows any."""
    required: bool = True
    """Whether a file without the array is corrupt."""

    @property
    def largest_shape(self) -> tuple[int, ...]:
        """Shape of the largest such array."""
        return tuple(side.length if isinstance(side, AtMost) else side for side in self.shape)

    def matches(self, array: NDArray[Any], lengths: dict[str, int]) -> bool:
        """Whether an array has this dtype and shape.

        Args:
            array: the array.
            lengths: lengths of named sides that are known; those of this array are added.
        """
        if array.dtype != np.dtype(self.dtype) or array.ndim != len(self.shape):
            return False
        return all(
            side <= wanted.length and side == lengths.setdefault(wanted.name, side)
            if isinstance(wanted, AtMost)
            else side == wanted
            for wanted, side in zip(self.shape, array.shape, strict=True)
        )

    def allows(self, array: NDArray[Any]) -> bool:
        """Whether all values of an array are allowed."""
        values = self.values
        if values is None or not array.size:
            return True
        return len(values) > 0 and values[0] <= array.min() and array.max() <= values[-1]


def largest_file(specs: Iterable[ArraySpec]) -> int:
    """Size of the largest file with such arrays, in bytes."""
    sizes = (math.prod(spec.largest_shape) * np.dtype(spec.dtype).itemsize for spec in specs)
    return sum(sizes) + _SPARE_BYTES


def conforming(arrays: Arrays, specs: Mapping[str, ArraySpec]) -> Arrays:
    """Select the arrays that have a spec, and check them against it.

    Raises:
        CorruptFile: an array does not conform, or a required one is missing.
    """
    # Dtypes and shapes come from the header, so values are read only if all of them match.
    lengths: dict[str, int] = {}
    for name, spec in specs.items():
        if name not in arrays:
            if spec.required:
                raise CorruptFile(f"there is no array {name!r}")
        elif not spec.matches(arrays[name], lengths):
            array = arrays[name]
            raise CorruptFile(f"array {name!r} is {array.dtype} {list(array.shape)}")
    chosen = {name: arrays[name] for name in specs if name in arrays}
    for name, array in chosen.items():
        if not specs[name].allows(array):
            raise CorruptFile(f"array {name!r} holds values outside {specs[name].values}")
    return chosen
